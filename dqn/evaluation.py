"""Greedy returns of anything that acts, and the statistics a set of returns deserves. Torch-free."""

from collections.abc import Callable
from contextlib import closing

import numpy as np
import numpy.typing as npt

from dqn.finite import require_finite
from dqn.simulation import make_vec
from dqn.spec import environment_spec
from dqn.world import NOMINAL, World

Floats = npt.NDArray[np.floating]
Act = Callable[[npt.NDArray[np.float32]], npt.NDArray[np.integer]]


def episodic_returns(
    act: Act,
    env_id: str,
    world: World = NOMINAL,
    *,
    num_episodes: int,
    seed: int,
    max_episode_steps: int | None = None,
) -> npt.NDArray[np.float64]:
    """Undiscounted returns `[num_episodes]` of as many episodes played side by side.

    Args:
        act: maps observations `[num_episodes, obs]` to actions `[num_episodes]`.
        env_id: a registered Gymnasium environment with a time limit, at which its episodes end in any case.
        world: what the episodes are like.
        num_episodes: number of sub-environments; the first episode of each counts.
        seed: determines every initial state and every random transition.
        max_episode_steps: another time limit than the environment's own.

    Raises:
        EnvironmentUnsupportedError: if the environment is unknown, has no time limit or cannot be what the world says.
        EnvironmentFaultError: if an observation or a reward is not finite.
    """
    envs = make_vec(env_id, world, num_envs=num_episodes, max_episode_steps=max_episode_steps)
    limit = max_episode_steps or environment_spec(env_id).max_episode_steps
    assert limit is not None, "environment_spec refuses what has no limit"
    returns = np.zeros(num_episodes)
    finished = np.zeros(num_episodes, dtype=np.bool_)
    with closing(envs):
        observation, _ = envs.reset(seed=seed)
        require_finite("observation", observation, env_id, step=0)
        for step in range(1, limit + 1):  # a vector implementation may know of no limit
            action = act(np.asarray(observation, dtype=np.float32))
            observation, reward, terminated, truncated, _ = envs.step(action)
            require_finite("observation", observation, env_id, step=step)
            require_finite("reward", reward, env_id, step=step)
            returns += np.where(finished, 0.0, reward)
            finished |= terminated | truncated
            if finished.all():
                break
    return returns


def interquartile_mean(values: Floats) -> float:
    """Mean of the middle half of `values` `[N]` (Agarwal et al., 2021, section 4.3).

    Each value weighs in by how much of its 1/N share lies between the quartiles, so N need not divide by four.
    """
    return float(_interquartile_means(np.asarray(values, dtype=np.float64)))


def bootstrap_interval(
    values: Floats, *, seed: int, level: float = 0.95, resamples: int = 2_000
) -> tuple[float, float]:
    """Percentile bootstrap interval of the interquartile mean of `values` `[N]`."""
    generator = np.random.default_rng(seed)
    samples = generator.choice(np.asarray(values, dtype=np.float64), size=(resamples, len(values)))
    low, high = np.quantile(_interquartile_means(samples), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _interquartile_means(samples: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Of samples `[..., N]`, `[...]`."""
    N = samples.shape[-1]
    weights = np.diff(np.clip(np.arange(N + 1) / N, 0.25, 0.75))
    return np.asarray(np.average(np.sort(samples, axis=-1), axis=-1, weights=weights))
