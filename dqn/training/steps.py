"""The two steps of training: act in the environments, and update the networks."""

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor

from dqn.experience.exploration import (
    Exploration,
    episode_epsilon,
    epsilon_greedy,
    linear_epsilon,
    require_actions,
)
from dqn.experience.masking import allows, masked
from dqn.experience.transitions import Transition
from dqn.finite import all_finite
from dqn.learning.losses import Loss, require_loss
from dqn.training.machine import release_memory
from dqn.training.selection import diverge
from dqn.training.state import TrainingState

_RELEASE_INTERVAL: Final = 200
"""Updates between two calls of `release_memory`, which takes milliseconds."""


def advance(
    state: TrainingState,
    updates: int,
    *,
    loss: Loss | None = None,
    exploration: Exploration | None = None,
    on_step: Callable[[], None] = lambda: None,
) -> None:
    """Train the remaining agents until they have taken `updates` gradient updates, without evaluation.

    Agents that diverge leave, including those with weights that are not finite at the end.

    Args:
        state: the training state; unchanged if it already has that many updates.
        updates: number of updates to stop at.
        loss: replaces the configuration's loss.
        exploration: replaces epsilon-greedy exploration.
        on_step: called after each step of the vector environment.

    Raises:
        ConfigError: if the networks output quantiles and no `loss` is given, or if `loss` does not return one number
            per transition.
    """
    config = state.config
    require_loss(config, loss)
    while state.agents.numel() and state.learner.updates < updates:
        collect(state, exploration)
        if may_learn(state):
            for _ in range(min(config.updates_per_step, updates - state.learner.updates)):
                learn(state, loss)
                if not state.agents.numel():
                    break
        on_step()
    if state.agents.numel():
        diverge(state, state.learner.finite(), "weights or moments are not finite")


@torch.no_grad()
def collect(state: TrainingState, exploration: Exploration | None = None) -> None:
    """Take one step in every sub-environment, by default epsilon-greedy, and store the completed transitions.

    Agents with Q-values that are not finite leave as diverged before they act.

    Raises:
        ConfigError: if `exploration` does not return an allowed action for each sub-environment.
        EnvironmentFaultError: if the environment returns a value that is not finite, or an invalid action mask.
    """
    config = state.config
    epsilon, persistence = _epsilon(state), state.learner.hyperparameters.exploration_persistence
    num_persisting = (state.persisting >= 0).sum(1)
    q_values = state.learner.online(state.environment.observation.to(config.device)).cpu()
    if not all_finite(q_values) and not bool((sound := q_values.isfinite().flatten(1).all(1)).all()):
        diverge(state, sound, "Q-values are not finite")
        if state.agents.numel():
            collect(state, exploration)
        return
    mask = state.environment.action_mask
    if exploration:
        action = require_actions(exploration(masked(q_values, mask), epsilon, state.generator), q_values, mask)
    else:
        action = epsilon_greedy(
            q_values, epsilon, state.generator, mask=mask, persistence=persistence, persisting=state.persisting
        )
    transition = state.environment.step(action)
    # A repeated action ends with its episode. Actions are ignored while a sub-environment is reset.
    state.persisting[transition.terminated | transition.truncated | ~transition.valid] = -1
    if transition.next_mask is not None:
        state.persisting[~allows(transition.next_mask, state.persisting)] = -1
    share = torch.as_tensor(persistence).float() * num_persisting / transition.valid.sum(1).clamp_min(1)
    state.epsilon = epsilon + (1 - epsilon) * share
    state.replay.insert(*state.accumulator.push(transition))
    _count_episodes(state, transition)
    state.last_step_valid = bool(transition.valid.any())
    state.environment_steps += config.num_envs


def learn(state: TrainingState, loss: Loss | None = None) -> None:
    """Take one gradient update of every agent, with the configuration's loss or the given one.

    Agents with a loss or Q-values that are not finite leave as diverged.
    """
    config = state.config
    progress = state.learner.updates / config.max_updates
    importance_exponent = config.importance_exponent + (1 - config.importance_exponent) * progress
    batch = state.replay.sample(config.batch_size, importance_exponent=importance_exponent)
    statistics = state.learner.update(batch, loss)
    state.replay.prioritise(batch, statistics.priority)
    losses, q_value = statistics.loss, statistics.q_value
    if not (statistics.finite and (loss is None or all_finite(q_value))):  # TD losses contain the Q-value
        sound = (losses.sum(1) + q_value.sum(1)).isfinite().cpu()
        diverge(state, sound, "TD errors, loss or Q-values are not finite")
        losses, q_value = losses[sound], q_value[sound]
    if state.learner.updates % config.log_interval == 0:
        state.record_returns(state.agents)
        state.record("train/td_loss", losses.mean(-1))
        state.record("train/q_value", q_value.mean(-1))
        state.record("train/epsilon", state.epsilon)
    if state.learner.updates % _RELEASE_INTERVAL == 0:
        release_memory()


def may_learn(state: TrainingState) -> bool:
    """Whether agents remain and their replay buffers contain enough transitions."""
    config = state.config
    if not state.agents.numel():
        return False
    return state.replay.can_sample(config.batch_size, config.min_replay_batches) and state.last_step_valid


def _epsilon(state: TrainingState) -> Tensor:
    values = state.learner.hyperparameters
    start, end = values.epsilon_start, values.epsilon_end
    if decay := state.config.epsilon_decay_per_episode:
        return episode_epsilon(state.episodes[state.agents], start=start, end=end, decay=decay).float()
    updates = state.learner.updates
    epsilon = linear_epsilon(updates, start=start, end=end, decay_updates=values.epsilon_decay_updates)
    return epsilon.float() if isinstance(epsilon, Tensor) else torch.full((len(state.agents),), epsilon)


def _count_episodes(state: TrainingState, transition: Transition) -> None:
    """Count the episodes that ended and their returns, and copy target networks that are due."""
    ended = transition.terminated | transition.truncated
    if not bool(ended.any()):
        return
    state.unrecorded[state.agents] += ended.sum(1)
    state.unrecorded_return[state.agents] += state.environment.episodic_return.where(ended, 0.0).sum(1)
    before = state.episodes[state.agents]
    state.episodes[state.agents] += ended.sum(1)
    if interval := state.config.target_update_episodes:
        due = before // interval != state.episodes[state.agents] // interval
        state.learner.copy_to_target(due.nonzero().squeeze(1))
