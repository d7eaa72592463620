"""Small convolutional networks for images, with a backward pass written by hand."""

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from dqn.networks.bodies.body import Tensors, before_relu, outer, uniform_layer
from dqn.networks.bodies.mlp import MLP, dense_backward

FILTERS: Final = 16
KERNEL: Final = 3
_CACHED: Final = 2**18
"""Entries of patches that are made at once on a CPU, a megabyte, so that they are still in its cache when used."""


@dataclass(frozen=True, kw_only=True)
class Conv:
    """One convolution, 16 filters of 3 x 3 with stride 1 and ReLU, then hidden layers as in `MLP`.

    This is the network of MinAtar (Young and Tian, 2019) with one hidden layer of 128. An image `[height, width, C]` is
    unfolded into patches, so that the convolution is one more matrix product: its weight is `[A, 16, C x 9]`, laid out
    as that of `nn.Conv2d`. Its output is already the input of the next layer, because the batch is innermost. Patches
    are nine times as large as the image. They are made for a few agents at a time, and again in the backward pass,
    which takes less time than to write all of them to memory and to read them twice.
    """

    observation_shape: tuple[int, ...]
    hidden_sizes: tuple[int, ...]

    @property
    def num_features(self) -> int:
        """Width of the last hidden layer; without one, of the flattened convolution."""
        return self._dense.num_features

    @property
    def num_parameters(self) -> int:
        """Weights and biases of all layers."""
        return (self._fan_in + 1) * FILTERS + self._dense.num_parameters

    @property
    def num_activations(self) -> int:
        """The observation, its patches, which are not kept, and the output of each layer."""
        return math.prod(self.observation_shape) + self._num_patches * self._fan_in + self._dense.num_activations

    @property
    def _dense(self) -> MLP:
        return MLP(observation_shape=(FILTERS * self._num_patches,), hidden_sizes=self.hidden_sizes)

    @property
    def _num_patches(self) -> int:
        height, width, _ = self.observation_shape
        return (height - KERNEL + 1) * (width - KERNEL + 1)

    @property
    def _fan_in(self) -> int:
        return self.observation_shape[-1] * KERNEL**2

    def initialised(self, generators: Sequence[torch.Generator]) -> tuple[list[Tensor], list[Tensor]]:
        """As in `Body`; layer by layer, as `nn.Conv2d` and `nn.Linear` do."""
        weight, bias = uniform_layer(self._fan_in, FILTERS, generators)
        weights, biases = self._dense.initialised(generators)
        return [weight, *weights], [bias, *biases]

    def features(self, weights: Tensors, biases: Tensors, observation: Tensor) -> Tensor:
        """As in `Body`."""
        return self.activations(weights, biases, observation)[-1]

    def activations(self, weights: Tensors, biases: Tensors, observation: Tensor) -> list[Tensor]:
        """The flat images, and each layer's output, the first `[A, 16 x P, B]`."""
        images = observation.contiguous()
        convolved = [
            torch.baddbmm(biases[0][some], weights[0][some], self._patches(images[some])).relu_()
            for some in self._in_turn(images)
        ]
        flat = torch.cat(convolved).view(len(images), -1, images.shape[2])
        return [images, *self._dense.activations(weights[1:], biases[1:], flat)]

    def backward(self, weights: Tensors, biases: Tensors, activations: Tensors, gradient: Tensor) -> None:
        """As in `Body`."""
        images, convolved, *_ = activations
        if self.hidden_sizes:
            gradient = dense_backward(weights[1:], biases[1:], activations[1:], gradient, reuse=True)
        weights[0].grad, biases[0].grad = torch.empty_like(weights[0]), torch.empty_like(biases[0])
        for some in self._in_turn(images):
            output = torch.bmm(weights[1][some].mT, gradient[some]) if self.hidden_sizes else gradient[some]
            output = before_relu(output, convolved[some]).view(len(output), FILTERS, -1)
            weights[0].grad[some] = outer(output, self._patches(images[some]))
            torch.sum(output, 2, keepdim=True, out=biases[0].grad[some])

    def modules(self, weights: Tensors, biases: Tensors) -> list[nn.Module]:
        """As in `Body`."""
        convolution = nn.Conv2d(self.observation_shape[-1], FILTERS, KERNEL)
        weight = weights[0].detach().view_as(convolution.weight).clone()
        convolution.load_state_dict({"weight": weight, "bias": biases[0][:, 0].detach().clone()})
        before = [ChannelsFirst(self.observation_shape), convolution, nn.ReLU(), nn.Flatten()]
        return [*before, *self._dense.modules(weights[1:], biases[1:])]

    def _in_turn(self, images: Tensor) -> Iterator[slice]:
        """The agents of flat images `[A, ., B]`, a few at a time."""
        agents = len(images)
        few = max(1, _CACHED // (self._num_patches * self._fan_in * images.shape[2]))
        at_once = few if images.device.type == "cpu" else agents
        return (slice(first, first + at_once) for first in range(0, agents, at_once))

    def _patches(self, images: Tensor) -> Tensor:
        """Patches `[A, C x 9, P x B]` of flat images `[A, height x width x C, B]`."""
        entries = _entries(self.observation_shape, images.device)
        return images.index_select(1, entries).view(len(images), self._fan_in, -1)


@functools.lru_cache(maxsize=8)
def _entries(shape: tuple[int, ...], device: torch.device) -> Tensor:
    """The entry of a flat image at each entry of its patches, `[C x 9 x P]`."""
    entries = torch.arange(math.prod(shape), device=device).view(shape)
    patches = entries.unfold(0, KERNEL, 1).unfold(1, KERNEL, 1)  # [height - 2, width - 2, C, 3, 3]
    return patches.permute(2, 3, 4, 0, 1).flatten()


class ChannelsFirst(nn.Module):
    """Flat images `[B, height x width x C]` as `[B, C, height, width]`."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, observation: Tensor) -> Tensor:
        """The images with their channels first."""
        return torch.unflatten(observation, 1, self.shape).permute(0, 3, 1, 2)
