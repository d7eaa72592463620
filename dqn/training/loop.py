"""The training loop of a population."""

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Never

import torch
from tqdm import tqdm

from dqn.config import DQNConfig
from dqn.finite import none_left
from dqn.hyperparameters import HyperParameters
from dqn.learning.losses import Loss, require_loss
from dqn.training.clock import Clock
from dqn.training.fits import require_state
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
