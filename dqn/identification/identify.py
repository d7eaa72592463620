"""Identification of CartPole's world from observed transitions: the smallest change of a known one. Torch-free.

Parameters become free one after another while the Bayesian information criterion falls (Schwarz, 1978). Action delays
are tried. Without pushes of known force, motion determines only ratios of masses, and of forces to masses. The known
value is kept for whatever need not have changed.
"""

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from dqn.environments.world import World
from dqn.identification.at_once import explain
from dqn.identification.record import Experience, Floats, UnexplainedError, Windows, cut, plausible_delays
from dqn.identification.trajectories import BIASES, SCALES, Fit, Values, fit, middle, play, values_of

ENVIRONMENTS: Final = ("CartPole-v0", "CartPole-v1")
"""Environments with equations of motion that `play` computes."""
ENTRIES: Final = ("cart position", "cart velocity", "pole angle", "pole angular velocity")
LEAST_TRANSITIONS: Final = 30
LEAST_EXPLAINED: Final = 0.6
"""Least explained fraction of the variance of each velocity's change; noise of 0.1 m/s leaves more at 10 N."""
MOST_DEVIATION: Final = 8.0
"""Greatest mean square deviation of a window relative to all windows'; noise exceeds it once in a million."""

_STANDARD_ERRORS: Final = 4.0
"""Allowed difference of the residuals' smoothness from that of noise, in standard errors."""

_SCALED_BY_MASS: Final = ("force_mag", "masspole", "wind")
"""Without pushes, a joint change of these parameters is equivalent to another mass of the cart."""
_WITHOUT_PUSHES: Final = tuple(name for name in SCALES if name != "masscart")
_CANDIDATES: Final = 3
_DIGITS: Final = 3
_KNOWN_TO: Final = 0.02
"""A parameter with a relative interval width below this becomes a number instead of a range."""
_NOISE: Final = 1e-3
"""Noise below this standard deviation counts as none."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """An estimated value and its 95% interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """For a person."""
        return f"{self.value:.4g} ({self.low:.4g} to {self.high:.4g})"


@dataclass(frozen=True, kw_only=True)
class Identification:
    """The smallest change of the known world that explains a record."""

    world: World
    """The known world with the changes; a range for a parameter that the record does not determine well."""
    changed: dict[str, Estimate]
    """Estimates of the changed parameters by field name; a sensor bias also names the entry."""
    explained: tuple[float, float]
    """Explained fraction of the variance of the cart's and of the pole's change in velocity per step."""
    noise: tuple[float, ...]
    """Standard deviation `[4]` of the observations around the trajectories."""
    transitions: int
    """Number of transitions used."""

    def __str__(self) -> str:
        """For a person, one line."""
        changes = ", ".join(f"{name} {estimate}" for name, estimate in self.changed.items()) or "nothing has changed"
        cart, pole = self.explained
        return (
            f"{changes}; {self.transitions} transitions, {cart:.1%} of the cart's and {pole:.1%} of the pole's "
            "acceleration explained"
        )


def identify(experience: Experience, known: World) -> Identification:
    """Find the world that explains a record by the smallest change of a known one.

    The bias of the cart position, the side of the world's own pushes and delays above MAX_DELAY are not identified.

    Args:
        experience: transitions of CartPole with any policy.
        known: the expected world; a range counts as its middle.

    Raises:
        UnexplainedError: if the record is too short, nothing moves, or no world explains it.
    """
    left_out = _pushed_by_itself(experience, known)
    windows = cut(experience, left_out=left_out)
    if windows.transitions < LEAST_TRANSITIONS:
        raise UnexplainedError(
            f"{windows.transitions} of {len(experience.action)} transitions can be used, at least {LEAST_TRANSITIONS} "
            "are needed"
        )
    refusal = ""
    try:
        for delay, found in _found(experience, windows, known):
            explained = _explained(windows, windows.directions[delay], found.values)
            why = _why_not(windows, found, explained)
            if not why:
                return _identification(windows, found, delay, explained, known)
            refusal = refusal or f"{why}; the best try is {_text(found, delay)}"
    except np.linalg.LinAlgError as error:
        refusal = refusal or f"no world explains this: the equations of motion have no solution ({error})"
    raise UnexplainedError(refusal)


def _found(experience: Experience, windows: Windows, known: World) -> Iterator[tuple[int, Fit]]:
    """Delays and fits: that of the search, then those that begin at what explains single transitions.

    The search frees one parameter after another. It can end in a local minimum if several have changed, and a pole that
    stands shows little of it.
    """
    start, known_delay, pushed = values_of(known), int(middle(known.action_delay)), bool(windows.push.any())
    yield _search(windows, start, known_delay, pushed=pushed)
    for hint in explain(experience, known, 0)[0][:_CANDIDATES]:
        changed = {name: value for name, value in hint.changed.items() if name in SCALES}
        delay = int(hint.changed.get("action_delay", known_delay))
        direction, price = windows.directions[delay], math.log(4 * windows.transitions)
        found = fit(windows, direction, tuple(changed), start | changed)
        yield delay, _reduced(windows, direction, found, start, price)


def _why_not(windows: Windows, found: Fit, explained: tuple[float, float]) -> str:
    """Why a fit does not explain a record; empty if it does."""
    if min(explained) < LEAST_EXPLAINED:
        return (
            f"no world explains this: {explained[0]:.0%} of the cart's and {explained[1]:.0%} of the pole's "
            f"acceleration are predicted, {LEAST_EXPLAINED:.0%} are needed"
        )
    if (worst := float(found.deviation.max())) > MOST_DEVIATION:
        return (
            f"the experience contradicts itself: some steps deviate {math.sqrt(worst):.1f} times as much as the "
            f"average, and chance explains at most {math.sqrt(MOST_DEVIATION):.1f} times"
        )
    smoothest = int(found.smoothness.argmin())
    if found.smoothness[smoothest] < _least_smoothness(windows):
        return (
            f"the experience contradicts itself, or the world is of another kind: the {ENTRIES[smoothest]} deviates "
            "in the same direction for several steps, unlike noise"
        )
    return ""


def _search(windows: Windows, start: Values, known_delay: int, *, pushed: bool) -> tuple[int, Fit]:
    """The delay and the parameters with the lowest information criterion."""
    price = math.log(4 * windows.transitions)
    delays = plausible_delays(windows, known_delay)
    fits = {delay: _simplest(windows, windows.directions[delay], start, price, pushed=pushed) for delay in delays}

    def criterion(delay: int) -> float:
        return fits[delay].deviance + price * (len(fits[delay].free) + (delay != known_delay))

    best = min(delays, key=criterion)
    return best, fits[best]


def _simplest(windows: Windows, direction: Floats, start: Values, price: float, *, pushed: bool) -> Fit:
    """Free one parameter after another while the criterion falls, then fix those that are not needed.

    If this ends in a local minimum, it is repeated from all parameters free.
    """
    names = tuple(SCALES) if pushed else _WITHOUT_PUSHES
    found = fit(windows, direction, (), start)
    while others := sorted(set(names) - set(found.free), key=found.gain, reverse=True):
        more = [fit(windows, direction, (*found.free, name), found.values) for name in others[:_CANDIDATES]]
        best = min(more, key=lambda each: each.deviance)
        if best.deviance + price >= found.deviance:
            break
        found = best
    found = _reduced(windows, direction, found, start, price)
    if found.smoothness.min() < _least_smoothness(windows):
        other = _reduced(windows, direction, fit(windows, direction, names, start), start, price)
        found = min(found, other, key=lambda each: each.deviance + price * len(each.free))
    if not pushed and len(set(found.free) & set(_SCALED_BY_MASS)) > 1:
        one = _without(windows, direction, found, _SCALED_BY_MASS, start, instead=("masscart",))
        if one.deviance + price * len(one.free) < found.deviance + price * len(found.free):
            return one
    return found


def _reduced(windows: Windows, direction: Floats, found: Fit, start: Values, price: float) -> Fit:
    """Fix free parameters one after another while the criterion falls."""
    while found.free:
        less = [_without(windows, direction, found, (name,), start) for name in found.free]
        best = min(less, key=lambda each: each.deviance)
        if best.deviance >= found.deviance + price:
            break
        found = best
    return found


def _without(
    windows: Windows,
    direction: Floats,
    found: Fit,
    fixed: tuple[str, ...],
    start: Values,
    instead: tuple[str, ...] = (),
) -> Fit:
    """A fit with the parameters `fixed` at their start values, and those in `instead` free."""
    free = (*(name for name in found.free if name not in fixed), *instead)
    return fit(windows, direction, free, found.values | {name: start[name] for name in fixed})


def _explained(windows: Windows, direction: Floats, values: Values) -> tuple[float, float]:
    """Fraction of the variance of each velocity's change in a step that is predicted from the observation before it."""
    there = windows.present[:, 1:]
    before, after = windows.observed[:, :-1][there], windows.observed[:, 1:][there]
    bias = np.array([0.0, *(values[name] for name in BIASES)])
    side, push = direction[there][:, np.newaxis], windows.push[there][:, np.newaxis]
    predicted = play(values, (before - bias)[np.newaxis], side, push)[0, :, 1]
    shares = []
    for entry in (1, 3):
        changes = after[:, entry] - before[:, entry]
        if not changes.var() > 0:
            raise UnexplainedError(f"the change of the {ENTRIES[entry]} is always the same: nothing can be identified")
        shares.append(1.0 - float(((after - predicted)[:, entry] ** 2).mean() / changes.var()))
    return shares[0], shares[1]


def _least_smoothness(windows: Windows) -> float:
    """Least smoothness that noise explains: the statistic has the mean 2 and the standard error 2 / sqrt(N)."""
    return 2.0 - _STANDARD_ERRORS * 2.0 / math.sqrt(windows.transitions)


def _identification(
    windows: Windows, found: Fit, delay: int, explained: tuple[float, float], known: World
) -> Identification:
    changed, fields = {}, dict[str, Any]()
    bias = list(known.sensor_bias or (0.0,) * 4)
    for name in found.free:
        low, high = found.interval(name)
        estimate = Estimate(value=found.values[name], low=low, high=high)
        if name in BIASES:
            bias[BIASES[name]] = _rounded(estimate)
            fields["sensor_bias"] = tuple(bias)
            changed[f"sensor_bias of the {ENTRIES[BIASES[name]]}"] = estimate
        else:
            fields[name] = _rounded(estimate)
            changed[name] = estimate
    if delay != int(middle(known.action_delay)):
        fields["action_delay"] = delay
        changed["action_delay"] = Estimate(value=delay, low=delay, high=delay)
    noise = tuple(float(f"{value:.2g}") if value > _NOISE else 0.0 for value in found.noise)
    if any(noise) or known.sensor_noise:
        fields["sensor_noise"] = noise if any(noise) else ()
    return Identification(
        world=dataclasses.replace(known, **fields),
        changed=changed,
        explained=explained,
        noise=tuple(map(float, found.noise)),
        transitions=windows.transitions,
    )


def _pushed_by_itself(experience: Experience, known: World) -> npt.NDArray[np.bool_]:
    """Mask `[N]` of the transitions in which the known world pushes; the side of a push is unknown.

    Raises:
        UnexplainedError: if the times of the pushes are unknown.
    """
    if not known.push_force:
        return np.zeros(len(experience.action), dtype=np.bool_)
    if isinstance(known.push_interval, tuple):
        raise UnexplainedError("the world draws its push intervals: the steps with pushes are unknown")
    return np.asarray((experience.step > 0) & (experience.step % known.push_interval == 0))


def _rounded(estimate: Estimate) -> float | tuple[float, float]:
    if estimate.high - estimate.low <= _KNOWN_TO * abs(estimate.value):
        return float(f"{estimate.value:.{_DIGITS}g}")
    return float(f"{estimate.low:.{_DIGITS}g}"), float(f"{estimate.high:.{_DIGITS}g}")


def _text(found: Fit, delay: int) -> str:
    values = [f"{name} {found.values[name]:.3g}" for name in found.free] + ([f"delay {delay}"] if delay else [])
    return ", ".join(values) or "no change"
