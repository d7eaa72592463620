"""The training loop of a population."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Never

import torch
from tqdm import tqdm

from dqn.config import DQNConfig
from dqn.environments.world import World
from dqn.experience.buffer import ReplayBuffer
from dqn.experience.exploration import Exploration
from dqn.experience.replay import MakeReplay
from dqn.finite import none_left
from dqn.hyperparameters import HyperParameters
from dqn.learning.losses import Loss, require_loss
from dqn.networks.bodies.module import MakeModule
from dqn.training.clock import Clock
from dqn.training.fits import Factory, require_parts, require_state
from dqn.training.machine import torch_threads
from dqn.training.metrics import Metrics
from dqn.training.result import TrainingResult, result_of
from dqn.training.selection import evaluate, evaluation_due, judge, leave, retire
from dqn.training.state import TrainingState
from dqn.training.steps import collect, learn, may_learn


def train(
    config: DQNConfig,
    hyperparameters: HyperParameters | None = None,
    *,
    worlds: Sequence[World] = (),
    env: Factory | None = None,
    body: MakeModule | None = None,
    loss: Loss | None = None,
    exploration: Exploration | None = None,
    replay: MakeReplay | None = None,
    state: TrainingState | None = None,
    on_metrics: Callable[[Sequence[Metrics]], None] = lambda _: None,
    on_checkpoint: Callable[[TrainingState], None] = lambda _: None,
    now: Callable[[], float] = time.monotonic,
) -> TrainingResult:
    """Train a population until every agent is solved or the budget is used up.

    Args:
        config: what to train.
        hyperparameters: values that differ between agents; None trains all agents by the configuration.
        worlds: one world per agent, in which it is trained, evaluated and accepted; replace the configuration's.
        env: makes an environment of one's own, given `env_kwargs`; its name is the configuration's `env_id`. A policy
            of it can be exported, but `flows` and serving play it only if it is registered with Gymnasium.
        body: makes the body of one agent, a `torch.nn.Module` from `[batch, *observation_shape]` to
            `[batch, features]`, given the observation's shape; replaces the configuration's body.
        loss: replaces the configuration's loss; pass it again when resuming.
        exploration: replaces epsilon-greedy exploration; pass it again when resuming.
        replay: makes the replay buffer from the keyword arguments of `ReplayBuffer`, which is the default.
        state: where an earlier process stopped, with its hyper-parameters, body and replay buffer, which cannot be
            given again; None starts a new training. Its environments are closed when this function returns or raises.
        on_metrics: called with every record once, in order; after resuming, with the records since the checkpoint.
        on_checkpoint: called with the whole state between two steps, after the first one and then `checkpoint_interval`
            seconds after its last call returned, less often if it would take more than a tenth of the time.
            `on_metrics` has received all earlier records by then.
        now: returns the time in seconds.

    Raises:
        ConfigError: if there are `worlds` but not one per agent, if the networks output quantiles and no `loss` is
            given, if `loss` does not return one number per transition, if `body` or `exploration` returns another
            shape, or if the state has another configuration or other hyper-parameters, or is given together with `body`
            or `replay`.
        DivergedError: if every agent diverged.
        EnvironmentFaultError: if the environment returns a value that is not finite, or an invalid action mask.
    """
    config = dataclasses.replace(config, worlds=tuple(worlds)) if worlds else config
    require_loss(config, loss)
    if state is None:
        state = TrainingState.begin(config, hyperparameters, env=env, body=body, replay=replay or ReplayBuffer)
    else:
        require_state(state.config, state.hyperparameters, config, hyperparameters)
        require_parts(state.environment.origin, env=env, body=body, replay=replay)
    with closing(state.environment):
        return _train(state, loss, exploration, on_metrics, on_checkpoint, now)


def _train(
    state: TrainingState,
    loss: Loss | None,
    exploration: Exploration | None,
    on_metrics: Callable[[Sequence[Metrics]], None],
    on_checkpoint: Callable[[TrainingState], None],
    now: Callable[[], float],
) -> TrainingResult:
    config = state.config
    published = len(state.metrics)
    clock = Clock(state, on_checkpoint, now=now)
    with torch_threads(config.num_threads), _bar(state) as progress:
        state.keep_milestone()
        while state.agents.numel() and state.learner.updates < config.max_updates:
            collect(state, exploration)
            if may_learn(state):
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
    return result_of(state, judged)


def _bar(state: TrainingState) -> "tqdm[Never]":
    """A progress bar over updates, which gives a time estimate; it stays incomplete if all agents are solved early."""
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
