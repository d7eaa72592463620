"""TD targets, TD losses, C51's loss, and two losses for `dqn.train(config, loss=...)`: QR-DQN and Munchausen DQN."""

from collections.abc import Callable

import torch
from torch import Tensor

from dqn.config import ConfigError, DQNConfig
from dqn.experience.masking import masked
from dqn.experience.transitions import Batch
from dqn.networks.heads import Categorical
from dqn.networks.population import QNetworks, greedy_action


def quantile_huber(
    outputs: Tensor, batch: Batch, online: QNetworks, target: QNetworks, *, kappa: float = 1.0
) -> Tensor:
    """Loss `[A, B]` of QR-DQN (Dabney et al., 2018, equation 10 and algorithm 1), with Double DQN's next action.

    Output i of N (`num_quantiles`) learns the quantile of the return at the midpoint (i + 1/2) / N. Errors beyond
    `kappa`, in units of the scaled reward, count linearly.
    """
    quantiles = _of_action(outputs, batch.action)
    with torch.no_grad():
        action = greedy_action(masked(online(batch.next_observation), batch.next_mask))
        following = _of_action(target.outputs(batch.next_observation), action)
        returns = batch.reward.unsqueeze(2) + batch.discount.unsqueeze(2) * following
    error = returns.unsqueeze(2) - quantiles.unsqueeze(3)  # [A, B, quantile, return]
    size = error.abs()
    huber = torch.where(size < kappa, 0.5 * error.square(), kappa * (size - 0.5 * kappa))
    midpoint = (torch.arange(outputs.shape[3], device=outputs.device) + 0.5) / outputs.shape[3]
    weight = (midpoint.unsqueeze(1) - (error < 0).float()).abs()
    return (weight * huber).mean(3).sum(2)


def categorical(outputs: Tensor, batch: Batch, online: QNetworks, target: QNetworks) -> Tensor:
    """Loss `[A, B]` of C51 (Bellemare et al., 2017, algorithm 1), with Double DQN's next action.

    The cross entropy of the next action's distribution, moved by reward and discount and projected onto the atoms.
    """
    head = online.head
    assert isinstance(head, Categorical)
    with torch.no_grad():
        action = greedy_action(masked(online(batch.next_observation), batch.next_mask))
        following = _of_action(target.outputs(batch.next_observation), action).softmax(2)
        returns = batch.reward.unsqueeze(2) + batch.discount.unsqueeze(2) * head.atoms(outputs.device)
        projected = head.projected(returns, following)
    return -(projected * _of_action(outputs, batch.action).log_softmax(2)).sum(2)


def munchausen(
    outputs: Tensor,
    batch: Batch,
    online: QNetworks,
    target: QNetworks,
    *,
    alpha: float = 0.9,
    temperature: float = 0.03,
    floor: float = -1.0,
) -> Tensor:
    """Loss `[A, B]` of Munchausen DQN (Vieillard et al., 2020, section 2) for the policy softmax(Q / temperature).

    The reward is increased by `alpha` x `temperature` x the log-probability of the action taken, limited below by
    `floor`. The next value is the soft value. `temperature` and `floor` are in units of the scaled reward. Use
    `n_step=1`: otherwise only the first action's log-probability counts.

    Raises:
        ConfigError: in an environment with action masks, because the mask of the observation is not stored.
    """
    if batch.next_mask is not None:
        raise ConfigError("munchausen needs the probability of the action taken, and cannot learn under action masks")
    with torch.no_grad():
        log_policy = (target(batch.observation) / temperature).log_softmax(2)
        bonus = (temperature * log_policy.gather(2, batch.action.unsqueeze(2)).squeeze(2)).clamp(floor, 0)
        soft_value = temperature * (target(batch.next_observation) / temperature).logsumexp(2)
        td_target = batch.reward + alpha * bonus + batch.discount * soft_value
    q_value = _of_action(outputs, batch.action).mean(2)
    return td_loss(q_value - td_target, loss="squared")


def _of_action(outputs: Tensor, action: Tensor) -> Tensor:
    """Outputs `[A, B, quantiles]` of actions `[A, B]`, from the outputs `[A, B, actions, quantiles]` of all actions."""
    index = action[:, :, None, None].expand(-1, -1, 1, outputs.shape[3])
    return outputs.gather(2, index).squeeze(2)


Loss = Callable[[Tensor, Batch, QNetworks, QNetworks], Tensor]
"""A custom loss: `loss(outputs, batch, online, target)` returns the loss of each transition, `[A, B]`.

`outputs` `[A, B, actions, quantiles]` are the online networks' outputs for `batch.observation`. The gradient is taken
with respect to `outputs` only; everything else that is computed from the networks, such as a target, is constant.
"""


@torch.no_grad()
def td_target(batch: Batch, *, online: QNetworks, target: QNetworks, double_dqn: bool) -> Tensor:
    """TD targets `[A, B]`: reward + discount x value of the next observation.

    The value is the target network's maximum (Mnih et al., 2015), or with `double_dqn` the target network's value of
    the online network's greedy action (van Hasselt et al., 2016, equation 4). Both are of the actions that
    `batch.next_mask` allows.
    """
    q_next = masked(target(batch.next_observation), batch.next_mask)
    if double_dqn:
        action = greedy_action(masked(online(batch.next_observation), batch.next_mask))
        value = q_next.gather(-1, action.unsqueeze(-1)).squeeze(-1)
    else:
        value = q_next.amax(-1)
    return torch.addcmul(batch.reward, batch.discount, value)


def td_loss(td_error: Tensor, *, loss: str) -> Tensor:
    """Loss of each TD error, in its shape: the square, or the Huber loss with delta 1."""
    if loss == "huber":
        size = td_error.abs()
        return torch.where(size < 1, 0.5 * size.square(), size - 0.5)
    return td_error.square()


def td_gradient(td_error: Tensor, *, loss: str) -> Tensor:
    """Derivative of `td_loss` with respect to the TD error."""
    return td_error.clamp(-1, 1) if loss == "huber" else 2 * td_error


def require_loss(config: DQNConfig, loss: Loss | None = None) -> None:
    """Check that there is a loss for the networks' outputs.

    Raises:
        ConfigError: if the networks output quantiles and no `loss` is given.
    """
    if config.num_quantiles > 1 and loss is None:
        raise ConfigError(
            f"num_quantiles is {config.num_quantiles}, but the {config.loss} loss learns one number per action: leave "
            "it at 1, or pass dqn.train a loss that learns quantiles"
        )
