"""Each optional feature on a probe where it must help: the same training with and without it, by the same yardstick."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from dqn.config import DQNConfig
from dqn.training.loop import train
from dqn.training.result import TrainingResult
from dqn.training.state import TrainingState

BASE = DQNConfig(
    num_agents=8,
    num_envs=8,
    hidden_sizes=(32,),
    batch_size=32,
    replay_capacity=5_000,
    gamma=0.9,
    epsilon_end=1.0,
    learning_rate=1e-2,
    target_update_interval=50,
    double_dqn=False,
    eval_interval=10_000,
)
TENTHS = [k / 10 for k in range(10)]
DISCOUNTED = [0.9 ** (9 - k) for k in range(10)]


def error(result: TrainingResult, observations: Sequence[float], values: Sequence[float]) -> float:
    """Mean error of all agents' Q-values; every action has the same value in these probes."""
    observation = torch.tensor(observations).view(1, -1, 1).expand(result.config.num_agents, -1, 1)
    return float((result.final(observation) - torch.tensor(values)[:, None]).abs().mean())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("helps", "probe", "updates", "observations", "values"),
    [
        ({"n_step": 3}, "LongDelay", 80, TENTHS, DISCOUNTED),
        ({"target_update_interval": 0, "tau": 0.1}, "LongDelay", 80, TENTHS, DISCOUNTED),
        ({"priority_exponent": 0.6}, "RareReward", 350, TENTHS[1:], [math.sin(6 * x) for x in TENTHS[1:]]),
        ({"dueling": True}, "ManyActions", 40, [-1.0, -0.5, 0.0, 0.5, 1.0], [-1.0, -0.5, 0.0, 0.5, 1.0]),
        ({"loss": "huber"}, "Outliers", 80, [-1.0, 1.0], [-1.0, 1.0]),
    ],
    ids=["n-step", "polyak", "prioritised replay", "dueling", "huber"],
)
def test_values_are_learned_sooner(
    helps: dict[str, Any], probe: str, updates: int, observations: Sequence[float], values: Sequence[float]
) -> None:
    without = dataclasses.replace(BASE, env_id=f"Probe{probe}-v0", max_updates=updates)
    with_it = dataclasses.replace(without, **helps)
    assert error(train(with_it), observations, values) < 0.85 * error(train(without), observations, values)


def test_a_warm_start_goes_on_where_another_training_ended() -> None:
    config = dataclasses.replace(BASE, env_id="ProbeOutliers-v0", loss="huber", max_updates=80)
    teacher = train(config)
    short = dataclasses.replace(config, max_updates=5, seed=1)
    warm = TrainingState.begin(short, start=teacher.final.select(torch.tensor([3])))
    observation = torch.randn(1, 7, 1).expand(8, -1, 1)
    torch.testing.assert_close(warm.learner.online(observation), teacher.final(observation)[3].expand(8, -1, -1))
    values = [-1.0, 1.0]
    assert error(train(short, state=warm), values, values) < 0.4 * error(train(short), values, values)
