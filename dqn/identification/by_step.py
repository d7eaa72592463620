"""Identification of a changed environment by its own `step`, without equations of motion. Torch-free.

It works where an observation determines the state. The environment is set to each observed state, takes the observed
action, and has to arrive at the next observation; the unknowns are its attributes.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from gymnasium.envs.classic_control.acrobot import AcrobotEnv
from gymnasium.envs.classic_control.mountain_car import MountainCarEnv

from dqn.environments.conditions import ATTRIBUTES, FACTOR
from dqn.environments.making import make
from dqn.environments.world import NOMINAL, World
from dqn.identification.record import UnexplainedError

Floats = npt.NDArray[np.float64]

ENVIRONMENTS: Final = ("Acrobot-v1", "MountainCar-v0")
MOST: Final = 2
"""Number of fields and attributes that may have changed at once."""
_NEEDED: Final = 30
_READ: Final = 60  # transitions; one of Acrobot takes 0.1 ms, and every hypothesis is simulated some thirty times
_EXACT: Final = 1e-4  # root mean square of what float32 leaves of a residual, in deviations of the change of a step
_UNEXPLAINED: Final = 0.05
_ROUNDS: Final = 12
_FACTOR: Final = 8.0  # by which a value changes at most; a motor may also be reversed
_SAME: Final = 2e-3
_FURTHER: Final = ("LINK_MASS_1", "LINK_MASS_2", "LINK_COM_POS_1", "LINK_COM_POS_2")
_STATES: Final[dict[type, Callable[[Floats], Any]]] = {
    MountainCarEnv: tuple,
    AcrobotEnv: lambda seen: np.array([math.atan2(seen[1], seen[0]), math.atan2(seen[3], seen[2]), *seen[4:]]),
}


class _Steps:
    """Observed transitions, and the environment that has to repeat them."""

    def __init__(self, env_id: str, known: World, observed: Floats, actions: Sequence[int], arrived: Floats) -> None:
        self.env: Any = make(env_id, known).unwrapped
        self.nominal: Any = make(env_id, NOMINAL).unwrapped
        kind = next(kind for kind in _STATES if isinstance(self.env, kind))
        further = {f"attributes.{name}": (name,) for name in _FURTHER if hasattr(self.env, name)}
        self.names = ATTRIBUTES[kind] | further
        self._states: list[Any] = [_STATES[kind](row) for row in observed]
        self._actions, self._arrived = actions, arrived
        deviation = (arrived - observed).std(0)
        self._unit = np.where(deviation > 0, deviation, 1.0)

    def residual(self, names: Sequence[str], values: Floats) -> Floats:
        """Deviations `[N * obs]` of the next observations, if fields or attributes have these values."""
        before = [(attribute, getattr(self.env, attribute)) for name in names for attribute in self.names[name]]
        for name, value in zip(names, values, strict=True):
            for attribute in self.names[name]:
                setattr(self.env, attribute, float(value))
        predicted = np.empty_like(self._arrived)
        for row, (state, action) in enumerate(zip(self._states, self._actions, strict=True)):
            self.env.state = state
            predicted[row] = self.env.step(action)[0]
        for attribute, value in before:
            setattr(self.env, attribute, value)
        return np.asarray(((predicted - self._arrived) / self._unit).ravel())

    def fit(self, names: Sequence[str]) -> tuple[Floats, float]:
        """Values of fields or attributes with the least squared residual (Levenberg-Marquardt), and its mean square."""
        values = np.array([float(getattr(self.env, self.names[name][0])) for name in names])
        nominal = np.array([float(getattr(self.nominal, self.names[name][0])) for name in names])
        sizes = np.where(values == 0, nominal, values)
        ends = np.sort(np.stack([sizes / _FACTOR, sizes * _FACTOR]), axis=0)
        for column, name in enumerate(names):
            if name == "force_mag":
                ends[:, column] = np.array([-_FACTOR, _FACTOR]) * abs(sizes[column])
            elif name.startswith("attributes."):
                ends[:, column] = nominal[column] / FACTOR, nominal[column] * FACTOR
        steps, damping = 1e-4 * sizes, 1e-3
        residual = self.residual(names, values)
        for _ in range(_ROUNDS):
            tried = values + np.diag(steps)
            slope = np.stack([self.residual(names, row) - residual for row in tried], axis=1) / steps
            normal = slope.T @ slope
            change = np.linalg.lstsq(normal + damping * np.diag(np.diag(normal)), slope.T @ residual, rcond=None)[0]
            further = np.clip(values - change, *ends)
            there = self.residual(names, further)
            better = there @ there < residual @ residual
            damping *= 0.1 if better else 10
            if better:
                values, residual = further, there
            if residual @ residual < _EXACT**2 * len(residual) or damping > 1e4:
                break
        return values, float(residual @ residual) / len(residual)


def identify_by_step(
    env_id: str, known: World, observed: Floats, actions: npt.NDArray[np.int64], arrived: Floats
) -> World:
    """Find the smallest change of a known world that explains transitions.

    At most two fields or attributes have changed; of hypotheses that explain as much, the one with fewer is chosen
    (Schwarz's criterion). The goal and the rewards are in no observation and are not identified.

    Args:
        env_id: one of `ENVIRONMENTS`.
        known: the expected world, without ranges, delay, bias and noise.
        observed: `[N, obs]`, the observations before the steps.
        actions: `[N]`
        arrived: `[N, obs]`, the observations after the steps.

    Raises:
        UnexplainedError: if there are too few transitions, the known world is one of those above, the transitions are
            as it predicts, or no world explains them.
    """
    if len(actions) < _NEEDED:
        raise UnexplainedError(f"{len(actions)} transitions were observed, at least {_NEEDED} are needed")
    if known.action_delay or known.sensor_bias or known.sensor_noise or any(map(_is_range, known.flat().values())):
        raise UnexplainedError(f"changes of a world with ranges, delays, bias or noise are not identified in {env_id}")
    if not (np.isfinite(observed).all() and np.isfinite(arrived).all() and np.isin(actions, (0, 1, 2)).all()):
        raise UnexplainedError("the experience has observations that are not finite, or unknown actions")
    rows = np.unique(np.linspace(0, len(actions) - 1, _READ).astype(int))
    steps = _Steps(env_id, known, observed[rows], actions[rows].tolist(), arrived[rows])
    unchanged = steps.residual((), np.zeros(0))
    size = len(unchanged)
    found: list[tuple[float, tuple[str, ...], Floats, float]] = []
    for count in range(MOST + 1):
        for names in itertools.combinations(steps.names, count):
            values, square = steps.fit(names) if names else (np.zeros(0), float(unchanged @ unchanged) / size)
            found.append((size * math.log(max(square, _EXACT**2)) + count * math.log(size), names, values, square))
        if min(square for *_, square in found) <= _EXACT**2:
            break  # more changes explain no more
    _, names, values, square = min(found, key=lambda each: each[0])
    if square > _UNEXPLAINED**2:
        raise UnexplainedError(
            f"no change of {' or '.join(steps.names)} explains this: the best leaves a deviation of "
            f"{math.sqrt(square):.0%} of a step's change"
        )
    if not names:
        raise UnexplainedError("the steps are as predicted: the motion is the same, perhaps the goal has changed")
    return _changed(steps.nominal, known, steps.names, dict(zip(names, values.tolist(), strict=True)))


def _changed(nominal: Any, known: World, names: dict[str, tuple[str, ...]], values: dict[str, float]) -> World:
    """The known world with other values of fields and attributes.

    A value of the nominal environment is left out, except for an attribute that a field of the world changes too.
    """
    content, attributes = known.to_dict(), dict(known.attributes)
    for name, value in values.items():
        for attribute in names[name]:
            attributes.pop(attribute, None)
        place, key = (attributes, names[name][0]) if name.startswith("attributes.") else (content, name)
        own = float(getattr(nominal, names[name][0]))
        place[key] = own if abs(value - own) <= _SAME * abs(own) else float(f"{value:.4g}")
        if place[key] == own and not any(key in names.get(field, ()) for field in content.keys() - {name}):
            del place[key]
    return World.from_dict(content | {"attributes": attributes})


def _is_range(value: object) -> bool:
    return isinstance(value, tuple) and value != ()
