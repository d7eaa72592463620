"""What a body is: the part of a Q-network between the observation and the last layer."""

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

Tensors = Sequence[Tensor]


class Body(Protocol):
    """A function from observations to features, the same for all agents, without tensors of its own.

    The population has the tensors, which are `[A, ., .]` each: it selects, averages, stores and optimises them. They
    come in two lists, `weights` and `biases`; a body decides how many there are in each. Observations and features have
    the batch innermost, `[A, ., B]`.
    """

    @property
    def observation_shape(self) -> tuple[int, ...]:
        """Shape of an observation in the environment and in the exported model; a population takes it flat."""

    @property
    def num_features(self) -> int:
        """Number of features, F."""

    @property
    def num_parameters(self) -> int:
        """Number of parameters of an agent."""

    @property
    def num_activations(self) -> int:
        """Numbers that `activations` keeps for each observation."""

    def initialised(self, generators: Sequence[torch.Generator]) -> tuple[list[Tensor], list[Tensor]]:
        """Weights and biases of one agent for each generator, which alone decides that agent's."""

    def features(self, weights: Tensors, biases: Tensors, observation: Tensor) -> Tensor:
        """Features `[A, F, B]` of flat observations `[A, obs, B]`."""

    def activations(self, weights: Tensors, biases: Tensors, observation: Tensor) -> list[Tensor]:
        """What `backward` needs, the features last."""

    def backward(self, weights: Tensors, biases: Tensors, activations: Tensors, gradient: Tensor) -> None:
        """Set the gradients of weights and biases, given the one by the features `[A, F, B]`; once for activations."""

    def modules(self, weights: Tensors, biases: Tensors) -> list[nn.Module]:
        """One agent's body as modules in sequence, for flat observations `[B, obs]`; the tensors are that agent's."""


def uniform_layer(fan_in: int, fan_out: int, generators: Sequence[torch.Generator]) -> tuple[Tensor, Tensor]:
    """A weight `[A, out, in]` and a bias `[A, out, 1]`, uniform in +-1/sqrt(in) as in `nn.Linear.reset_parameters`."""
    bound = 1 / math.sqrt(fan_in)
    uniform = [torch.rand(fan_out, fan_in + 1, generator=generator) for generator in generators]
    layer = (torch.stack(uniform) * 2 - 1) * bound
    return layer[:, :, :-1].contiguous(), layer[:, :, -1:].contiguous()


def outer(gradient: Tensor, given: Tensor, *, out: Tensor | None = None) -> Tensor:
    """`gradient @ given.mT` `[A, out, in]` of `[A, out, B]` and `[A, in, B]`, in the faster order of the factors.

    `out` may be overwritten: a large tensor that is made anew costs page faults, which take as long as the product.
    """
    if given.shape[1] < gradient.shape[1]:  # three times faster for 4 inputs and 32 outputs
        return torch.bmm(given, gradient.mT).mT.contiguous()
    return torch.bmm(gradient, given.mT, out=out)


def before_relu(gradient: Tensor, activation: Tensor) -> Tensor:
    """The gradient by the input of a ReLU, given the one by its output, `activation`."""
    before: Tensor = torch.ops.aten.threshold_backward(gradient, activation, 0)
    return before


def linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    """The layer of one agent, from its weight `[out, in]` and bias `[out, 1]`."""
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.load_state_dict({"weight": weight.detach().clone(), "bias": bias[:, 0].detach().clone()})
    return layer
