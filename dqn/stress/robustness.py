"""How much a policy withstands: the share of episodes it holds in worlds other than the one it was trained for."""

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
"""The one there is a stress test for."""
SINGLE_PUSH: Final = 250
"""Environment step of the one push whose greatest force is looked for."""
HELD_OF_PUSHED: Final = 0.99
_FORCES: Final = range(0, 128, 2)
_COARSE: Final = 8
"""Every eighth force is played first, then those between the two where a policy falls."""


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
        share = self.shares[self.worst_cell]
        shown = f"{share:.0%}" if share < 0.995 else f"{share:.1%}"
        worst = "every episode held" if share == 1 else f"worst at {self.worst_cell} ({shown})"
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
        act: as of `holds`.
        world: what was trained in; a cell replaces what it names.
        episodes: of each cell, and of each force of the single push.
        seed: of the first episode.
    """
    (tested,) = stress_tests(act, world, policies=1, episodes=episodes, seed=seed)
    return tested


def stress_tests(act: Act, world: World, *, policies: int, episodes: int, seed: int) -> list[StressTest]:
    """As many stress tests as there are policies, side by side and in the same episodes; `act` as of `holds`."""

    def play(cells: Sequence[Cell]) -> npt.NDArray[np.bool_]:
        return holds(act, world, cells, policies=policies, episodes=episodes, seed=seed)

    def survivals(forces: Sequence[int], held: npt.NDArray[np.bool_]) -> dict[int, npt.NDArray[np.bool_]]:
        return dict(zip(forces, held.mean(2) >= HELD_OF_PUSHED, strict=True))

    coarse = _FORCES[::_COARSE]
    held = play([*CELLS, *map(single_push, coarse[1:])])
    survived = {0: np.ones(policies, dtype=np.bool_)} | survivals(coarse[1:], held[len(CELLS) :])

    def greatest(policy: int, forces: Iterable[int]) -> int:
        return max(takewhile(lambda force: survived[force][policy], forces))  # survived are all smaller ones too

    lowest = [greatest(policy, coarse) for policy in range(policies)]
    between = [range(low, low + coarse.step, _FORCES.step) for low in lowest]
    fine = sorted({force for forces in between for force in forces[1:]})
    survived |= survivals(fine, play([*map(single_push, fine)]))
    return [
        StressTest(held=held[: len(CELLS), policy], push=greatest(policy, between[policy]))
        for policy in range(policies)
    ]


def holds(
    act: Act, world: World, cells: Sequence[Cell], *, policies: int = 1, episodes: int, seed: int
) -> npt.NDArray[np.bool_]:
    """Which episodes `[cells, policies, episodes]` are held for as many steps as their cell says.

    All are played side by side, and are the same for every policy and whichever cells are played.

    Args:
        act: maps observations `[C * policies * episodes, obs]` to as many actions, where C counts the cells that are
            not over yet.
        world: what was trained in; a cell replaces what it names.
        cells: what is changed, and for how long.
        policies: number of policies that `act` combines.
        episodes: of each policy in each cell.
        seed: determines the episodes.
    """
    worlds = [world.altered(cell.change) for cell in cells for _ in range(policies)]
    steps = np.array([cell.steps for cell in cells])
    envs = make_vec(ENVIRONMENT, worlds, num_envs=episodes, max_episode_steps=int(steps.max()))
    lasted = np.zeros((len(cells), policies * episodes), dtype=np.int64)
    cells_left, going_on = np.arange(len(cells)), np.ones_like(lasted, dtype=np.bool_)
    observation, _ = envs.reset(seed=seed)
    for step in range(1, int(steps.max()) + 1):
        observation, _, terminated, _, _ = envs.step(act(observation))
        require_finite("observation", observation, ENVIRONMENT, step=step)  # a pole that is nowhere never falls
        lasted[cells_left] += going_on
        going_on &= ~terminated.reshape(going_on.shape)
        staying = going_on.any(1) & (steps[cells_left] > step)
        if not staying.any():
            break
        if not staying.all():
            rows = np.repeat(staying, going_on.shape[1]).nonzero()[0]
            envs, observation = narrowed(envs, rows), observation[rows]
            cells_left, going_on = cells_left[staying], going_on[staying]
    envs.close()
    return (lasted >= steps[:, np.newaxis]).reshape(len(cells), policies, episodes)


def single_push(force: int) -> Cell:
    """One push of so many newtons, and as many steps after it as before."""
    change = World(push_force=float(force), push_interval=SINGLE_PUSH)
    return Cell(name=f"single push {force} N", change=change, steps=2 * SINGLE_PUSH)
