"""How much a policy withstands: the share of episodes it holds in worlds other than the one it was trained for."""

from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from dqn.evaluation import Act, episodic_returns
from dqn.world import World

ENVIRONMENT: Final = "CartPole-v1"
"""The one there is a stress test for."""
SINGLE_PUSH: Final = 250
"""Environment step of the one push whose greatest force is looked for."""
HELD_OF_PUSHED: Final = 0.99
_FORCES: Final = range(0, 128, 2)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One of the tests: what is changed, and for how long it has to be held."""

    name: str
    change: World
    steps: int = 500


CELLS: Final = (
    Cell(name="10,000 steps", change=World(), steps=10_000),
    Cell(name="pushes 40 N", change=World(push_force=40.0, push_interval=100)),
    Cell(name="pushes 60 N", change=World(push_force=60.0, push_interval=100)),
    Cell(name="length 2 m", change=World(length=2.0)),
    Cell(name="gravity 30", change=World(gravity=30.0)),
    Cell(name="tau 0.04 s", change=World(tau=0.04)),
    Cell(name="delay 2", change=World(action_delay=2)),
    Cell(name="bias 0.03 rad", change=World(sensor_bias=(0.0, 0.0, 0.03, 0.0))),
    Cell(name="noise 0.05", change=World(sensor_noise=(0.05,) * 4)),
)


@dataclass(frozen=True, kw_only=True)
class StressTest:
    """What a policy held."""

    held: npt.NDArray[np.bool_]
    """`[cells, episodes]`, the same episodes for every policy that plays the same seed."""
    push: int
    """Greatest single push in newtons that is survived in 99 of 100 episodes."""

    @property
    def shares(self) -> dict[str, float]:
        """Share of episodes held, by cell."""
        return {cell.name: float(share) for cell, share in zip(CELLS, self.held.mean(1), strict=True)}

    @property
    def robustness(self) -> float:
        """Mean over cells of the share of episodes held."""
        return float(self.held.mean())

    @property
    def worst_cell(self) -> str:
        """Name of the cell with the smallest share; of equals the first."""
        return min(self.shares, key=self.shares.__getitem__)

    def __str__(self) -> str:
        """For a person, one line."""
        worst = f"worst at {self.worst_cell} ({self.shares[self.worst_cell]:.0%})"
        return f"robustness {self.robustness:.3f}, {worst}, single push {self.push} N"

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {"cells": list(self.shares), "held": self.held.astype(int).tolist(), "push": self.push}

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Self:
        """Inverse of `to_dict`."""
        return cls(held=np.array(content["held"], dtype=np.bool_), push=int(content["push"]))


def stress_test(act: Act, world: World, *, episodes: int, seed: int) -> StressTest:
    """Play every cell, each a change of the world that the policy was trained for.

    Args:
        act: as of `episodic_returns`.
        world: what was trained in; a cell replaces what it names.
        episodes: of each cell, and of each force of the single push.
        seed: of the first episode.
    """
    held = np.stack([holds(act, world, cell, episodes=episodes, seed=seed) for cell in CELLS])

    def survives(force: int) -> bool:
        cell = Cell(name="", change=World(push_force=float(force), push_interval=SINGLE_PUSH), steps=2 * SINGLE_PUSH)
        return bool(holds(act, world, cell, episodes=episodes, seed=seed).mean() >= HELD_OF_PUSHED)

    low, high = 0, len(_FORCES)  # the first is no push; whoever survives a force survives a smaller one
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if survives(_FORCES[middle]) else (low, middle)
    return StressTest(held=held, push=_FORCES[low])


def altered(world: World, cell: Cell) -> World:
    """A world with what a cell names in place of its own."""
    return world.altered(cell.change)


def holds(act: Act, world: World, cell: Cell, *, episodes: int, seed: int) -> npt.NDArray[np.bool_]:
    """Which episodes `[episodes]` of a cell are held to the end."""
    changed = altered(world, cell)
    returns = episodic_returns(
        act, ENVIRONMENT, changed, num_episodes=episodes, seed=seed, max_episode_steps=cell.steps
    )
    return np.asarray(returns >= cell.steps)
