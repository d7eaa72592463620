"""Policies that live in a world, and what they live through."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from dqn.environments.making import make
from dqn.environments.world import World
from dqn.identification.record import Experience

Act = Callable[[npt.NDArray[np.float32]], int]


def balancing(gains: tuple[float, ...] = (0.05, 0.3, 6.0, 1.2), *, exploring: float = 0.0, seed: int = 0) -> Act:
    """A linear controller that takes a random action now and then."""
    generator = np.random.default_rng(seed)

    def act(observation: npt.NDArray[np.float32]) -> int:
        if exploring and generator.random() < exploring:
            return int(generator.integers(2))
        return int(observation @ np.array(gains) > 0)

    return act


def live(world: World, act: Act, transitions: int, *, seed: int = 0, push: float = 0.0) -> Experience:
    """Episode after episode; with a push, newtons to either side in a tenth of all steps."""
    env = make("CartPole-v1", world)
    generator = np.random.default_rng(seed)
    observations: list[Any] = []
    followings: list[Any] = []
    numbers: list[tuple[float, ...]] = []
    episode = 0
    while len(numbers) < transitions:
        observation, _ = env.reset(seed=1_000 * seed + episode)
        over, step = False, 0
        while not over and len(numbers) < transitions:
            action = act(observation)
            newtons = float(generator.choice((-push, push))) if generator.random() < 0.1 else 0.0
            following, _, terminated, truncated, _ = env.step(action, newtons)
            observations.append(observation)
            followings.append(following)
            numbers.append((action, newtons, episode, step))
            observation, over, step = following, terminated or truncated, step + 1
        episode += 1
    env.close()
    actions, pushes, episodes, steps = np.array(numbers).T
    return Experience(
        observation=np.array(observations, dtype=np.float64),
        action=actions.astype(np.int64),
        push=pushes,
        next_observation=np.array(followings, dtype=np.float64),
        episode=episodes.astype(np.int64),
        step=steps.astype(np.int64),
    )


def joined(*parts: Experience) -> Experience:
    """One experience after another."""
    episodes: list[Any] = []
    for part in parts:
        episodes.append(part.episode + (episodes[-1].max() + 1 if episodes else 0))
    others = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in ("observation", "action", "push", "next_observation", "step")
    }
    return Experience(episode=np.concatenate(episodes), **others)
