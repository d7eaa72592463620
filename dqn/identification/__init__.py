"""Which world explains a record of transitions. Imports no PyTorch, because serving uses this package too."""
