"""Q-networks of a population as batched matrices."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dqn.config import ConfigError
from dqn.hyperparameters import Value, column
from dqn.networks.bodies.body import Body, linear, outer, uniform_layer
from dqn.networks.heads import Head, Mean


class QNetworks(nn.Module):
    """A independent networks: a body, a last layer and a head, evaluated by one batched product per layer.

    The last layer has `nn.Linear`'s layout behind the agent axis: weight `[A, out, F]`, bias `[A, out, 1]`. The body's
    tensors come before them in `weights` and `biases`. With dueling heads (Wang et al., 2016, equation 9) the last
    layer outputs the state value, then each action's advantage. Each of these may consist of several outputs, from
    which the head computes a Q-value. Gradients are computed by `backward`; no parameter requires an autograd gradient.
    """

    observation_scale: Tensor

    def __init__(
        self,
        weights: Sequence[Tensor],
        biases: Sequence[Tensor],
        observation_scale: Tensor,
        *,
        body: Body,
        head: Head = Mean(),  # noqa: B008 # frozen
        dueling: bool = False,
    ) -> None:
        super().__init__()
        self.body, self.head, self.dueling = body, head, dueling
        self.weights = nn.ParameterList([nn.Parameter(w, requires_grad=False) for w in weights])
        self.biases = nn.ParameterList([nn.Parameter(b, requires_grad=False) for b in biases])
        self.register_buffer("observation_scale", observation_scale)
        # nn.Module looks up each parameter by name: a fifth of the time of an update of a single agent.
        self._scale, weights, biases = observation_scale, list(self.weights), list(self.biases)
        self._of_body, self._last = (weights[:-1], biases[:-1]), (weights[-1], biases[-1])
        self.tensors: list[Tensor] = [*weights, *biases]
        """All parameters, `[A, ., .]` each."""

    @classmethod
    def initialised(
        cls,
        *,
        seeds: Sequence[int],
        body: Body,
        num_actions: int,
        head: Head = Mean(),  # noqa: B008 # frozen
        dueling: bool = False,
        observation_scale: Sequence[float] = (),
        initial_q: Value = 0.0,
    ) -> "QNetworks":
        """One network per seed, which alone decides that agent's draws.

        Observations are divided by `observation_scale`: one number for all entries, or one for each; empty for 1.
        `initial_q` is added to the outputs.

        Raises:
            ConfigError: if `observation_scale` has another length.
        """
        size = torch.Size(body.observation_shape).numel()
        scale = torch.tensor(observation_scale or (1.0,), dtype=torch.float32)
        if len(scale) not in (1, size):
            raise ConfigError(f"observation_scale has {len(scale)} entries for observations of {size}")
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        weights, biases = body.initialised(generators)
        weight, bias = uniform_layer(body.num_features, (num_actions + dueling) * head.num_outputs, generators)
        bias += column(initial_q, bias.device)
        scale = scale.expand(size).contiguous()
        return cls([*weights, weight], [*biases, bias], scale, body=body, head=head, dueling=dueling)

    @property
    def num_agents(self) -> int:
        """Number of agents, A."""
        return int(self._last[1].shape[0])

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""
        return self.observation_scale.device

    @property
    def num_actions(self) -> int:
        """Number of actions."""
        return int(self._last[1].shape[1]) // self.head.num_outputs - self.dueling

    def forward(self, observation: Tensor) -> Tensor:
        """Q-values `[A, B, actions]` of flat observations `[A, B, obs]`."""
        weight, bias = self._value_layer()
        last = torch.baddbmm(bias, weight, self.body.features(*self._of_body, self._scaled(observation)))
        return last.mT if self.head.is_mean else self.head.q_values(self.by_action(last))

    def outputs(self, observation: Tensor) -> Tensor:
        """Outputs `[A, B, actions, N]` of flat observations `[A, B, obs]`; the head makes Q-values of them."""
        weight, bias = self._last_layer()
        features = self.body.features(*self._of_body, self._scaled(observation))
        return self.by_action(torch.baddbmm(bias, weight, features))

    def by_action(self, last: Tensor) -> Tensor:
        """The last activations `[A, actions x N, B]` as a view `[A, B, actions, N]`."""
        return self._by_action(last).permute(0, 3, 1, 2)

    def activations(self, observation: Tensor) -> list[Tensor]:
        """The body's activations, of which the last ones are the features, then the outputs `[A, actions x N, B]`.

        `backward` needs all of them.
        """
        activations = self.body.activations(*self._of_body, self._scaled(observation))
        weight, bias = self._last_layer()
        return [*activations, torch.baddbmm(bias, weight, activations[-1])]

    @torch.no_grad()
    def backward(self, activations: Sequence[Tensor], gradient: Tensor) -> None:
        """Set every parameter's gradient, given the gradient by the last activations `[A, actions x N, B]`."""
        self._set_last_gradient(outer(gradient, activations[-2]), gradient.sum(2, keepdim=True))
        weights, biases = self._of_body
        if weights:
            gradient = torch.bmm(self._last_layer()[0].mT, gradient)
            self.body.backward(weights, biases, activations[:-1], gradient)

    def _scaled(self, observation: Tensor) -> Tensor:
        return (observation / self._scale).mT

    def _by_action(self, last: Tensor) -> Tensor:
        """`[A, actions x N, .]` as a view `[A, actions, N, .]`."""
        return torch.unflatten(last, 1, (-1, self.head.num_outputs))

    def _last_layer(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of the last layer; dueling heads are folded into it."""
        if not self.dueling:
            return self._last
        weight, bias = (
            head[:, :1] + head[:, 1:] - head[:, 1:].mean(1, keepdim=True) for head in map(self._by_action, self._last)
        )
        return weight.flatten(1, 2), bias.flatten(1, 2)

    def _value_layer(self) -> tuple[Tensor, Tensor]:
        """Like `_last_layer`; a head that takes means is folded into it, and it outputs Q-values."""
        weight, bias = self._last_layer()
        if not self.head.is_mean or self.head.num_outputs == 1:
            return weight, bias
        return self._by_action(weight).mean(2), self._by_action(bias).mean(2)

    def _set_last_gradient(self, weight: Tensor, bias: Tensor) -> None:
        if self.dueling:
            weight, bias = (
                torch.cat([folded.sum(1, keepdim=True), folded - folded.mean(1, keepdim=True)], 1).flatten(1, 2)
                for folded in map(self._by_action, (weight, bias))
            )
        self._last[0].grad, self._last[1].grad = weight, bias

    def select(self, agents: Tensor) -> "QNetworks":
        """A copy of the networks of `agents`, an index tensor `[K]`, in that order."""
        weights, biases = ([tensor.detach()[agents] for tensor in layer] for layer in (self.weights, self.biases))
        return self._with(weights, biases, self.observation_scale)

    def on(self, device: torch.device) -> "QNetworks":
        """These networks on a device; `self` if they are already there."""
        if device == self.device:
            return self
        weights, biases = ([tensor.detach().to(device) for tensor in layer] for layer in (self.weights, self.biases))
        return self._with(weights, biases, self.observation_scale.to(device))

    def _with(self, weights: Sequence[Tensor], biases: Sequence[Tensor], scale: Tensor) -> "QNetworks":
        return QNetworks(weights, biases, scale, body=self.body, head=self.head, dueling=self.dueling)

    @torch.no_grad()
    def assign(self, agents: Tensor, networks: "QNetworks") -> None:
        """Overwrite the networks of `agents` `[K]` with K given ones."""
        for mine, given in zip(self.tensors, networks.tensors, strict=True):
            mine[agents] = given

    def agent(self, k: int) -> nn.Sequential:
        """Network of agent k alone, `[B, *observation_shape] -> [B, actions]`, made of PyTorch's modules."""
        weight, bias = self._value_layer()
        before: list[nn.Module] = [nn.Flatten()] if len(self.body.observation_shape) > 1 else []
        weights, biases = ([tensor[k] for tensor in tensors] for tensors in self._of_body)
        return nn.Sequential(
            *before,
            ObservationScale(self.observation_scale.clone()),
            *self.body.modules(weights, biases),
            linear(weight[k], bias[k]),
            *([] if self.head.is_mean else [self.head.module()]),
        )


class ObservationScale(nn.Module):
    """Divides observations `[..., obs]` by a fixed scale `[obs]`."""

    scale: Tensor

    def __init__(self, scale: Tensor) -> None:
        super().__init__()
        self.register_buffer("scale", scale)

    def forward(self, observation: Tensor) -> Tensor:
        """The scaled observations, in the same shape."""
        return observation / self.scale


def together(networks: Sequence[QNetworks]) -> QNetworks:
    """Concatenate populations of networks of one shape."""
    weights = [torch.cat(layer) for layer in zip(*(each.weights for each in networks), strict=True)]
    biases = [torch.cat(layer) for layer in zip(*(each.biases for each in networks), strict=True)]
    return networks[0]._with(weights, biases, networks[0].observation_scale)


def greedy_action(q_values: Tensor) -> Tensor:
    """Greedy actions `[...]` of Q-values `[..., actions]`; ties go to the first action."""
    if q_values.shape[-1] == 2:  # a reduction over 2 entries is 50 times slower than comparing two columns
        return (q_values[..., 1] > q_values[..., 0]).long()
    return q_values.argmax(-1)
