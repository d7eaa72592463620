"""Small convolutional networks for images, with a backward pass written by hand."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from dqn.networks.bodies.body import Tensors, before_relu, outer, uniform_layer
from dqn.networks.bodies.mlp import MLP, dense_backward

FILTERS: Final = 16
KERNEL: Final = 3


@dataclass(frozen=True, kw_only=True)
class Conv:
    """One convolution, 16 filters of 3 x 3 with stride 1 and ReLU, then hidden layers as in `MLP`.

    This is the network of MinAtar (Young and Tian, 2019) with one hidden layer of 128. An image `[height, width, C]` is
    unfolded into patches, so that the convolution is one more matrix product: its weight is `[A, 16, C x 9]`, laid out
    as that of `nn.Conv2d`. Its output is already the input of the next layer, because the batch is innermost.
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
        """The observation, its patches and the output of each layer."""
        height, width, channels = self.observation_shape
        return height * width * channels + self._num_patches * self._fan_in + self._dense.num_activations

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
        """The patches `[A, C x 9, P x B]` of the images, and each layer's output, the first `[A, 16 x P, B]`."""
        patches = self._patches(observation)
        convolved = torch.baddbmm(biases[0], weights[0], patches).relu_()
        flat = convolved.view(len(convolved), -1, observation.shape[2])
        return [patches, *self._dense.activations(weights[1:], biases[1:], flat)]

    def backward(self, weights: Tensors, biases: Tensors, activations: Tensors, gradient: Tensor) -> None:
        """As in `Body`."""
        patches, convolved, *_ = activations
        if self.hidden_sizes:
            gradient = dense_backward(weights[1:], biases[1:], activations[1:], gradient, reuse=True)
            gradient = torch.bmm(weights[1].mT, gradient)
        gradient = before_relu(gradient, convolved).view(len(gradient), FILTERS, -1)
        weights[0].grad = outer(gradient, patches)
        biases[0].grad = gradient.sum(2, keepdim=True)

    def modules(self, weights: Tensors, biases: Tensors) -> list[nn.Module]:
        """As in `Body`."""
        convolution = nn.Conv2d(self.observation_shape[-1], FILTERS, KERNEL)
        weight = weights[0].detach().view_as(convolution.weight).clone()
        convolution.load_state_dict({"weight": weight, "bias": biases[0][:, 0].detach().clone()})
        before = [ChannelsFirst(self.observation_shape), convolution, nn.ReLU(), nn.Flatten()]
        return [*before, *self._dense.modules(weights[1:], biases[1:])]

    def _patches(self, observation: Tensor) -> Tensor:
        """Patches `[A, C x 9, P x B]` of flat images `[A, height x width x C, B]`."""
        images = torch.unflatten(observation.contiguous(), 1, self.observation_shape)
        patches = images.unfold(1, KERNEL, 1).unfold(2, KERNEL, 1)  # [A, height - 2, width - 2, C, B, 3, 3]
        unfolded: Tensor = patches.permute(0, 3, 5, 6, 1, 2, 4).reshape(len(images), self._fan_in, -1)
        return unfolded


class ChannelsFirst(nn.Module):
    """Flat images `[B, height x width x C]` as `[B, C, height, width]`."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, observation: Tensor) -> Tensor:
        """The images with their channels first."""
        return torch.unflatten(observation, 1, self.shape).permute(0, 3, 1, 2)
