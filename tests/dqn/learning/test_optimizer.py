import torch

from dqn.config import DQNConfig
from dqn.hyperparameters import HyperParameters
from dqn.learning.optimizer import Optimizer
from dqn.networks.bodies.mlp import MLP
from dqn.networks.population import QNetworks


def networks() -> QNetworks:
    made = QNetworks.initialised(seeds=range(3), body=MLP(observation_shape=(4,), hidden_sizes=(8,)), num_actions=2)
    return made.select(torch.arange(3)).requires_grad_(True)


def set_gradients(network: QNetworks, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        whole = torch.randn((3, *parameter.shape[1:]), generator=generator)
        parameter.grad = whole[: parameter.shape[0]].clone()


def test_it_steps_as_pytorchs_adamw_does_also_when_agents_have_left_and_it_was_saved() -> None:
    config = DQNConfig(
        learning_rate=0.1,
        learning_rate_end=0.01,
        learning_rate_decay_updates=4,
        weight_decay=0.1,
        adam_betas=(0.8, 0.95),
        adam_eps=1e-4,
    )
    mine, theirs = networks(), networks()
    optimizer = Optimizer(mine, HyperParameters.of([config]), decay_updates=4)
    oracle = torch.optim.AdamW(theirs.parameters(), lr=0.1, fused=True, weight_decay=0.1, betas=(0.8, 0.95), eps=1e-4)
    for step in range(6):
        if step == 2:
            mine = mine.select(torch.arange(2))
            optimizer = optimizer.select(torch.arange(2), mine)
        if step == 4:
            again = Optimizer(mine, HyperParameters.of([config]), decay_updates=4)
            again.load_state_dict(optimizer.state_dict())
            optimizer = again
        set_gradients(mine, step)
        set_gradients(theirs, step)
        optimizer.step(step)
        oracle.param_groups[0]["lr"] = 0.1 + (0.01 - 0.1) * min(step / 4, 1.0)
        oracle.step()
        for parameter, expected in zip(mine.parameters(), theirs.parameters(), strict=True):
            assert torch.equal(parameter, expected[: mine.num_agents])
