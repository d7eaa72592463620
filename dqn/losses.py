"""Losses for `dqn.train(config, loss=...)`, written as somebody's own would be: QR-DQN and Munchausen DQN."""

import torch
from torch import Tensor

from dqn.learner import td_loss
from dqn.network import QNetworks
from dqn.policy import greedy_action
from dqn.replay import Batch


def quantile_huber(
    outputs: Tensor, batch: Batch, online: QNetworks, target: QNetworks, *, kappa: float = 1.0
) -> Tensor:
    """QR-DQN's loss `[A, B]` (Dabney et al., 2018, equation 10 and algorithm 1), with Double DQN's next action.

    Output i of the configuration's `num_quantiles` learns the quantile of the return at the midpoint (i + 1/2) / N.
    Errors beyond `kappa`, in units of the scaled reward, count linearly.
    """
    quantiles = _of_action(outputs, batch.action)
    with torch.no_grad():
        action = greedy_action(online(batch.next_observation))
        following = _of_action(target.outputs(batch.next_observation), action)
        returns = batch.reward.unsqueeze(2) + batch.discount.unsqueeze(2) * following
    error = returns.unsqueeze(2) - quantiles.unsqueeze(3)  # [A, B, quantile, return]
    size = error.abs()
    huber = torch.where(size < kappa, 0.5 * error.square(), kappa * (size - 0.5 * kappa))
    midpoint = (torch.arange(outputs.shape[3], device=outputs.device) + 0.5) / outputs.shape[3]
    weight = (midpoint.unsqueeze(1) - (error < 0).float()).abs()
    return (weight * huber).mean(3).sum(2)


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
    """Munchausen DQN's loss `[A, B]` (Vieillard et al., 2020, section 2), of its policy softmax(Q / temperature).

    The reward gains `alpha` x `temperature` x the log-probability of the action taken, no less than `floor`, and the
    next value is the soft one. Temperature and floor are in units of the scaled reward. It is one-step: with an
    `n_step` above 1 only the first action's log-probability would count.
    """
    with torch.no_grad():
        log_policy = (target(batch.observation) / temperature).log_softmax(2)
        bonus = (temperature * log_policy.gather(2, batch.action.unsqueeze(2)).squeeze(2)).clamp(floor, 0)
        soft_value = temperature * (target(batch.next_observation) / temperature).logsumexp(2)
        td_target = batch.reward + alpha * bonus + batch.discount * soft_value
    q_value = _of_action(outputs, batch.action).mean(2)
    return td_loss(q_value - td_target, loss="squared")


def _of_action(outputs: Tensor, action: Tensor) -> Tensor:
    """Outputs `[A, B, quantiles]` of the actions `[A, B]` among those of all, `[A, B, actions, quantiles]`."""
    index = action[:, :, None, None].expand(-1, -1, 1, outputs.shape[3])
    return outputs.gather(2, index).squeeze(2)
