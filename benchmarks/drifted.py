"""CartPole as the experiments of Dr. DRL change it (Haj Yahmed et al., 2023, arXiv 2308.12445), and their runs.

Their code sets masses and length of an environment that is already built. What its constructor has computed stays as it
was: a total mass of 1.1 kg, and 0.05 kg m as the product of the pole's mass and half length. The cart's mass therefore
has no effect, and a pole above 1.47 kg has a negative inertia: gravity turns it upright. Friction is a constant force
against the cart's motion. These are not the physics that the parameters name, and `World` does not contain them.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.envs.classic_control.cartpole import CartPoleEnv

from benchmarks.workbook import runs
from dqn.environments.cartpole import CartPoles

STEPS: Final = 200
"""Time limit of their episodes."""
HEALED: Final = 195.0
"""Least mean return of a run that they call healed."""
_FORCE: Final = 10.0
_TOTAL_MASS: Final = 1.1
_MASS_LENGTH: Final = 0.05


@dataclass(frozen=True, kw_only=True)
class Drift:
    """The changes that have an effect."""

    masspole: float
    """In kilograms, in the pole's inertia alone."""
    length: float
    """Half the pole's length in metres, in its inertia alone."""
    friction: float
    """In newtons."""

    @property
    def kind(self) -> str:
        """Its motion, in words."""
        inertia = "negative inertia" if self.masspole > 4 / 3 * _TOTAL_MASS else "positive inertia"
        if not self.friction:
            return f"{inertia}, no friction"
        return f"{inertia}, friction {'below' if self.friction < _FORCE else 'above'} the motor's force"


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run, with the mean returns that Dr. DRL has published for it."""

    name: str
    drift: Drift
    fine_tuned: float
    """After fine-tuning their agent."""
    dr_drl: float
    """After their method."""


class DriftedCartPole(CartPoleEnv):
    """Gymnasium's CartPole after a drift."""

    friction = 0.0

    def __init__(self, drift: Drift, **options: Any) -> None:
        super().__init__(**options)
        drift_in_place(self, drift)

    def step(self, action: Any) -> Any:
        """Take an action, which friction helps or hinders."""
        assert self.state is not None, "reset before the first step"
        self.total_mass, self.polemass_length = _TOTAL_MASS, _MASS_LENGTH  # a world computes them anew
        self.force_mag = _FORCE - (2 * int(action) - 1) * self.friction * float(np.sign(self.state[1]))
        return super().step(action)  # type: ignore[no-untyped-call] # Gymnasium's


class DriftedCartPoles(CartPoles):
    """The same for N sub-environments."""

    def __init__(self, drift: Drift, **options: Any) -> None:
        super().__init__(**options)
        self.masspole, self.length, self.friction = drift.masspole, drift.length, drift.friction

    def step(self, action: npt.NDArray[np.integer[Any]]) -> Any:
        """Take actions `[N]`."""
        assert self.state is not None, "reset before the first step"
        self.force_mag: Any = _FORCE - (2 * action - 1) * self.friction * np.sign(self.state[1])
        return super().step(action)


def drift_in_place(env: CartPoleEnv, drift: Drift) -> None:
    """Change an environment in mid-episode, as their code does."""
    env.__class__ = DriftedCartPole
    env.masspole, env.length = drift.masspole, drift.length
    env.friction = drift.friction  # type: ignore[attr-defined] # it is one now


def registered(run: Run) -> str:
    """The id by which Gymnasium makes the drifted environment of a run."""
    env_id = f"Drifted{run.name.replace('_', 'x')}-v0"
    gym.register(
        env_id,
        partial(DriftedCartPole, run.drift),
        max_episode_steps=STEPS,
        vector_entry_point=partial(DriftedCartPoles, run.drift),
    )
    return env_id


def published(workbook: Path) -> list[Run]:
    """The runs in a workbook of their repository."""
    return [
        Run(
            name=each["instance"],
            drift=Drift(masspole=each["masspole"], length=each["length"], friction=each["cart_friction"]),
            fine_tuned=each["vanilla_average_reward"],
            dr_drl=each["pruning_average_reward"],
        )
        for each in runs(workbook)
    ]
