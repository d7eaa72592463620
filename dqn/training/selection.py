"""Greedy evaluation of the population: acceptance, best networks, divergence, and the final comparison.

Selection has two rounds. During training, cheap evaluations determine each agent's best network. Their maximum over
many evaluations is biased upwards. At the end, the best networks of the leading agents therefore play the same fresh
episodes. Solved agents play two more rounds under stress (`dqn.stress.finalists`).
"""

import torch
from torch import Tensor

from dqn.config import DQNConfig
from dqn.evaluation.greedy import greedy_returns
from dqn.evaluation.statistics import interquartile_mean
from dqn.seeding import SELECTION, stream_seed
from dqn.training.state import TrainingState

NOMINEES = 8


def evaluation_due(config: DQNConfig, updates: int) -> bool:
    """Whether the population is evaluated after this number of updates."""
    return updates >= config.eval_start and (updates - config.eval_start) % config.eval_interval == 0


def evaluate(state: TrainingState) -> None:
    """Evaluate the agents in training on selection seeds, update their best networks, and remove solved agents.

    Agents with non-finite weights, Q-values or returns leave as diverged.
    """
    if state.evaluated_at == state.learner.updates:
        return
    diverge(state, state.learner.finite(), "weights or moments are not finite")
    _check_q_values(state)
    if not state.agents.numel():
        return
    config, networks = state.config, state.learner.evaluated
    state.evaluated_at = state.learner.updates
    state.evaluations += 1
    seed = stream_seed(config.seed, SELECTION, state.evaluations, 0)
    returns = greedy_returns(
        networks,
        state.environment.origin,
        config.training_worlds(state.agents.tolist()),
        episodes=config.eval_episodes,
        seed=seed,
    )
    mean_return = eval_mean = returns.mean(1)
    ceiling = torch.inf if config.acceptance_return is None else config.acceptance_return
    sound = returns.isfinite().all(1)
    passed = ((returns >= ceiling).all(1) & sound).nonzero().squeeze(1)
    # The second trial, if configured, makes some of the actions random.
    for trial, epsilon in enumerate([0.0] + [config.acceptance_epsilon] * bool(config.acceptance_epsilon), start=1):
        if not passed.numel():
            break
        seed = stream_seed(config.seed, SELECTION, state.evaluations, trial)
        episodes = config.acceptance_episodes
        returns = greedy_returns(
            networks.select(passed),
            state.environment.origin,
            config.training_worlds(state.agents[passed].tolist()),
            episodes=episodes,
            seed=seed,
            epsilon=epsilon,
        )
        if not epsilon:
            mean_return = eval_mean.index_copy(0, passed, returns.mean(1))
        sound[passed] &= returns.isfinite().all(1)
        passed = passed[(returns >= ceiling).all(1)]
    if not bool(sound.all()):
        passed = (sound.cumsum(0) - 1)[passed[sound[passed]]]
        mean_return, eval_mean = mean_return[sound], eval_mean[sound]
        diverge(state, sound, "a return of its evaluation is not finite")
        if not state.agents.numel():
            return
        networks = state.learner.evaluated
    state.record("eval/mean_return", mean_return)
    state.last_return[state.agents] = mean_return
    better = eval_mean >= state.best_return[state.agents]  # each is the mean of eval_episodes returns
    better[passed] = True  # an accepted network is exported, whatever an earlier one returned
    better = better.nonzero().squeeze(1)
    state.best.assign(state.agents[better], networks.select(better))
    state.best_return[state.agents[better]] = eval_mean[better]
    state.solved[state.agents[passed]] = True
    state.record_population("eval/iqm_return", interquartile_mean(state.last_return[state.sound].numpy()))
    state.record_population("eval/solved_fraction", float(state.solved.double().mean()))
    leave(state, passed)


def judge(state: TrainingState) -> dict[int, float]:
    """Mean greedy returns of the leading agents' best networks on the same fresh episodes, by agent.

    The order is: solved agents first, then by the return of their best evaluation, then by fewest updates. The
    comparison ends early at an agent that reaches the acceptance return in every episode. Diverged agents are excluded.
    Agents with worlds of their own all play, each in its own, in one group.
    """
    config = state.config

    def standing(agent: int) -> tuple[bool, float, int]:
        return not state.solved[agent], -float(state.best_return[agent]), int(state.updates[agent])

    seed = stream_seed(config.seed, SELECTION, 0)
    judged = {}
    leading = sorted(state.sound.tolist(), key=standing)
    for agents in [leading] if config.worlds and leading else [[agent] for agent in leading[:NOMINEES]]:
        played = greedy_returns(
            state.best.select(torch.tensor(agents)),
            state.environment.origin,
            config.training_worlds(agents),
            episodes=config.acceptance_episodes,
            seed=seed,
        )
        for agent, returns in zip(agents, played, strict=True):
            if bool(returns.isfinite().all()):
                judged[agent] = float(returns.mean())
            else:
                state.diverged[agent] = int(state.updates[agent]), "a return of the final comparison is not finite"
        accepted = config.acceptance_return is not None and bool((played >= config.acceptance_return).all())
        if accepted and not any(agent in state.diverged for agent in agents):
            break
    return judged


def retire(state: TrainingState) -> None:
    """Evaluate, then remove agents that have reached `max_episodes`."""
    limit = state.config.max_episodes
    if limit and bool((state.episodes[state.agents] >= limit).any()):
        evaluate(state)
        leave(state, (state.episodes[state.agents] >= limit).nonzero().squeeze(1))


def diverge(state: TrainingState, sound: Tensor, reason: str) -> None:
    """Remove the agents in training for which `sound` is false; they count as diverged.

    `sound` is `[K]`, or one value for all. The best network of a diverged agent remains, also as its last one.
    """
    if bool(sound.all()):
        return
    rows = (~sound).nonzero().squeeze(1)
    leaving = state.agents[rows]
    state.diverged |= dict.fromkeys(leaving.tolist(), (state.learner.updates, reason))
    state.learner.evaluated.assign(rows, state.best.select(leaving))
    leave(state, rows)


@torch.no_grad()
def _check_q_values(state: TrainingState) -> None:
    if state.agents.numel():
        q_values = state.learner.evaluated(state.environment.observation.to(state.config.device))
        diverge(state, q_values.isfinite().flatten(1).all(1).cpu(), "Q-values are not finite")


def leave(state: TrainingState, rows: Tensor) -> None:
    """Remove the agents in `rows`, an index tensor into the agents in training; the others are unaffected."""
    if not rows.numel():
        return
    leaving = state.agents[rows]
    state.record_returns(leaving)
    state.final.assign(leaving, state.learner.evaluated.select(rows))
    state.updates[leaving] = state.learner.updates
    state.steps[leaving] = state.environment_steps
    if not state.environment.spaces.is_image:  # the range of a pixel says nothing
        state.observed[leaving] = state.replay.observation_range(rows)
    staying = torch.ones(len(state.agents), dtype=torch.bool)
    staying[rows] = False
    state.select(staying.nonzero().squeeze(1))
