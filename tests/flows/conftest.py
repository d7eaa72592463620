import torch

torch.set_num_threads(1)  # the machine's other cores run other tests; results depend on the number
