"""An update of a convolution: this project, a loop over `nn.Conv2d`, and grouped convolutions, in turn.

    python -m benchmarks.convolution [--agents 16]

MinAtar's network (3 x 3, 16 filters, 128) on random bits of 10 x 10 x 4, with AdamW, a target network and its Polyak
average. The two others get their gradients from autograd. CPU time of one thread, the median of rounds in which each
takes its turn, and the rate of a large matrix product of the same rounds.
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from itertools import cycle
from typing import Any, Final

import torch
from torch import Tensor, nn

from benchmarks.harness import table, write
from dqn.config import DQNConfig
from dqn.experience.transitions import Batch
from dqn.learning.learner import Learner
from dqn.networks.making import body_of
from dqn.networks.population import QNetworks
from dqn.training.machine import torch_threads

SHAPE: Final = (10, 10, 4)
ACTIONS: Final = 3
TAU: Final = 0.01
ROUNDS: Final = 15
UPDATES: Final = 4
"""Updates of a turn."""
LARGE: Final = 1_024

Q = Callable[[Tensor], Tensor]
"""Q-values `[A, B, actions]` of images `[A, B, channels, height, width]`."""


class Grouped(nn.Module):
    """A networks as one, with a group for each in the convolution."""

    def __init__(self, agents: int) -> None:
        super().__init__()
        self.agents = agents
        self.convolution = nn.Conv2d(agents * SHAPE[2], agents * 16, 3, groups=agents)
        self.hidden = nn.Parameter(torch.randn(agents, 1_024, 128) / 32)
        self.hidden_bias = nn.Parameter(torch.zeros(agents, 1, 128))
        self.last = nn.Parameter(torch.randn(agents, 128, ACTIONS) / 11)
        self.last_bias = nn.Parameter(torch.zeros(agents, 1, ACTIONS))

    def forward(self, images: Tensor) -> Tensor:
        """As in `Q`."""
        together = self.convolution(images.transpose(0, 1).flatten(1, 2)).relu()
        features = torch.unflatten(together, 1, (self.agents, -1)).transpose(0, 1).flatten(2)
        return torch.baddbmm(self.last_bias, torch.baddbmm(self.hidden_bias, features, self.hidden).relu(), self.last)


class Looped(nn.Module):
    """A networks, one after the other."""

    def __init__(self, agents: int) -> None:
        super().__init__()
        self.agents = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(SHAPE[2], 16, 3),
                nn.ReLU(),
                nn.Flatten(),
                nn.Linear(1_024, 128),
                nn.ReLU(),
                nn.Linear(128, ACTIONS),
            )
            for _ in range(agents)
        )

    def forward(self, images: Tensor) -> Tensor:
        """As in `Q`."""
        return torch.stack([agent(own) for agent, own in zip(self.agents, images, strict=True)])


def by_autograd(networks: nn.Module, *, double: bool) -> Callable[[Batch], None]:
    """An update as textbooks write it, for networks of any kind."""
    target = copy.deepcopy(networks)
    optimizer = torch.optim.AdamW(networks.parameters(), lr=1e-3, weight_decay=0.0, fused=True)
    online_tensors: list[Tensor] = list(networks.parameters())
    target_tensors: list[Tensor] = list(target.parameters())

    def images(observation: Tensor) -> Tensor:
        return torch.unflatten(observation, 2, SHAPE).permute(0, 1, 4, 2, 3).float()

    def update(batch: Batch) -> None:
        with torch.no_grad():
            following = images(batch.next_observation)
            q_next = target(following)
            action = (networks(following) if double else q_next).argmax(2, keepdim=True)
            returns = batch.reward + batch.discount * q_next.gather(2, action).squeeze(2)
        q_value = networks(images(batch.observation)).gather(2, batch.action.unsqueeze(2)).squeeze(2)
        optimizer.zero_grad()
        (q_value - returns).square().mean(1).sum().backward()
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(target_tensors, online_tensors, TAU)

    return update


def ours(agents: int, *, double: bool) -> Callable[[Batch], None]:
    """This project's update."""
    config = DQNConfig(
        body="conv", hidden_sizes=(128,), double_dqn=double, target_update_interval=0, tau=TAU, weight_decay=0.0
    )
    networks = QNetworks.initialised(seeds=range(agents), body=body_of(config, SHAPE), num_actions=ACTIONS)
    learner = Learner(config, networks)

    def update(batch: Batch) -> None:
        learner.update(batch)

    return update


def batch_of(agents: int, size: int) -> Batch:
    """Random transitions of which a twelfth of the bits are set."""
    bits = torch.rand(2, agents, size, torch.Size(SHAPE).numel()) < 1 / 12
    return Batch(
        observation=bits[0],
        action=torch.randint(ACTIONS, (agents, size)),
        reward=(torch.rand(agents, size) < 0.1).float(),
        next_observation=bits[1],
        discount=torch.full((agents, size), 0.97),
    )


def measured(agents: int, size: int, *, double: bool) -> list[dict[str, Any]]:
    """One row for each way, in CPU-ms an agent."""
    batches = cycle([batch_of(agents, size) for _ in range(8)])
    left, right = torch.randn(2, LARGE, LARGE)
    ways: dict[str, Callable[[Batch], object]] = {
        "this project": ours(agents, double=double),
        "loop over nn.Conv2d": by_autograd(Looped(agents), double=double),
        "grouped": by_autograd(Grouped(agents), double=double),
        "large product": lambda _: torch.mm(left, right),
    }
    spent: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(ROUNDS):
        for way, work in ways.items():
            work(next(batches))  # what the last one left in the caches
            begin = time.process_time()
            for _ in range(UPDATES):
                work(next(batches))
            spent[way].append((time.process_time() - begin) / UPDATES)
    rate = 2 * LARGE**3 / statistics.median(spent.pop("large product"))
    # Products of the convolution and of the hidden layer: one pass each of target and online networks, one more by
    # weights, and that of the hidden layer by its input.
    passes = (3 + double, 4 + double)
    operations = 2 * size * (passes[0] * 64 * 16 * 36 + passes[1] * 1_024 * 128)
    return [
        {
            "update": way,
            "agents": agents,
            "batch": size,
            "double": double,
            "CPU-ms an agent": 1e3 * statistics.median(seconds) / agents,
            "least": 1e3 * min(seconds) / agents,
            "most": 1e3 * max(seconds) / agents,
            "share of a large product's rate": operations * agents / statistics.median(seconds) / rate,
            "that rate, GFLOP/s": rate / 1e9,
        }
        for way, seconds in spent.items()
    ]


def main() -> None:
    """Measure, print the table and write it to `results/convolution.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", type=int, nargs="+", default=[16])
    arguments = parser.parse_args()
    torch.manual_seed(0)
    rows = []
    with torch_threads(1):
        for agents in arguments.agents:
            rows += measured(agents, 32, double=False) + measured(agents, 64, double=True)  # the second as the preset's
    print(table(rows))
    print(f"written to {write('convolution', rows)}")


if __name__ == "__main__":
    main()
