"""AdamW for a population of agents that may have different hyper-parameters."""

from typing import Any, Self

import torch
from torch import Tensor

from dqn.hyperparameters import HyperParameters, Value, column
from dqn.networks.population import QNetworks


class Optimizer:
    """AdamW (Loshchilov and Hutter, 2019) with an optional linear decay of the learning rate.

    If all agents have the same values, a step is PyTorch's fused kernel, which does not support values per agent;
    otherwise it is computed here. The kernel is called directly because creating a `torch.optim.AdamW` imports
    PyTorch's compiler, which takes two seconds.
    """

    def __init__(self, networks: QNetworks, hyperparameters: HyperParameters, *, decay_updates: int) -> None:
        self._hyperparameters = hyperparameters
        self._decay_updates = decay_updates
        self._device = networks.device
        self._parameters: list[Tensor] = list(networks.parameters())
        self._means = [torch.zeros_like(parameter) for parameter in self._parameters]
        self._squares = [torch.zeros_like(parameter) for parameter in self._parameters]
        self._steps = [torch.zeros((), device=parameter.device) for parameter in self._parameters]
        h = hyperparameters
        values = (h.learning_rate, h.learning_rate_end, h.weight_decay, h.adam_beta1, h.adam_beta2, h.adam_eps)
        self._alike = not any(isinstance(value, Tensor) for value in values)
        if self._alike:
            return
        # Allocated once: tensors of this size are otherwise returned to the system, and page faults cost more than the
        # step.
        self._scratch = [(torch.empty_like(parameter), torch.empty_like(parameter)) for parameter in self._parameters]

    @property
    def moments(self) -> list[Tensor]:
        """First and second moments of every parameter, `[A, ., .]` each."""
        return [*self._means, *self._squares]

    def learning_rate(self, updates: int) -> Value:
        """Learning rate after `updates` updates."""
        start, end = self._hyperparameters.learning_rate, self._hyperparameters.learning_rate_end
        if not self._decay_updates:
            return start
        return start + (end - start) * min(updates / self._decay_updates, 1.0)

    @torch.no_grad()
    def step(self, updates: int) -> None:
        """Take one AdamW step with the gradients of the parameters.

        Args:
            updates: number of steps before this one, 0 for the first; it decides the learning rate.
        """
        rate = self.learning_rate(updates)
        torch._foreach_add_(self._steps, 1)
        if self._alike:
            self._fused(rate)
            return
        h, device = self._hyperparameters, self._device
        beta1, beta2, eps = (column(value, device) for value in (h.adam_beta1, h.adam_beta2, h.adam_eps))
        # Algorithm 2 of the paper, with the bias corrections, one number per agent, applied last.
        kept = column(1 - rate * h.weight_decay, device)
        length = column(-rate / (1 - h.adam_beta1 ** (updates + 1)), device)
        correction = column((1 - h.adam_beta2 ** (updates + 1)) ** -0.5, device)
        for parameter, mean, square, (numerator, denominator) in zip(
            self._parameters, self._means, self._squares, self._scratch, strict=True
        ):
            gradient = _gradient(parameter)
            mean.mul_(beta1).add_(torch.mul(gradient, 1 - beta1, out=numerator))
            torch.mul(gradient, gradient, out=numerator)
            square.mul_(beta2).add_(numerator.mul_(1 - beta2))
            torch.sqrt(square, out=denominator).mul_(correction).add_(eps)
            parameter.mul_(kept).addcdiv_(torch.mul(mean, length, out=numerator), denominator)

    def select(self, agents: Tensor, networks: QNetworks) -> Self:
        """An optimizer of `networks`, the networks of `agents` `[K]`, with their moments."""
        hyperparameters = self._hyperparameters.select(agents)
        selected = type(self)(networks, hyperparameters, decay_updates=self._decay_updates)
        selected._means = [mean[agents] for mean in self._means]
        selected._squares = [square[agents] for square in self._squares]
        selected._steps = [step.clone() for step in self._steps]
        return selected

    def state_dict(self) -> dict[str, Any]:
        """The moments and the number of steps."""
        return {"means": self._means, "squares": self._squares, "steps": self._steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`; `self` must have the same hyper-parameters."""
        for name, mine in self.state_dict().items():
            torch._foreach_copy_(mine, state[name])

    def _fused(self, rate: Value) -> None:
        h = self._hyperparameters
        torch._fused_adamw_(
            self._parameters,
            [_gradient(parameter) for parameter in self._parameters],
            self._means,
            self._squares,
            [],
            self._steps,
            lr=float(rate),
            beta1=float(h.adam_beta1),
            beta2=float(h.adam_beta2),
            weight_decay=float(h.weight_decay),
            eps=float(h.adam_eps),
            amsgrad=False,
            maximize=False,
        )


def _gradient(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None, "a step follows a backward pass"
    return parameter.grad
