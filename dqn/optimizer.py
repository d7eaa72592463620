"""AdamW for a population whose agents may differ in its hyper-parameters."""

from typing import Any, Self

import torch
from torch import Tensor

from dqn.hyperparameters import HyperParameters, Value, column
from dqn.network import QNetworks


class Optimizer:
    """AdamW (Loshchilov and Hutter, 2019), each agent's learning rate falling linearly where the configuration asks.

    PyTorch's fused one where all agents are alike. It knows no values of single agents: where they differ, the step is
    taken here, on the moments it keeps.
    """

    def __init__(self, networks: QNetworks, hyperparameters: HyperParameters, *, decay_updates: int) -> None:
        self._hyperparameters = hyperparameters
        self._decay_updates = decay_updates
        self._networks = networks
        parameters = list(networks.parameters())
        self._adamw = torch.optim.AdamW(parameters, fused=True)
        h, group = hyperparameters, self._adamw.param_groups[0]
        values = (h.learning_rate, h.learning_rate_end, h.weight_decay, h.adam_beta1, h.adam_beta2, h.adam_eps)
        self._alike = not any(isinstance(value, Tensor) for value in values)
        if self._alike:
            group |= {"lr": h.learning_rate, "betas": (h.adam_beta1, h.adam_beta2), "eps": h.adam_eps}
            group["weight_decay"] = h.weight_decay
            return
        # Kept: the system takes tensors of this size back, and faulting their pages in anew costs more than the step.
        self._scratch = [(torch.empty_like(parameter), torch.empty_like(parameter)) for parameter in parameters]

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
        if self._alike:
            self._adamw.param_groups[0]["lr"] = rate
            self._adamw.step()
            return
        h, device = self._hyperparameters, self._networks.device
        beta1, beta2, eps = (column(value, device) for value in (h.adam_beta1, h.adam_beta2, h.adam_eps))
        # Algorithm 2 of the paper; the corrections of both moments' bias, which are numbers of agents, come in last.
        kept = column(1 - rate * h.weight_decay, device)
        length = column(-rate / (1 - h.adam_beta1 ** (updates + 1)), device)
        correction = column((1 - h.adam_beta2 ** (updates + 1)) ** -0.5, device)
        for parameter, (numerator, denominator) in zip(self._networks.parameters(), self._scratch, strict=True):
            moments = self._adamw.state[parameter] or self._begin(parameter)
            mean, square, gradient = moments["exp_avg"], moments["exp_avg_sq"], parameter.grad
            assert gradient is not None, "a step follows a backward pass"
            mean.mul_(beta1).add_(torch.mul(gradient, 1 - beta1, out=numerator))
            torch.mul(gradient, gradient, out=numerator)
            square.mul_(beta2).add_(numerator.mul_(1 - beta2))
            torch.sqrt(square, out=denominator).mul_(correction).add_(eps)
            parameter.mul_(kept).addcdiv_(torch.mul(mean, length, out=numerator), denominator)
            moments["step"] += 1

    def select(self, agents: Tensor, networks: QNetworks) -> Self:
        """An optimizer of `networks`, those of `agents` `[K]`, with their moments."""
        hyperparameters = self._hyperparameters.select(agents)
        selected = type(self)(networks, hyperparameters, decay_updates=self._decay_updates)
        for mine, theirs in zip(self._networks.parameters(), networks.parameters(), strict=True):
            selected._adamw.state[theirs] = {
                name: value[agents] if value.dim() else value for name, value in self._adamw.state[mine].items()
            }
        return selected

    def state_dict(self) -> dict[str, Any]:
        """Moments and number of steps."""
        return self._adamw.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`, into an optimizer of the same hyper-parameters."""
        self._adamw.load_state_dict(state)

    def _begin(self, parameter: Tensor) -> dict[str, Tensor]:
        moments = {"exp_avg": torch.zeros_like(parameter), "exp_avg_sq": torch.zeros_like(parameter)}
        moments["step"] = torch.zeros((), device=parameter.device)
        self._adamw.state[parameter] = moments
        return moments
