"""Finds what has changed about CartPole's world, from steps that differ from the prediction.

Every explanation is one quantity, or two: the motor's force, wind, gravity and the angle's bias move the velocities
after a step in proportion, so least squares gives them in closed form; delay, lengths and masses are found by search.
The best explanation by the Bayesian information criterion is reported if it fits the steps and no other one does;
otherwise the sentence says that it is not sure. The sentence is for a person: training identifies the world itself,
with intervals (`dqn.identification`).
"""

import dataclasses
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from dqn.environments.world import World
from serving.loop.cartpole import CartPole, middle
from serving.loop.drift import StepTest

Floats = npt.NDArray[np.float64]

MAX_LAG: Final = 10
"""Longest delay that is tried, in environment steps."""
_ENOUGH: Final = 10.0  # difference in the criterion by which an explanation must beat none, and the next best one
_FLOOR: Final = 1e-4  # mean squared residual, in squared standard deviations, below which explanations are equal
_NOISE_ALONE: Final = 1.5  # mean squared residual up to which the tolerated noise explains the rest
_MOST: Final = 0.8  # share of the residual that is enough if noise remains: a noisy angle matters more on a short pole
_GRIDS: Final = {"length": (0.05, 2.0), "masspole": (0.01, 5.0), "masscart": (0.1, 10.0), "tau": (0.002, 0.1)}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One sentence and its numbers."""

    sentence: str
    evidence: dict[str, float]
    sure: bool


@dataclass(frozen=True, kw_only=True)
class _Explanation:
    quantities: frozenset[str]
    criterion: float
    mean_square: float
    sentence: str
    evidence: dict[str, float]


class _Observed:
    """Columns `[N]` of the steps after a change, less the sensor bias of the world that a version was trained for."""

    def __init__(self, columns: dict[str, Any], world: World, since: int) -> None:
        self.cartpole = CartPole.of(world)
        self.delay = int(middle(world.action_delay))
        self.wind = middle(world.wind)
        bias = [middle(value) for value in world.sensor_bias] or [0.0] * 4
        self.scales = StepTest(world).scales
        rows = np.arange(len(columns["id"]))
        # keep steps for which the delayed action is in the same episode and in the columns
        kept = (columns["id"] > since) & (rows - np.minimum(columns["step"], max(MAX_LAG, self.delay)) >= 0)
        self.rows, self._step, self._action = rows[kept], columns["step"], columns["action"]
        before, after = columns["observation"][kept] - bias, columns["next_observation"][kept] - bias
        self.x_dot, self.theta, self.theta_dot = before[:, 1], before[:, 2], before[:, 3]
        self.after = after[:, [1, 3]]
        self.push = columns["push"][kept]
        self.episode = columns["episode"][kept]

    def sides(self, delay: int) -> Floats:
        """The motor's direction, 1 to the right, if actions take effect this many steps late."""
        actions = self._action[self.rows - np.minimum(self._step[self.rows], delay)]
        return np.where(actions == 1, 1.0, -1.0)

    def residual(self, cartpole: CartPole, delay: int, lean: float = 0.0) -> Floats:
        """Errors of predicted velocities `[N, 2]` in standard deviations; `lean` (rad) is subtracted from the angle."""
        force = self.sides(delay) * cartpole.force_mag + self.wind + self.push
        theta = self.theta - lean
        x_acc, theta_acc = cartpole.accelerations(np.sin(theta), np.cos(theta), self.theta_dot, force)
        expected = np.stack([self.x_dot + cartpole.tau * x_acc, self.theta_dot + cartpole.tau * theta_acc], axis=1)
        return np.asarray((self.after - expected) / self.scales)


def explain(columns: dict[str, Any], world: World, since: int) -> Finding:
    """What distinguishes the transitions after `since` from the world a version was trained for.

    Args:
        columns: as of `Experience.columns`, with some transitions before `since` too.
        world: the world of the prediction.
        since: id of the last transition before the change.
    """
    count = int(np.sum(columns["id"] > since))
    if count < 2:
        return Finding(sentence="the cart moves unlike predicted", evidence={"transitions": count}, sure=False)
    observed = _Observed(columns, world, since)
    count = len(observed.rows)
    residual = observed.residual(observed.cartpole, observed.delay)
    square = _square(residual)
    nothing = _criterion(square, count, 0)
    found = sorted(_explanations(observed, residual), key=lambda each: each.criterion + _ENOUGH * len(each.quantities))
    best = found[0]
    second = next(each for each in found if not each.quantities >= best.quantities)
    explained = 1.0 - best.mean_square / max(square, 1e-12)
    evidence = {"transitions": float(count), "explained": explained}
    good = best.mean_square <= _NOISE_ALONE or explained >= _MOST
    fits = good and best.criterion + _ENOUGH < nothing
    if fits and best.criterion + _ENOUGH < second.criterion:
        return Finding(sentence=best.sentence, evidence=evidence | best.evidence, sure=True)
    if fits:
        either = f"not sure yet: {best.sentence}, or {second.sentence}"
        return Finding(sentence=either, evidence=evidence | best.evidence, sure=False)
    cart, pole = np.sqrt(np.mean(residual**2, axis=0)) * observed.scales
    evidence = {"transitions": float(count), "cart_m_s": float(cart), "pole_rad_s": float(pole)}
    if square > 2 * _NOISE_ALONE and _alternates(residual, observed.episode):
        noise = float(pole) / math.sqrt(2)
        sentence = f"the sensors are noisier than the policy knows: about {noise:.2g} rad/s on the pole's turning"
        return Finding(sentence=sentence, evidence=evidence | {"sensor_noise": noise}, sure=True)
    sentence = (
        f"the cart moves unlike predicted: after a step its speed is off by {cart:.2g} m/s and the pole's turning "
        f"by {pole:.2g} rad/s; no single cause explains it"
    )
    return Finding(sentence=sentence, evidence=evidence, sure=False)


def _explanations(observed: _Observed, residual: Floats) -> Iterator[_Explanation]:
    count, cartpole = len(observed.rows), observed.cartpole

    def explained_by(rest: Floats, sentence: str, **evidence: float) -> _Explanation:
        square = _square(rest)
        return _Explanation(
            quantities=frozenset(evidence),
            criterion=_criterion(square, count, len(evidence)),
            mean_square=square,
            sentence=sentence,
            evidence=evidence,
        )

    for delay in range(MAX_LAG + 1):
        if delay != observed.delay:
            late = delay - observed.delay
            steps = f"{abs(late)} step{'' if abs(late) == 1 else 's'}"
            sentence = f"actions arrive {steps} {'late' if late > 0 else 'early'}"
            yield explained_by(observed.residual(cartpole, delay), sentence, delay=float(delay))
    rest, ratio = _without(residual, _effect(observed, cartpole, "force_mag"))
    yield explained_by(rest, _motor(1 + ratio), force_ratio=1 + ratio)
    rest, gravity = _without(residual, _effect(observed, cartpole, "gravity"))
    if gravity > -1:
        pull = cartpole.gravity * (1 + gravity)
        yield explained_by(rest, _gravity(pull, cartpole), gravity=pull)
    rest, wind = _without(residual, _effect(observed, cartpole, "wind"))
    side = "right" if wind > 0 else "left"
    yield explained_by(rest, f"a wind of {abs(wind):.1f} N blows to the {side}", wind=wind)
    rest, lean = _without(residual, _effect(observed, cartpole, "lean"))
    rest = observed.residual(cartpole, observed.delay, lean)
    yield explained_by(rest, f"the pole's angle reads {abs(math.degrees(lean)):.0f}° off", bias_rad=lean)
    for name in _GRIDS:
        value = _search(name, lambda changed: _square(observed.residual(changed, observed.delay)), cartpole)
        changed = dataclasses.replace(cartpole, **{name: value})
        yield explained_by(observed.residual(changed, observed.delay), _size(name, value, cartpole), **{name: value})
    for name in ("force_mag", "gravity"):

        def remaining(changed: CartPole, name: str = name) -> tuple[Floats, float]:
            return _without(observed.residual(changed, observed.delay), _effect(observed, changed, name))

        length = _search("length", lambda changed: _square(remaining(changed)[0]), cartpole)
        rest, more = remaining(dataclasses.replace(cartpole, length=length))
        beside = _motor(1 + more) if name == "force_mag" else _gravity(cartpole.gravity * (1 + more), cartpole)
        found = {"force_ratio": 1 + more} if name == "force_mag" else {"gravity": cartpole.gravity * (1 + more)}
        yield explained_by(rest, f"{_size('length', length, cartpole)}, and {beside}", length=length, **found)


def _effect(observed: _Observed, cartpole: CartPole, name: str) -> Floats:
    """What a unit of a quantity adds to the residuals `[N, 2]`: 100% of force or gravity, 1 N of wind, 1 rad."""
    if name == "lean":
        small = 1e-5
        return (
            observed.residual(cartpole, observed.delay) - observed.residual(cartpole, observed.delay, small)
        ) / small
    more = {"force_mag": observed.sides(observed.delay) * cartpole.force_mag, "wind": 1.0, "gravity": 0.0}[name]
    weight = cartpole.gravity * np.sin(observed.theta) if name == "gravity" else 0.0
    still = dataclasses.replace(cartpole, gravity=1.0)
    x_acc, theta_acc = still.accelerations(weight, np.cos(observed.theta), 0.0, more + 0.0 * observed.theta)
    return np.asarray(np.stack([x_acc, theta_acc], axis=1) * cartpole.tau / observed.scales)


def _without(residual: Floats, effect: Floats) -> tuple[Floats, float]:
    """Least squares: the residual without the effect, and the factor of the effect."""
    share = float(np.sum(residual * effect) / max(float(np.sum(effect**2)), 1e-12))
    return residual - share * effect, share


def _search(name: str, square: Callable[[CartPole], float], cartpole: CartPole) -> float:
    """The value of a field with the smallest square, to a thousandth, on finer and finer grids."""
    low, high = _GRIDS[name]
    best = low
    for points in (21, 15, 15, 15):
        grid = np.geomspace(low, high, points)
        squares = [square(dataclasses.replace(cartpole, **{name: float(value)})) for value in grid]
        best, step = float(grid[int(np.argmin(squares))]), float(grid[1] / grid[0])
        low, high = max(best / step, _GRIDS[name][0]), min(best * step, _GRIDS[name][1])
    return best


def _square(residual: Floats) -> float:
    return float(np.mean(residual**2))


def _criterion(square: float, count: int, numbers: int) -> float:
    """Bayesian information criterion of an explanation with so many parameters; a step has two normal residuals."""
    return 2 * count * math.log(square + _FLOOR) + numbers * math.log(2 * count)


def _alternates(residual: Floats, episode: npt.NDArray[np.int64]) -> bool:
    """Whether the error of one step is reversed in the next, as noise on a velocity is."""
    same = episode[1:] == episode[:-1]
    if same.sum() < 10:
        return False
    before, after = residual[:-1][same], residual[1:][same]
    return bool(np.sum(before * after) < -0.3 * np.sqrt(np.sum(before**2) * np.sum(after**2)))


def _motor(ratio: float) -> str:
    if abs(ratio) < 0.1:
        return "the motor does nothing"
    strength = "" if abs(abs(ratio) - 1) < 0.1 else f"{abs(ratio):.1f} times its force"
    if ratio < 0:
        return "the motor answers the other way" + (f", with {strength}" if strength else "")
    return f"the motor pushes with {strength or 'its own force'}"


def _gravity(gravity: float, own: CartPole) -> str:
    return f"gravity is {gravity:.1f} m/s² instead of {own.gravity:.1f}"


def _size(name: str, value: float, own: CartPole) -> str:
    if name == "length":
        than = "shorter" if value < own.length else "longer"
        return f"the pole swings like a {than} one ({2 * value:.2g} m instead of {2 * own.length:.2g} m)"
    if name == "tau":
        return f"a step takes {1000 * value:.0f} ms instead of {1000 * own.tau:.0f} ms"
    what = "pole" if name == "masspole" else "cart"
    than = "lighter" if value < getattr(own, name) else "heavier"
    return f"the {what} moves like a {than} one ({value:.2g} kg instead of {getattr(own, name):.2g} kg)"
