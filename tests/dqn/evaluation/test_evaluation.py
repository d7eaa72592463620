from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv

from dqn.environments.making import make_vec
from dqn.environments.spec import EnvironmentUnsupportedError
from dqn.environments.world import NOMINAL, World
from dqn.evaluation import returns
from dqn.evaluation.returns import Act, episodic_returns
from dqn.evaluation.statistics import bootstrap_interval, interquartile_mean


def always(action: int) -> Act:
    return lambda observation: np.full(len(observation), action)


def lean(observation: np.ndarray) -> np.ndarray:
    """Push the cart to where the pole leans: falls later than under a constant push."""
    return (observation[:, 2] > 0).astype(np.int64)


def test_a_return_is_that_of_the_first_episode_alone() -> None:
    assert episodic_returns(always(0), "ProbeEndlessReward-v0", num_episodes=3, seed=0).tolist() == [5.0] * 3
    assert episodic_returns(always(1), "ProbeActionReward-v0", num_episodes=2, seed=0).tolist() == [1.0] * 2
    assert episodic_returns(always(0), "ProbeActionReward-v0", num_episodes=2, seed=0).tolist() == [-1.0] * 2


def test_episodes_of_different_lengths_count_once() -> None:
    observations: list[np.ndarray] = []

    def act(observation: np.ndarray) -> np.ndarray:
        observations.append(observation)
        return np.zeros(len(observation), dtype=np.int64)

    returns = episodic_returns(act, "ProbeRandomLength-v0", num_episodes=40, seed=0)
    assert returns.tolist() == np.round(observations[0][:, 0] * 10).tolist()
    assert len(set(returns)) > 5
    assert len(observations) == max(returns), "it ends with the longest"


def test_cartpole_falls_sooner_under_a_constant_push() -> None:
    returns = episodic_returns(always(0), "CartPole-v1", num_episodes=50, seed=1)
    assert 7 < returns.min() < returns.max() < 12
    assert episodic_returns(lean, "CartPole-v1", num_episodes=50, seed=1).min() > 20


def test_the_seed_decides() -> None:
    first, again, other = (
        episodic_returns(lean, "CartPole-v1", num_episodes=20, seed=seed).tolist() for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other


class Untimed(CartPoleVectorEnv):
    """A vector implementation that knows of no time limit."""

    def step(self, action: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        self.steps[:] = 0
        assert self.state is not None
        self.state[:] = 0.0
        return super().step(action)


def test_an_evaluation_ends_at_the_time_limit_whatever_the_environment_does() -> None:
    gym.register("Untimed-v0", vector_entry_point="tests.dqn.evaluation.test_evaluation:Untimed", max_episode_steps=7)
    gym.register("Endless-v0", "tests.support.dqn.probes:EndlessReward", disable_env_checker=True)
    try:
        assert episodic_returns(always(0), "Untimed-v0", num_episodes=3, seed=0).tolist() == [7.0] * 3
        with pytest.raises(EnvironmentUnsupportedError, match="no time limit"):
            episodic_returns(always(0), "Endless-v0", num_episodes=3, seed=0)
    finally:
        gym.registry.pop("Untimed-v0")
        gym.registry.pop("Endless-v0")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.0, 2.0, 3.0, 4.0], 2.5),
        ([0.0, 10.0, 20.0, 1_000.0], 15.0),
        ([7.0], 7.0),
        ([1.0, 2.0], 1.5),
        ([1.0, 2.0, 6.0], ((1 / 3 - 1 / 4) * (1 + 6) + 1 / 3 * 2) / (1 / 2)),  # a quarter cuts into a third
    ],
)
def test_interquartile_mean(values: list[float], expected: float) -> None:
    assert interquartile_mean(np.array(values)) == pytest.approx(expected)


def test_the_bootstrap_interval_holds_the_mean_and_narrows_with_agreement() -> None:
    values = np.random.default_rng(0).normal(100.0, 10.0, 64)
    low, high = bootstrap_interval(values, seed=0)
    assert low < interquartile_mean(values) < high
    assert bootstrap_interval(np.full(16, 500.0), seed=0) == (500.0, 500.0)
    assert bootstrap_interval(values, seed=0) == (low, high)


def test_the_bootstrap_interval_is_that_of_the_resamples_means() -> None:
    values = np.array([1.0, 2.0, 4.0, 8.0, 16.0])
    means = [interquartile_mean(sample) for sample in np.random.default_rng(3).choice(values, (2_000, 5))]
    assert bootstrap_interval(values, seed=3) == pytest.approx(np.quantile(means, [0.025, 0.975]))
    assert bootstrap_interval(values, seed=3, level=0.5) == pytest.approx(np.quantile(means, [0.25, 0.75]))


def test_what_was_played_in_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    made = [make_vec("Acrobot-v1", num_envs=1)]
    monkeypatch.setattr(returns, "make_vec", lambda *_, **__: made[0])
    episodic_returns(always(0), "Acrobot-v1", num_episodes=1, seed=0, max_episode_steps=3)
    assert made[0].closed


def test_episodes_are_played_in_a_world_and_as_long_as_asked() -> None:
    def balance(observation: np.ndarray) -> np.ndarray:
        return np.asarray(observation @ np.array([0.1, 0.3, 1.0, 0.9]) > 0, dtype=np.int64)

    def mean(world: World = NOMINAL, steps: int | None = None) -> float:
        return float(
            episodic_returns(balance, "CartPole-v1", world, num_episodes=20, seed=0, max_episode_steps=steps).mean()
        )

    assert mean() == 500
    assert mean(steps=700) == 700
    assert mean(World(force_mag=-10.0)) < 30
