"""Which world a policy lives in, from what it has lived through: the smallest change of a known one. Torch-free.

Parameters are set free one after another as long as the Bayesian information criterion falls (Schwarz, 1978), and the
delay of actions is tried. Unless somebody pushes with known newtons, masses are seen in their ratios alone, and forces
by what they do to a mass: what need not have changed keeps its known value.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from dqn.environments.world import World
from dqn.identification.record import MAX_DELAY, Experience, Floats, UnexplainedError, Windows, cut
from dqn.identification.trajectories import BIASES, SCALES, Fit, Values, fit, play

ENVIRONMENTS: Final = ("CartPole-v0", "CartPole-v1")
"""Those whose equations of motion are known here."""
ENTRIES: Final = ("cart position", "cart velocity", "pole angle", "pole angular velocity")
LEAST_TRANSITIONS: Final = 30
LEAST_EXPLAINED: Final = 0.6
"""Of the variance of each velocity's changes. Beside a motor of 10 N, sensor noise of 0.1 m/s leaves a little more."""
MOST_DEVIATION: Final = 8.0
"""Mean square deviation of a window in units of all windows'; by normal noise one in a million has more."""

_STANDARD_ERRORS: Final = 4.0
"""By which what is left may be smoother than noise."""

_NOMINAL: Final = {"force_mag": 10.0, "length": 0.5, "masspole": 0.1, "masscart": 1.0, "gravity": 9.8, "tau": 0.02}
_SCALED_BY_MASS: Final = ("force_mag", "masspole", "wind")
"""What another mass of the cart looks like where nobody pushes."""
_WITHOUT_PUSHES: Final = tuple(name for name in SCALES if name != "masscart")
_PLAUSIBLE: Final = 20.0
"""Twice the logarithm of how much likelier the best delay may be than one that is still tried."""
_DELAYS: Final = 3
_CANDIDATES: Final = 3
_DIGITS: Final = 3
_KNOWN_TO: Final = 0.02
"""Width of an interval, as a share of the value, below which it is a number."""
_NOISE: Final = 1e-3
"""Standard deviations below this are none."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A value and its 95% interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """For a person."""
        return f"{self.value:.4g} ({self.low:.4g} to {self.high:.4g})"


@dataclass(frozen=True, kw_only=True)
class Identification:
    """The smallest change of the known world that explains an experience."""

    world: World
    """The known world with what has changed; a range where the experience leaves one."""
    changed: dict[str, Estimate]
    """By name of the field; of the sensors' bias by that and the entry's."""
    explained: tuple[float, float]
    """Share of the variance of the changes in a step that is predicted: of the cart's and of the pole's velocity."""
    noise: tuple[float, ...]
    """Standard deviation `[4]` of observations about the trajectories."""
    transitions: int
    """How many it explains."""

    def __str__(self) -> str:
        """For a person, one line."""
        changes = ", ".join(f"{name} {estimate}" for name, estimate in self.changed.items()) or "nothing has changed"
        cart, pole = self.explained
        return (
            f"{changes}; {self.transitions} transitions, {cart:.1%} of the cart's and {pole:.1%} of the pole's "
            "acceleration explained"
        )


def identify(experience: Experience, known: World) -> Identification:
    """The world that explains an experience by the smallest change of a known one.

    The bias of the position, the pushes of the world itself and a delay above MAX_DELAY are not identified.

    Args:
        experience: transitions of CartPole, by any policy.
        known: where they were expected to come from; of a range the middle is.

    Raises:
        UnexplainedError: if it is too short, nothing moves, or no world explains it.
    """
    left_out = _pushed_by_itself(experience, known)
    windows = cut(experience, left_out=left_out)
    if windows.transitions < LEAST_TRANSITIONS:
        raise UnexplainedError(
            f"{windows.transitions} of {len(experience.action)} transitions can be used, at least {LEAST_TRANSITIONS} "
            "are needed: wait for more"
        )
    start, pushed = values_of(known), bool(windows.push.any())
    try:
        delay, found = _search(windows, start, int(_middle(known.action_delay)), pushed=pushed)
    except np.linalg.LinAlgError as error:
        raise UnexplainedError(f"no world explains this: the equations of motion have no solution ({error})") from error
    explained = _explained(windows, windows.directions[delay], found.values)
    best = f"the best try is {_text(found, delay)}"
    if min(explained) < LEAST_EXPLAINED:
        raise UnexplainedError(
            f"no world explains this: of the cart's acceleration {explained[0]:.0%} and of the pole's "
            f"{explained[1]:.0%} are predicted, {LEAST_EXPLAINED:.0%} are needed; {best}"
        )
    if (worst := float(found.deviation.max())) > MOST_DEVIATION:
        raise UnexplainedError(
            f"the experience contradicts itself: single moments deviate {math.sqrt(worst):.1f} times as much as the "
            f"whole, {math.sqrt(MOST_DEVIATION):.1f} times may be chance; {best}"
        )
    smoothest = int(found.smoothness.argmin())
    if found.smoothness[smoothest] < _least_smoothness(windows):
        raise UnexplainedError(
            f"the experience contradicts itself, or the world is of another kind: the {ENTRIES[smoothest]} deviates "
            f"for steps on end, which noise does not; {best}"
        )
    return _identification(windows, found, delay, explained, known)


def _search(windows: Windows, start: Values, known_delay: int, *, pushed: bool) -> tuple[int, Fit]:
    """The delay and the parameters with the lowest information criterion."""
    price = math.log(4 * windows.transitions)
    delays = _plausible_delays(windows, known_delay)
    fits = {delay: _simplest(windows, windows.directions[delay], start, price, pushed=pushed) for delay in delays}

    def criterion(delay: int) -> float:
        return fits[delay].deviance + price * (len(fits[delay].free) + (delay != known_delay))

    best = min(delays, key=criterion)
    return best, fits[best]


def _plausible_delays(windows: Windows, known_delay: int) -> list[int]:
    """The few delays under which actions and accelerations go together, those next to the known one first.

    Small angles make each velocity's change nearly linear in observation and action, whatever the world. Of delays
    that make the same actions take effect only the first is tried.
    """
    before, after = windows.observed[:, :-1], windows.observed[:, 1:]
    there = windows.present[:, 1:]
    changes = (after - before)[there][:, [1, 3]]
    angle, rate = before[there][:, 2], before[there][:, 3]
    others = np.stack([np.ones_like(angle), angle, rate**2 * angle, *before[there][:, [1, 3]].T, windows.push[there]])
    left, seen = {}, set()
    for delay in sorted(range(MAX_DELAY + 1), key=lambda delay: abs(delay - known_delay)):
        direction = windows.directions[delay][there]
        if direction.tobytes() in seen:
            continue
        seen.add(direction.tobytes())
        features = np.vstack([others, direction, direction * angle**2]).T
        residual = changes - features @ np.linalg.lstsq(features, changes, rcond=None)[0]
        left[delay] = len(changes) * float(np.log((residual**2).mean(0) + 1e-12).sum())
    likely = sorted(left, key=left.__getitem__)[:_DELAYS]
    return [delay for delay in left if delay in likely and left[delay] <= left[likely[0]] + _PLAUSIBLE]


def _simplest(windows: Windows, direction: Floats, start: Values, price: float, *, pushed: bool) -> Fit:
    """Free one parameter after another while that is worth its price, then hold those that are not.

    Where that gets stuck in a valley it starts from all of them.
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
    """Hold one free parameter after another that is not worth its price."""
    while found.free:
        less = [_without(windows, direction, found, (name,), start) for name in found.free]
        best = min(less, key=lambda each: each.deviance)
        if best.deviance >= found.deviance + price:
            break
        found = best
    return found


def _without(
    windows: Windows, direction: Floats, found: Fit, held: tuple[str, ...], start: Values, instead: tuple[str, ...] = ()
) -> Fit:
    """A fit with some parameters back where they were."""
    free = (*(name for name in found.free if name not in held), *instead)
    return fit(windows, direction, free, found.values | {name: start[name] for name in held})


def _explained(windows: Windows, direction: Floats, values: Values) -> tuple[float, float]:
    """Share of the variance of each velocity's change in a step that is predicted from the observation before."""
    there = windows.present[:, 1:]
    before, after = windows.observed[:, :-1][there], windows.observed[:, 1:][there]
    bias = np.array([0.0, *(values[name] for name in BIASES)])
    side, push = direction[there][:, np.newaxis], windows.push[there][:, np.newaxis]
    predicted = play(values, (before - bias)[np.newaxis], side, push)[0, :, 1]
    shares = []
    for entry in (1, 3):
        changes = after[:, entry] - before[:, entry]
        if not changes.var() > 0:
            raise UnexplainedError(f"the {ENTRIES[entry]} never changes in another way: nothing can be learnt")
        shares.append(1.0 - float(((after - predicted)[:, entry] ** 2).mean() / changes.var()))
    return shares[0], shares[1]


def _least_smoothness(windows: Windows) -> float:
    """Of what may be noise: the statistic of N deviations has a standard error of 2 / sqrt(N)."""
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
    if delay != int(_middle(known.action_delay)):
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
    """Transitions `[N]` in which the known world pushes, to a side that nobody can tell.

    Raises:
        UnexplainedError: if it does not say when.
    """
    if not known.push_force:
        return np.zeros(len(experience.action), dtype=np.bool_)
    if isinstance(known.push_interval, tuple):
        raise UnexplainedError("the world pushes at intervals that are drawn: which moments to leave out is not known")
    return np.asarray((experience.step > 0) & (experience.step % known.push_interval == 0))


def values_of(known: World) -> Values:
    """The parameters of CartPole in a world; of a range the middle."""
    given = {name: getattr(known, name) for name in _NOMINAL}
    values = {name: _NOMINAL[name] if value is None else _middle(value) for name, value in given.items()}
    bias = known.sensor_bias or (0.0,) * 4
    return {**values, "wind": _middle(known.wind), **{name: _middle(bias[entry]) for name, entry in BIASES.items()}}


def _middle(value: Any) -> float:
    return float(sum(value) / 2 if isinstance(value, tuple) else value)


def _rounded(estimate: Estimate) -> float | tuple[float, float]:
    if estimate.high - estimate.low <= _KNOWN_TO * abs(estimate.value):
        return float(f"{estimate.value:.{_DIGITS}g}")
    return float(f"{estimate.low:.{_DIGITS}g}"), float(f"{estimate.high:.{_DIGITS}g}")


def _text(found: Fit, delay: int) -> str:
    values = [f"{name} {found.values[name]:.3g}" for name in found.free] + ([f"delay {delay}"] if delay else [])
    return ", ".join(values) or "no change"
