"""Bodies and heads that tests run over."""

import torch
from torch import Tensor, nn

from dqn.networks.bodies.body import Body
from dqn.networks.bodies.conv import Conv
from dqn.networks.bodies.mlp import MLP
from dqn.networks.bodies.module import module_body
from dqn.networks.heads import Categorical, Head, Mean
from dqn.networks.population import QNetworks

IMAGE = (5, 4, 2)


def layers(observation_shape: tuple[int, ...]) -> nn.Module:
    """A body of one's own, of modules that are converted one by one."""
    size = torch.Size(observation_shape).numel()
    return nn.Sequential(nn.Flatten(), nn.Linear(size, 6), nn.LayerNorm(6), nn.Tanh(), nn.Linear(6, 5), nn.Sigmoid())


class Gated(nn.Module):
    """A body of one's own that only PyTorch's exporter converts, with a parameter of one axis and one of none."""

    def __init__(self, observation_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.linear = nn.Linear(torch.Size(observation_shape).numel(), 6, bias=False)
        self.shift, self.sharpness = nn.Parameter(torch.randn(6)), nn.Parameter(torch.tensor(0.5))

    def forward(self, observation: Tensor) -> Tensor:
        """Features `[B, 6]`."""
        linear: Tensor = self.linear(observation.flatten(1))
        return linear * torch.sigmoid(self.sharpness * linear + self.shift)


class Projected(nn.Module):
    """A body of one's own with a buffer that is drawn, and layers that draw their parameters at their first use."""

    projection: Tensor

    def __init__(self, observation_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.register_buffer("projection", torch.randn(torch.Size(observation_shape).numel(), 5))
        self.linear = nn.LazyLinear(6)

    def forward(self, observation: Tensor) -> Tensor:
        """Features `[B, 6]`."""
        features: Tensor = self.linear(torch.cos(observation.flatten(1) @ self.projection))
        return features


def pairs(observation_shape: tuple[int, ...]) -> nn.Module:
    """A body of one's own that applies known layers to more axes than their ONNX operators take."""
    return nn.Sequential(nn.Unflatten(1, (-1, 2)), nn.Linear(2, 3), nn.ReLU(), nn.Flatten())


BODIES: dict[str, Body] = {
    "mlp": MLP(observation_shape=(4,), hidden_sizes=(16, 8)),
    "linear": MLP(observation_shape=(4,), hidden_sizes=()),
    "mlp on images": MLP(observation_shape=IMAGE, hidden_sizes=(6,)),
    "conv": Conv(observation_shape=IMAGE, hidden_sizes=(7,)),
    "conv alone": Conv(observation_shape=IMAGE, hidden_sizes=()),
    "own layers": module_body(layers, (4,)),
    "own module": module_body(Gated, IMAGE),
    "own buffers": module_body(Projected, IMAGE),
    "own pairs": module_body(pairs, (4,)),
    "no parameters": module_body(lambda _: nn.Flatten(), IMAGE),
}
HEADS: dict[str, tuple[Head, bool]] = {
    "values": (Mean(), False),
    "dueling": (Mean(), True),
    "quantiles": (Mean(num_outputs=3), False),
    "atoms": (Categorical(num_outputs=5, low=-1.0, high=2.0), False),
    "dueling atoms": (Categorical(num_outputs=5, low=-1.0, high=2.0), True),
}
"""Each with whether it is dueling."""


def population(body: str, head: str = "values", *, num_agents: int = 3) -> QNetworks:
    """Networks of agents with three actions and observations scaled by 2."""
    outputs, dueling = HEADS[head]
    return QNetworks.initialised(
        seeds=range(num_agents),
        body=BODIES[body],
        num_actions=3,
        head=outputs,
        dueling=dueling,
        observation_scale=(2.0,),
    )


def observations(networks: QNetworks, batch: int = 10) -> Tensor:
    """Flat observations `[A, batch, obs]`."""
    generator = torch.Generator().manual_seed(1)
    size = torch.Size(networks.body.observation_shape).numel()
    return torch.randn(networks.num_agents, batch, size, generator=generator)
