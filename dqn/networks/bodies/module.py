"""A body of one's own: any `torch.nn.Module`, for all agents at once by vmap, with gradients by autograd."""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from dqn.config import ConfigError
from dqn.networks.bodies.body import Tensors

MakeModule = Callable[[tuple[int, ...]], nn.Module]
"""Makes the body of one agent: `make(observation_shape)` maps `[B, *observation_shape]` to features `[B, F]`."""


@dataclass(frozen=True, kw_only=True)
class ModuleBody:
    """The parameters of each agent are one row of `weights`; there are no `biases`. All agents share the buffers.

    A parameter `[d, ...]` is stored as `[A, d, .]`, so that what is computed for every tensor of a population needs no
    other shapes. The module is in evaluation mode: dropout does nothing, and batch normalisation does not learn.
    """

    observation_shape: tuple[int, ...]
    make: MakeModule
    module: nn.Module = field(compare=False, repr=False)
    """One that `make` returned, with the buffers of all agents; its own parameters are not used."""
    num_features: int
    num_activations: int

    @property
    def num_parameters(self) -> int:
        """Entries of all parameters."""
        return sum(parameter.numel() for parameter in self.module.parameters())

    def initialised(self, generators: Sequence[torch.Generator]) -> tuple[list[Tensor], list[Tensor]]:
        """As in `Body`; each agent's module is made under a seed that its generator draws."""
        agents = []
        for generator in generators:
            seed = int(torch.randint(2**62, (), generator=generator))
            module = _made(self.make, self.observation_shape, seed=seed)
            agents.append([parameter.detach() for parameter in module.parameters()])
        return [torch.stack(each).view(len(agents), *_rows(each[0])) for each in zip(*agents, strict=True)], []

    def features(self, weights: Tensors, biases: Tensors, observation: Tensor) -> Tensor:
        """As in `Body`."""
        named = {
            name: weight.view(-1, *parameter.shape)
            for (name, parameter), weight in zip(self.module.named_parameters(), weights, strict=True)
        }
        buffers = {name: buffer.to(observation.device) for name, buffer in self.module.named_buffers()}
        images = torch.unflatten(observation.mT, 2, self.observation_shape)
        features: Tensor = vmap(lambda own, given: functional_call(self.module, own | buffers, (given,)))(named, images)
        return features.mT

    def activations(self, weights: Tensors, biases: Tensors, observation: Tensor) -> list[Tensor]:
        """The copies of the weights that autograd follows, then the features."""
        followed = [weight.detach().requires_grad_(True) for weight in weights]
        with torch.enable_grad():
            return [*followed, self.features(followed, biases, observation)]

    def backward(self, weights: Tensors, biases: Tensors, activations: Tensors, gradient: Tensor) -> None:
        """As in `Body`."""
        *followed, features = activations
        gradients = torch.autograd.grad(features, followed, gradient, allow_unused=True, materialize_grads=True)
        for weight, of_weight in zip(weights, gradients, strict=True):
            weight.grad = of_weight.contiguous()  # the fused AdamW reads memory, whatever the strides are

    def modules(self, weights: Tensors, biases: Tensors) -> list[nn.Module]:
        """As in `Body`."""
        module = copy.deepcopy(self.module)
        for parameter, weight in zip(module.parameters(), weights, strict=True):
            parameter.data = weight.detach().view_as(parameter).clone()
        return [nn.Unflatten(1, self.observation_shape), module] if len(self.observation_shape) > 1 else [module]


def module_body(make: MakeModule, observation_shape: tuple[int, ...]) -> ModuleBody:
    """The body that `make` makes for observations of a shape.

    Raises:
        ConfigError: if the module does not map two observations to two rows of features, or has a parameter that does
            not require a gradient.
    """
    module = _made(make, observation_shape, seed=0)  # equal buffers in every process
    if frozen := [name for name, parameter in module.named_parameters() if not parameter.requires_grad]:
        raise ConfigError(f"body has the parameter {frozen[0]} without a gradient, and all are learned: use a buffer")
    kept: list[int] = []
    hooks = [each.register_forward_hook(lambda *called: kept.append(_numbers(called[2]))) for each in module.modules()]
    with torch.no_grad():
        features = module(torch.zeros(2, *observation_shape))
    for hook in hooks:
        hook.remove()
    shape = list(features.shape) if isinstance(features, Tensor) else type(features).__name__
    if not isinstance(features, Tensor) or features.ndim != 2 or len(features) != 2:
        raise ConfigError(f"body must map observations {[2, *observation_shape]} to features [2, F], got {shape}")
    return ModuleBody(
        observation_shape=observation_shape,
        make=make,
        module=module,
        num_features=features.shape[1],
        num_activations=math.prod(observation_shape) + sum(kept) // 2,
    )


@torch.no_grad()
def _made(make: MakeModule, observation_shape: tuple[int, ...], *, seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        module = make(observation_shape).eval()
        module(torch.zeros(2, *observation_shape))  # lazy modules draw their parameters now
    return module


def _numbers(output: object) -> int:
    return output.numel() if isinstance(output, Tensor) else 0


def _rows(parameter: Tensor) -> tuple[int, int]:
    """The shape of a parameter as rows: `[d, ...]` as `[d, .]`."""
    rows = parameter.shape[0] if parameter.ndim > 1 else parameter.numel()
    return rows, parameter.numel() // rows
