"""Gradient updates of a population: TD targets, loss, optimizer and target networks."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dqn.config import ConfigError, DQNConfig
from dqn.experience.transitions import Batch
from dqn.finite import all_finite
from dqn.hyperparameters import HyperParameters, Value, column
from dqn.learning.losses import Loss, categorical, require_loss, td_gradient, td_loss, td_target
from dqn.learning.optimizer import Optimizer
from dqn.networks.population import QNetworks


@dataclass(frozen=True, kw_only=True)
class UpdateStatistics:
    """Statistics of one update, before the weights changed."""

    loss: Tensor
    """`[A, B]`"""
    priority: Tensor
    """`[A, B]`, for prioritised replay: the TD error, or the value of a custom loss"""
    q_value: Tensor
    """`[A, B]`, of the actions taken"""
    finite: bool
    """Whether the sum of all losses is finite."""


class Learner:
    """Online and target networks, optimizer, and the average of the weights for evaluation."""

    def __init__(self, config: DQNConfig, networks: QNetworks, hyperparameters: HyperParameters | None = None) -> None:
        """Start from a copy of `networks`; `hyperparameters` replace the configuration's values of the same names."""
        self._config = config
        self.hyperparameters = hyperparameters or HyperParameters.of([config])
        everyone = torch.arange(networks.num_agents)
        self.online = networks.select(everyone)
        self.target = networks.select(everyone)
        self._average = networks.select(everyone) if config.average_rate else None
        decay_updates = config.learning_rate_decay_updates
        self._optimizer = Optimizer(self.online, self.hyperparameters, decay_updates=decay_updates)
        self.updates = 0

    @property
    def evaluated(self) -> QNetworks:
        """The networks to evaluate and export: the averaged ones, or the online ones without averaging."""
        return self._average or self.online

    @torch.no_grad()
    def update(self, batch: Batch, loss: Loss | None = None) -> UpdateStatistics:
        """Take one gradient update of every agent on its own part of the batch, with the mean loss of the batch.

        The configuration's `loss` has a hand-written gradient; those of C51 and of a given `loss` come from autograd.
        """
        require_loss(self._config, loss)
        if loss is None and self._config.num_atoms:
            loss = categorical
        activations = self.online.activations(batch.observation)
        last = activations[-1]
        gradient, statistics = self._td(last, batch) if loss is None else self._own(last, batch, loss)
        self.online.backward(activations, gradient)
        if self._config.max_gradient_norm:
            clip_gradients(self.online, self._config.max_gradient_norm)
        self._optimizer.step(self.updates)
        self.updates += 1
        self._follow()
        return statistics

    @torch.no_grad()
    def finite(self) -> Tensor:
        """Whether all weights and moments of each agent are finite, `[A]`.

        Most non-finite values appear in the next loss. A bias of minus infinity does not: ReLU turns it into 0.
        """
        networks = [tensor for each in (self.online, self.target, self._average) if each for tensor in each.tensors]
        tensors = [*networks, *self._optimizer.moments]
        return torch.stack([tensor.isfinite().flatten(1).all(1) for tensor in tensors]).all(0).cpu()

    def copy_to_target(self, agents: Tensor) -> None:
        """Copy the online networks of `agents`, an index tensor `[K]`, to their target networks."""
        self.target.assign(agents, self.online.select(agents))

    def select(self, agents: Tensor) -> None:
        """Keep only `agents`, an index tensor `[K]`."""
        self.hyperparameters = self.hyperparameters.select(agents)
        self.online = self.online.select(agents)
        self.target = self.target.select(agents)
        if self._average:
            self._average = self._average.select(agents)
        self._optimizer = self._optimizer.select(agents, self.online)

    def state_dict(self) -> dict[str, Any]:
        """Networks, optimizer state and the number of updates."""
        return {
            "online": self.online.state_dict(),
            "target": self.target.state_dict(),
            "average": self._average.state_dict() if self._average else None,
            "optimizer": self._optimizer.state_dict(),
            "updates": self.updates,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`; `self` must have the same number of agents."""
        self.online.load_state_dict(state["online"])
        self.target.load_state_dict(state["target"])
        if self._average:
            self._average.load_state_dict(state["average"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.updates = state["updates"]

    def _td(self, q_values: Tensor, batch: Batch) -> tuple[Tensor, UpdateStatistics]:
        """Gradient of the configuration's loss with respect to the Q-values `[A, actions, B]`.

        Written by hand: even autograd on the Q-values alone takes half of the time of an update of a single agent, and
        a tenth for 64 agents.
        """
        config, action = self._config, batch.action.unsqueeze(1)
        target = td_target(batch, online=self.online, target=self.target, double_dqn=config.double_dqn)
        q_value = q_values.gather(1, action).squeeze(1)
        td_error = q_value - target
        gradient = td_gradient(td_error, loss=config.loss) / td_error.shape[1]
        if batch.weight is not None:
            gradient *= batch.weight
        losses = td_loss(td_error, loss=config.loss)
        finite = all_finite(losses)
        statistics = UpdateStatistics(loss=losses, priority=td_error, q_value=q_value, finite=finite)
        return torch.zeros_like(q_values).scatter_(1, action, gradient.unsqueeze(1)), statistics

    def _own(self, last: Tensor, batch: Batch, loss: Loss) -> tuple[Tensor, UpdateStatistics]:
        """Gradient of a given loss with respect to the last activations `[A, actions x N, B]`."""
        last = last.detach().requires_grad_(True)
        with torch.enable_grad():
            outputs = self.online.by_action(last)
            losses = _required(loss(outputs, batch, self.online, self.target), batch)
            weighted = losses if batch.weight is None else losses * batch.weight
            (gradient,) = torch.autograd.grad(weighted.mean(1).sum(), last)
        losses = losses.detach()
        q_value = self.online.head.q_values(outputs.detach()).gather(2, batch.action.unsqueeze(2)).squeeze(2)
        return gradient, UpdateStatistics(loss=losses, priority=losses, q_value=q_value, finite=all_finite(losses))

    def _follow(self) -> None:
        online, target = self.online.tensors, self.target.tensors
        interval = self.hyperparameters.target_update_interval
        if self._config.tau:
            _move(target, online, self.hyperparameters.tau)
        elif isinstance(interval, Tensor):
            self.copy_to_target((self.updates % interval == 0).nonzero().squeeze(1))
        elif interval and self.updates % interval == 0:
            torch._foreach_copy_(target, online)
        if self._average:
            _move(self._average.tensors, online, self.hyperparameters.average_rate)


def _required(losses: object, batch: Batch) -> Tensor:
    """Check that a custom loss returned one loss per transition."""
    shape = tuple(batch.reward.shape)
    expected = f"loss must give the loss of each transition, a tensor [agents, batch_size] = {list(shape)}"
    if not isinstance(losses, Tensor):
        raise ConfigError(f"{expected}, got {type(losses).__name__}")
    if losses.shape != shape:
        raise ConfigError(f"{expected}, got the shape {list(losses.shape)}: average over all other axes")
    if not losses.requires_grad:
        raise ConfigError(f"{expected} computed from `outputs`, got one that has no gradient with respect to them")
    return losses


def _move(tensors: list[Tensor], towards: list[Tensor], rate: Value) -> None:
    """Move each agent's tensors `[A, ., .]` towards others by `rate`."""
    share = column(rate, tensors[0].device)
    torch._foreach_lerp_(tensors, towards, [share] * len(tensors) if isinstance(share, Tensor) else share)


@torch.no_grad()
def clip_gradients(networks: QNetworks, max_norm: float) -> Tensor:
    """Scale each agent's gradient to a norm of at most `max_norm`; return the norms before `[A]`."""
    gradients = [parameter.grad for parameter in networks.parameters() if parameter.grad is not None]
    norm = torch.stack([gradient.square().sum((1, 2)) for gradient in gradients]).sum(0).sqrt()
    scale = (max_norm / norm.clamp_min(1e-12)).clamp_max(1.0)
    for gradient in gradients:
        gradient *= scale[:, None, None]
    return norm
