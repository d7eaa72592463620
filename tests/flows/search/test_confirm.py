"""A winner on fresh seeds: which agents train, the seeds of the test, and the sentence about the result."""

import dataclasses
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from dqn.evaluation.statistics import bootstrap_interval, interquartile_mean
from dqn.presets import PRESETS
from dqn.seeding import TEST, stream_seed
from flows.search import confirm as module
from flows.search.confirm import Confirmation, confirm, fresh

CARTPOLE = PRESETS["cartpole"]


def test_no_shard_has_trained_the_seeds_of_a_confirmation(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, ...]] = []

    def drawn(*what: int) -> int:
        asked.append(what)
        return 5

    monkeypatch.setattr(module, "stream_seed", drawn)
    config = fresh(dataclasses.replace(CARTPOLE, gamma=0.9), seed=3)
    assert config == dataclasses.replace(CARTPOLE, gamma=0.9, num_agents=16, seed=5)
    [(seed, _, shard)] = asked
    assert seed == 3
    assert shard == 1_048_576  # no sweep has a million shards


def test_a_winner_is_trained_and_its_best_networks_play_unseen_episodes(monkeypatch: pytest.MonkeyPatch) -> None:
    config = dataclasses.replace(CARTPOLE, num_agents=2, seed=8)
    agents: Any = tuple(SimpleNamespace(solved=solved, diverged=None) for solved in (True, False))
    trained = SimpleNamespace(best="the best networks", agents=agents, cpu_seconds=4.0)
    played: list[Any] = []

    def greedy_returns(*what: Any, **options: Any) -> torch.Tensor:
        played.append((what, options, torch.is_grad_enabled()))
        return torch.tensor([[1.0, 2.0], [3.0, 4.0]])

    monkeypatch.setattr(module, "train", lambda asked: trained if asked == config else None)
    monkeypatch.setattr(module, "greedy_returns", greedy_returns)
    confirmation = confirm(11, config)
    seed = stream_seed(8, TEST, 0)
    assert played == [(("the best networks", config.environment, config.world), {"episodes": 100, "seed": seed}, False)]
    assert (confirmation.trial, confirmation.config, confirmation.agents) == (11, config, agents)
    assert (confirmation.returns.tolist(), confirmation.cpu_seconds) == ([[1.0, 2.0], [3.0, 4.0]], 4.0)
    assert confirmation.solved_fraction == 0.5


def test_what_is_claimed_is_said_with_its_interval() -> None:
    agents: Any = tuple(SimpleNamespace(solved=k < 3, updates=1_000 * k, diverged=None) for k in range(8))
    returns = np.random.default_rng(0).uniform(0.0, 500.0, size=(8, 5))
    confirmation = Confirmation(trial=11, config=CARTPOLE, agents=agents, returns=returns, cpu_seconds=20.0)
    mean = interquartile_mean(returns.mean(1))
    low, high = bootstrap_interval(returns.mean(1), seed=0)
    others = [bootstrap_interval(returns.mean(1), seed=seed) for seed in range(1, 4)]
    assert all(f"{low:.1f} to {high:.1f}" != f"{a:.1f} to {b:.1f}" for a, b in others)
    assert confirmation.mean_return == mean
    sentence = (
        f"Trained anew on 8 fresh seeds, trial 11 returns {mean:.1f} ({low:.1f} to {high:.1f}, interquartile mean with "
        "its 95% bootstrap interval) over 5 unseen episodes each; 3 of 8 solved it, 3,500 updates an agent, 2.50 "
        "CPU-seconds each."
    )
    assert confirmation.sentence == sentence
    untold = dataclasses.replace(
        confirmation, config=dataclasses.replace(CARTPOLE, acceptance_return=None, acceptance_epsilon=0.0)
    )
    assert untold.sentence == sentence.replace("3 of 8 solved it, ", "")


def test_agents_that_diverged_are_said_and_count_in_no_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    agents: Any = tuple(SimpleNamespace(solved=False, updates=10 + k, diverged=7 if k else None) for k in range(2))
    trained = SimpleNamespace(best="the best networks", agents=agents, cpu_seconds=4.0)
    monkeypatch.setattr(module, "train", lambda _: trained)
    monkeypatch.setattr(module, "greedy_returns", lambda *_, **__: torch.tensor([[1.0, 2.0], [300.0, 400.0]]))
    confirmation = confirm(11, CARTPOLE)
    assert confirmation.mean_return == 1.5
    assert "on 2 fresh seeds, trial 11 returns 1.5 " in confirmation.sentence
    assert "; 1 diverged and count in no mean, 0 of 2 solved it, 10 updates an agent, 2.00 " in confirmation.sentence
