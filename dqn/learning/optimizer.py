"""AdamW for a population whose agents may differ in its hyper-parameters."""

from typing import Any, Self

import torch
from torch import Tensor

from dqn.hyperparameters import HyperParameters, Value, column
from dqn.networks.population import QNetworks


class Optimizer:
    """AdamW (Loshchilov and Hutter, 2019), each agent's learning rate falling linearly where the configuration asks.

    By PyTorch's fused kernel where all agents are alike. It knows no values of single agents: where they differ, the
    step is taken here. `torch.optim.AdamW` around that kernel would import PyTorch's compiler when it is made: two
    seconds, as long as a training.
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
        # Kept: the system takes tensors of this size back, and faulting their pages in anew costs more than the step.
        self._scratch = [(torch.empty_like(parameter), torch.empty_like(parameter)) for parameter in self._parameters]

    @property
    def moments(self) -> list[Tensor]:
        """Both moments of every parameter, `[A, ., .]` each."""
        return [*self._means, *self._squares]

    def learning_rate(self, updates: int) -> Value:
        """Learning rates after as many updates."""
        start, end = self._hyperparameters.learning_rate, self._hyperparameters.learning_rate_end
        if not self._decay_updates:
            return start
        return start + (end - start) * min(updates / self._decay_updates, 1.0)

    @torch.no_grad()
    def step(self, updates: int) -> None:
        """Step along the gradients that the parameters have, after as many updates."""
        rate = self.learning_rate(updates)
        torch._foreach_add_(self._steps, 1)
        if self._alike:
            self._fused(rate)
            return
        h, device = self._hyperparameters, self._device
        beta1, beta2, eps = (column(value, device) for value in (h.adam_beta1, h.adam_beta2, h.adam_eps))
        # Algorithm 2 of the paper; the corrections of both moments' bias, which are numbers of agents, come in last.
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
        """An optimizer of `networks`, those of `agents` `[K]`, with their moments."""
        hyperparameters = self._hyperparameters.select(agents)
        selected = type(self)(networks, hyperparameters, decay_updates=self._decay_updates)
        selected._means = [mean[agents] for mean in self._means]
        selected._squares = [square[agents] for square in self._squares]
        selected._steps = [step.clone() for step in self._steps]
        return selected

    def copy(self, sources: Tensor, agents: Tensor) -> None:
        """Give `agents` `[K]` the moments of `sources` `[K]`."""
        for moment in (*self._means, *self._squares):
            moment[agents] = moment[sources]

    def adopt(self, hyperparameters: HyperParameters, networks: QNetworks) -> Self:
        """An optimizer of the same networks with other hyper-parameters, and these moments."""
        changed = type(self)(networks, hyperparameters, decay_updates=self._decay_updates)
        changed._means, changed._squares, changed._steps = self._means, self._squares, self._steps
        return changed

    def state_dict(self) -> dict[str, Any]:
        """Moments and number of steps."""
        return {"means": self._means, "squares": self._squares, "steps": self._steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`, into an optimizer of the same hyper-parameters."""
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
