"""Environments that keep their state in awkward places: what a snapshot has to hold, or to be found out over."""

import enum
import itertools
import threading
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import WrapperSpec
from gymnasium.wrappers import TransformObservation

from tests.support.dqn.probes import Probe, Step

SHARED = np.random.default_rng(0)


class Walk(Probe):
    """Observed is a random number, which is the reward too; ends when `_over` says so."""

    def _draw(self) -> float:
        return float(self.np_random.uniform(-1, 1))

    def _over(self) -> bool:
        return self._draw() > 0.8

    def _start(self) -> float:
        return self._draw()

    def step(self, action: np.int64) -> Step:
        value = self._draw()
        return self._observe(value), value, self._over(), False, {}


class AliasedGenerator(Walk):
    def _start(self) -> float:
        self.alias = self.np_random
        return self._draw()

    def _draw(self) -> float:
        return float(getattr(self, "alias", self.np_random).uniform(-1, 1))


class Text(Walk):
    phase = "left"

    def _draw(self) -> float:
        self.phase = "right" if self.phase == "left" else "left"
        return (1.0 if self.phase == "left" else -1.0) * abs(super()._draw())


class IntegerKeys(Walk):
    def __init__(self) -> None:
        self.visits = {0: 0, 1: 0}

    def _draw(self) -> float:
        value = super()._draw()
        self.visits[int(value > 0)] += 1
        return value / (1 + self.visits[1])


class PhiloxGenerator(Walk):
    def _start(self) -> float:
        if not hasattr(self, "philox"):
            self.philox = np.random.Generator(np.random.Philox(int(self.np_random.integers(100))))
        return self._draw()

    def _draw(self) -> float:
        return float(self.philox.uniform(-1, 1))


class Phase(enum.IntEnum):
    DOWN = 0
    UP = 1


class Enumerated(Walk):
    phase = Phase.DOWN

    def _draw(self) -> float:
        self.phase = Phase(1 - self.phase)
        assert self.phase.name in ("DOWN", "UP")
        return super()._draw() * (0.5 + 0.5 * self.phase)


class NumpyScalar(Walk):
    position = np.float64(0.1)

    def _draw(self) -> float:
        self.position = np.float64(0.9) * self.position + np.float64(0.05) * super()._draw()
        assert type(self.position) is np.float64
        return float(self.position)


class ModuleGenerator(Walk):
    """Not seeded, not of the instance: no copy of it can draw the same."""

    def _draw(self) -> float:
        return float(SHARED.uniform(-1, 1))


class ClassCounter(Walk):
    counter = itertools.count()

    def _start(self) -> float:
        return (next(ClassCounter.counter) % 7) / 7


class Lock(Walk):
    def __init__(self) -> None:
        self.lock = threading.Lock()


class Rebuilt(Walk):
    """Pickles, but as one that has just been made."""

    def __reduce__(self) -> Any:
        return Rebuilt, ()


class LateLock(Walk):
    """Grows something that cannot be pickled only after a while."""

    steps = 0

    def step(self, action: np.int64) -> Step:
        self.steps += 1
        if self.steps > 200:
            self.lock = threading.Lock()
        return super().step(action)


class Halved(TransformObservation[Any, Any, Any]):
    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env, _half, env.observation_space)


def _half(observation: np.ndarray) -> np.ndarray:
    return observation / np.float32(2)


def register() -> None:
    """Make them known to Gymnasium, once; `Wrapped` is behind a chain of wrappers, the checker included."""
    for kind in (
        AliasedGenerator, Text, IntegerKeys, PhiloxGenerator, Enumerated, NumpyScalar, ModuleGenerator, ClassCounter,
        Lock, Rebuilt, LateLock,
    ):  # fmt: skip
        gym.register(
            f"{kind.__name__}-v0",
            f"tests.support.dqn.awkward:{kind.__name__}",
            max_episode_steps=20,
            disable_env_checker=True,
        )
    gym.register(
        "Wrapped-v0",
        "tests.support.dqn.awkward:Text",
        max_episode_steps=20,
        additional_wrappers=(
            WrapperSpec("PassiveEnvChecker", "gymnasium.wrappers:PassiveEnvChecker", {}),
            WrapperSpec("Halved", "tests.support.dqn.awkward:Halved", {}),
        ),
    )
