"""CartPole's stress test: the fraction of episodes that a policy balances in changed worlds. Torch-free."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from dqn.environments.making import make_vec
from dqn.environments.world import World
from dqn.environments.wrappers import narrowed
from dqn.evaluation.returns import Act
from dqn.finite import require_finite

ENVIRONMENT: Final = "CartPole-v1"
"""The only environment with a stress test."""
SINGLE_PUSH: Final = 250
"""Environment step of the single push."""
_SURVIVED: Final = 0.99
_FORCES: Final = range(0, 128, 2)
_COARSE: Final = 8
"""First every eighth force is tested, then the forces between the greatest survived one and the next."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One test: a change of the world, and the number of steps to balance."""

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
    """The result of a policy's stress test."""

    balanced: npt.NDArray[np.bool_]
    """`[cells, episodes]`, whether the pole was balanced to the end; equal seeds give equal episodes"""
    push: int
    """Greatest single push, in newtons, that the policy survives in 99% of the episodes."""

    @property
    def shares(self) -> dict[str, float]:
        """Fraction of balanced episodes by cell."""
        return {cell.name: float(share) for cell, share in zip(CELLS, self.balanced.mean(1), strict=True)}

    @property
    def robustness(self) -> float:
        """Mean over cells of the fraction of balanced episodes."""
        return float(self.balanced.mean())

    @property
    def worst_cell(self) -> str:
        """Name of the cell with the smallest fraction; the first if several."""
        return min(self.shares, key=self.shares.__getitem__)

    def __str__(self) -> str:
        """A summary in one line."""
        share = self.shares[self.worst_cell]
        shown = f"{share:.0%}" if share < 0.995 else f"{share:.1%}"
        worst = "every episode balanced" if share == 1 else f"worst at {self.worst_cell} ({shown})"
        return f"robustness {self.robustness:.3f}, {worst}, single push {self.push} N"

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {"cells": list(self.shares), "held": self.balanced.astype(int).tolist(), "push": self.push}

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Self:
        """Inverse of `to_dict`."""
        return cls(balanced=np.array(content["held"], dtype=np.bool_), push=int(content["push"]))


def stress_test(act: Act, world: World, *, episodes: int, seed: int) -> StressTest:
    """Play every cell.

    Args:
        act: as in `balances`.
        world: the world that the policy was trained for; a cell replaces some of its fields.
        episodes: number of episodes per cell, and per force of the single push.
        seed: determines the episodes.
    """
    (tested,) = stress_tests(act, world, policies=1, episodes=episodes, seed=seed)
    return tested


def stress_tests(act: Act, world: World, *, policies: int, episodes: int, seed: int) -> list[StressTest]:
    """The stress tests of several policies, in parallel and on the same episodes; `act` as in `balances`."""

    def play(cells: Sequence[Cell]) -> npt.NDArray[np.bool_]:
        return balances(act, world, cells, policies=policies, episodes=episodes, seed=seed)

    def survivals(forces: Sequence[int], balanced: npt.NDArray[np.bool_]) -> dict[int, npt.NDArray[np.bool_]]:
        return dict(zip(forces, balanced.mean(2) >= _SURVIVED, strict=True))

    coarse = _FORCES[::_COARSE]
    balanced = play([*CELLS, *map(single_push, coarse[1:])])
    survived = {0: np.ones(policies, dtype=np.bool_)} | survivals(coarse[1:], balanced[len(CELLS) :])

    def greatest(policy: int, forces: Iterable[int]) -> int:
        return max(takewhile(lambda force: survived[force][policy], forces))  # all smaller forces are survived too

    lowest = [greatest(policy, coarse) for policy in range(policies)]
    between = [range(low, low + coarse.step, _FORCES.step) for low in lowest]
    fine = sorted({force for forces in between for force in forces[1:]})
    survived |= survivals(fine, play([*map(single_push, fine)]))
    return [
        StressTest(balanced=balanced[: len(CELLS), policy], push=greatest(policy, between[policy]))
        for policy in range(policies)
    ]


def balances(
    act: Act, world: World, cells: Sequence[Cell], *, policies: int = 1, episodes: int, seed: int
) -> npt.NDArray[np.bool_]:
    """Which episodes `[cells, policies, episodes]` are balanced for the number of steps of their cell.

    All episodes are played in parallel. They are the same for every policy, and do not depend on the other cells.

    Args:
        act: maps observations `[C * policies * episodes, obs]` to as many actions, where C is the number of cells that
            have not ended.
        world: the world that the policies were trained for; a cell replaces some of its fields.
        cells: changes of the world, and numbers of steps.
        policies: number of policies that `act` combines.
        episodes: number of episodes per policy and cell.
        seed: determines the episodes.
    """
    worlds = [world.altered(cell.change) for cell in cells for _ in range(policies)]
    steps = np.array([cell.steps for cell in cells])
    envs = make_vec(ENVIRONMENT, worlds, num_envs=episodes, max_episode_steps=int(steps.max()))
    lasted = np.zeros((len(cells), policies * episodes), dtype=np.int64)
    cells_left, balancing = np.arange(len(cells)), np.ones_like(lasted, dtype=np.bool_)
    observation, _ = envs.reset(seed=seed)
    for step in range(1, int(steps.max()) + 1):
        observation, _, terminated, _, _ = envs.step(act(observation))
        require_finite("observation", observation, ENVIRONMENT, step=step)  # a NaN angle never exceeds the limit
        lasted[cells_left] += balancing
        balancing &= ~terminated.reshape(balancing.shape)
        staying = balancing.any(1) & (steps[cells_left] > step)
        if not staying.any():
            break
        if not staying.all():
            rows = np.repeat(staying, balancing.shape[1]).nonzero()[0]
            envs, observation = narrowed(envs, rows), observation[rows]
            cells_left, balancing = cells_left[staying], balancing[staying]
    envs.close()
    return (lasted >= steps[:, np.newaxis]).reshape(len(cells), policies, episodes)


def single_push(force: int) -> Cell:
    """A cell with one push of `force` newtons, with as many steps after it as before."""
    change = World(push_force=float(force), push_interval=SINGLE_PUSH)
    return Cell(name=f"single push {force} N", change=change, steps=2 * SINGLE_PUSH)
