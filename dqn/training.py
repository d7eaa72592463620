"""The training loop of a population."""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from typing import Final, Never

import torch
from torch import Tensor
from tqdm import tqdm

from dqn.clock import Clock
from dqn.config import DQNConfig
from dqn.device import torch_threads
from dqn.finite import all_finite, none_left
from dqn.fits import require_state
from dqn.hyperparameters import HyperParameters
from dqn.learner import Loss, require_loss
from dqn.memory import release_memory
from dqn.metrics import Metrics
from dqn.policy import episode_epsilon, epsilon_greedy, linear_epsilon
from dqn.replay import Transition
from dqn.result import AgentResult, TrainingResult
from dqn.robustness import ENVIRONMENT as STRESSED
from dqn.selection import diverge, evaluate, evaluation_due, finalists, judge, leave, retire
from dqn.state import TrainingState

_CPU: Final = torch.device("cpu")
_RELEASE_INTERVAL: Final = 200
"""Updates between two times that free memory is given back, which takes milliseconds."""


def train(
    config: DQNConfig,
    hyperparameters: HyperParameters | None = None,
    *,
    loss: Loss | None = None,
    state: TrainingState | None = None,
    on_metrics: Callable[[Sequence[Metrics]], None] = lambda _: None,
    on_checkpoint: Callable[[TrainingState], None] = lambda _: None,
    now: Callable[[], float] = time.monotonic,
) -> TrainingResult:
    """Train a population until every agent is solved or the budget is spent.

    Args:
        config: what to train.
        hyperparameters: what the agents differ in; none trains all by the configuration.
        loss: one of one's own in place of the configuration's; where training is resumed it has to be given again.
        state: where an earlier process stopped, with its own hyper-parameters; none starts afresh. Its environments are
            closed when this returns or raises.
        on_metrics: called with every record once, in order; a resumed run begins with those since its checkpoint.
        on_checkpoint: called with the whole state at the start and `checkpoint_interval` seconds after it returned,
            between two steps, after `on_metrics` has had everything recorded so far; seldomer where it would take more
            than a tenth of the time.
        now: a clock's seconds.

    Raises:
        ConfigError: if the networks give quantiles and there is no loss that learns them, if that loss does not give
            one number a transition, or if the state is of another configuration or has other hyper-parameters.
        DivergedError: if every agent diverged.
        EnvironmentFaultError: if the environment gives what is not finite.
    """
    require_loss(config, loss)
    if state is None:
        state = TrainingState(config, hyperparameters)
    else:
        require_state(state.config, state.hyperparameters, config, hyperparameters)
    with closing(state.environment):
        return _train(state, loss, on_metrics, on_checkpoint, now)


def _train(
    state: TrainingState,
    loss: Loss | None,
    on_metrics: Callable[[Sequence[Metrics]], None],
    on_checkpoint: Callable[[TrainingState], None],
    now: Callable[[], float],
) -> TrainingResult:
    config = state.config
    published = len(state.metrics)
    clock = Clock(state, on_checkpoint, now=now)
    clock.save_if_due()
    with torch_threads(config.num_threads), _bar(state) as progress:
        state.keep_milestone()
        while state.agents.numel() and state.learner.updates < config.max_updates:
            collect(state)
            if _may_learn(state):
                left = config.max_updates - state.learner.updates
                for _ in range(min(config.updates_per_step, left)):
                    learn(state, loss)
                    if not state.agents.numel():
                        break
                    state.keep_milestone()
                    if evaluation_due(config, state.learner.updates):
                        evaluate(state)
                        _show(progress, state)
                        if not state.agents.numel():
                            break
                _advance(progress, state)
            retire(state)
            on_metrics(state.metrics.since(published))
            published = len(state.metrics)
            if state.agents.numel():
                clock.save_if_due()
        if state.agents.numel():
            evaluate(state)
            leave(state, torch.arange(len(state.agents)))
        _show(progress, state)
        on_metrics(state.metrics.since(published))
        judged = judge(state)
    if len(state.diverged) == config.num_agents:
        raise none_left(state.diverged)
    clock.account()
    return _result(state, judged)


def advance(
    state: TrainingState, updates: int, *, loss: Loss | None = None, on_step: Callable[[], None] = lambda: None
) -> None:
    """Train the agents that are left until they have taken as many gradient updates; nothing is evaluated.

    Agents that diverge leave; those whose weights are not finite at the end do so too.

    Args:
        state: what is trained; nothing happens where it has taken them.
        updates: where to stop.
        loss: one of one's own in place of the configuration's.
        on_step: called after each step of the vector environment.

    Raises:
        ConfigError: if the networks give quantiles and there is no loss that learns them, or if that loss does not give
            one number a transition.
    """
    config = state.config
    require_loss(config, loss)
    while state.agents.numel() and state.learner.updates < updates:
        collect(state)
        if _may_learn(state):
            for _ in range(min(config.updates_per_step, updates - state.learner.updates)):
                learn(state, loss)
                if not state.agents.numel():
                    break
        on_step()
    if state.agents.numel():
        diverge(state, state.learner.finite(), "weights or moments are not finite")


@torch.no_grad()
def collect(state: TrainingState) -> None:
    """Act once in every sub-environment and store the transitions that are complete.

    Agents whose Q-values are not finite leave as diverged before they act.

    Raises:
        EnvironmentFaultError: if the environment gives what is not finite.
    """
    config = state.config
    epsilon, persistence = _epsilon(state), state.learner.hyperparameters.exploration_persistence
    going_on = (state.persisting >= 0).sum(1)
    q_values = state.learner.online(state.environment.observation.to(config.device)).cpu()
    if not all_finite(q_values) and not bool((sound := q_values.isfinite().flatten(1).all(1)).all()):
        diverge(state, sound, "Q-values are not finite")
        if state.agents.numel():
            collect(state)
        return
    action = epsilon_greedy(
        q_values,
        epsilon,
        state.generator,
        persistence=persistence,
        persisting=state.persisting,
    )
    transition = state.environment.step(action)
    # Exploration ends with its episode, and what is chosen while a sub-environment is reset is no action.
    state.persisting[transition.terminated | transition.truncated | ~transition.valid] = -1
    share = torch.as_tensor(persistence).float() * going_on / transition.valid.sum(1).clamp_min(1)
    state.epsilon = epsilon + (1 - epsilon) * share
    state.replay.insert(*state.accumulator.push(transition))
    _count_episodes(state, transition)
    state.last_step_valid = bool(transition.valid.any())
    state.environment_steps += config.num_envs


def learn(state: TrainingState, loss: Loss | None = None) -> None:
    """One gradient update of every agent, by the configuration's loss or the given one.

    Agents whose loss or Q-values are not finite leave as diverged.
    """
    config = state.config
    progress = state.learner.updates / config.max_updates
    importance_exponent = config.importance_exponent + (1 - config.importance_exponent) * progress
    batch = state.replay.sample(config.batch_size, importance_exponent=importance_exponent)
    statistics = state.learner.update(batch, loss)
    state.replay.prioritise(batch, statistics.priority)
    loss_seen, q_value = statistics.loss, statistics.q_value
    if not (statistics.finite and (loss is None or all_finite(q_value))):  # a TD error has the Q-value in it
        sound = (loss_seen.sum(1) + q_value.sum(1)).isfinite().cpu()
        diverge(state, sound, "TD errors, loss or Q-values are not finite")
        loss_seen, q_value = loss_seen[sound], q_value[sound]
    if state.learner.updates % config.log_interval == 0:
        state.record_returns(state.agents)
        state.record("train/td_loss", loss_seen.mean(-1))
        state.record("train/q_value", q_value.mean(-1))
        state.record("train/epsilon", state.epsilon)
    if state.learner.updates % _RELEASE_INTERVAL == 0:
        release_memory()


def stressed(result: TrainingResult) -> TrainingResult:
    """The result with the robustness of its finalists, where the environment has a stress test.

    Solved agents tie at the greatest return and are not alike: this tells them apart.
    """
    config = result.config
    solved = [agent.agent for agent in result.agents if agent.solved and agent.diverged is None]
    if config.env_id != STRESSED or not solved:
        return result
    with torch_threads(config.num_threads):
        found = {solved[row]: held for row, held in finalists(result.best.select(torch.tensor(solved)), config).items()}
    agents = tuple(dataclasses.replace(agent, robustness=found.get(agent.agent)) for agent in result.agents)
    return dataclasses.replace(result, agents=agents)


def _may_learn(state: TrainingState) -> bool:
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
    """Take account of the episodes that ended."""
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


def _bar(state: TrainingState) -> "tqdm[Never]":
    """A bar that counts updates, so that it has an estimate; a population that is solved ends before it is full."""
    config = state.config
    return tqdm(total=config.max_updates, initial=state.learner.updates, unit="update", disable=None)


def _advance(progress: "tqdm[Never]", state: TrainingState) -> None:
    progress.update(state.learner.updates - progress.n)


def _show(progress: "tqdm[Never]", state: TrainingState) -> None:
    _advance(progress, state)
    shown = {"mean return": f"{float(state.last_return[state.sound].mean()):.1f}"}
    if state.config.acceptance_return is not None:
        shown = {"solved": f"{int(state.solved.sum())} of {state.config.num_agents}"} | shown
    progress.set_postfix(shown | ({"diverged": str(len(state.diverged))} if state.diverged else {}))


def _result(state: TrainingState, judged: Mapping[int, float]) -> TrainingResult:
    agents = tuple(
        AgentResult(
            agent=agent,
            solved=bool(state.solved[agent]),
            selection_return=float(best) if (best := state.best_return[agent]).isfinite() else None,
            updates=int(state.updates[agent]),
            environment_steps=int(state.steps[agent]),
            episodes=int(state.episodes[agent]),
            observed=_ranges(state.observed[agent]),
            judged_return=judged.get(agent),
            diverged=state.diverged[agent][0] if agent in state.diverged else None,
            divergence=state.diverged[agent][1] if agent in state.diverged else "",
        )
        for agent in range(state.config.num_agents)
    )
    return TrainingResult(
        config=state.config,
        best=state.best.on(_CPU),
        final=state.final.on(_CPU),
        agents=agents,
        metrics=state.metrics,
        milestones=tuple(dataclasses.replace(kept, networks=kept.networks.on(_CPU)) for kept in state.milestones),
        seconds=state.seconds,
        cpu_seconds=state.cpu_seconds,
    )


def _ranges(observed: Tensor) -> tuple[tuple[float, float], ...]:
    return tuple((low, high) for low, high in observed.tolist()) if bool(observed.isfinite().all()) else ()
