"""Identification of CartPole's world from a handful of transitions, in some ten milliseconds. Torch-free.

Every small set of changed parameters with every action delay is a hypothesis, fitted by `one_step`. The Bayesian
information criterion (Schwarz, 1978) gives each one its weight. Three parameters are tried only if two do not explain
the transitions. `identify` is slower, takes the noise in both observations into account, and states intervals.
"""

import dataclasses
import itertools
import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from dqn.environments.world import World
from dqn.identification.one_step import NAMES, PRICE, Rows, Tried, fitted, is_plausible, moved_to, rows_of, value_of
from dqn.identification.record import MAX_DELAY, Experience, Floats, cut
from dqn.identification.trajectories import BIASES, SCALES, Values, fit, middle, values_of

LEAST_TRANSITIONS: Final = 3
EXPLAINED: Final = 2.0
"""Greatest deviation of an explanation, in standard deviations of the noise."""
_SHORT_LAG: Final = 5
"""Longest delay that is tried with two or more changed parameters."""
_KEPT: Final = 6
_MANY: Final = 24
"""With more transitions than this, pairs of parameters are tried with the `_KEPT_LAGS` likeliest delays only."""
_KEPT_LAGS: Final = 3
_SMOOTHED: Final = 20
"""With this many noisy transitions, trajectories are fitted."""
_AS_GOOD: Final = 12.0
"""An explanation predicts as well as the best one up to this difference of -2 log-likelihood."""
_AGREE: Final = 0.15
"""Greatest difference of two explanations that say the same, in units of relevant changes."""
_NOISE: Final = 1e-3
"""Noise below this standard deviation counts as none."""


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """One hypothesis with its fitted values."""

    changed: dict[str, float]
    """Values of the changed parameters, by the names of SCALES, and `action_delay`."""
    weight: float
    """Probability among the explanations, if each of them was as probable as its number of changes allows."""
    world: World
    """The known world with these changes, and with the observed noise."""
    noise: float
    """Standard deviation of the observations of the positions, estimated from their consistency with the velocities."""
    deviation: float
    """Root mean square of what is not predicted of the velocities, relative to what that noise explains."""

    @property
    def explained(self) -> bool:
        """Whether nothing is left to explain."""
        return self.deviation < EXPLAINED


def explain(record: Experience, known: World, first: int) -> tuple[tuple[Explanation, ...], bool]:
    """The likeliest explanations of what follows a change, the best first, and whether the best one is sure.

    It is sure if every other one that predicts nearly as well agrees on what determines the motion. There is none if
    there are too few transitions, or if the known delay is longer than MAX_DELAY.

    Args:
        record: transitions of CartPole; those before the change only tell which actions were on their way, and those
            with a push are left out.
        known: the world before the change; a range counts as its middle.
        first: index of the first transition after the change.
    """
    start = values_of(known)
    known_lag = int(middle(known.action_delay))
    rows = rows_of(record, known, known_lag, first)
    if len(rows.before) < LEAST_TRANSITIONS or known_lag > MAX_DELAY:
        return (), False
    found: list[Tried] = []
    for size in range(4):
        found += fitted(rows, start, known_lag, _hypotheses(rows, found, size, known_lag))
        if found and size > 1 and min(found, key=lambda each: each.criterion).deviation < EXPLAINED:
            break
    if found and len(rows.before) >= _SMOOTHED and min(found, key=lambda each: each.criterion).noise > _NOISE:
        found = _smoothed(record, rows, found, start, known_lag)
    return _weighed(found, start, known, known_lag)


def _smoothed(record: Experience, rows: Rows, found: list[Tried], start: Values, known_lag: int) -> list[Tried]:
    """No change, single changes and the likeliest others, fitted to trajectories: noise biases fits to single steps."""
    windows = cut(record, left_out=~rows.usable)
    ranked = sorted(found, key=lambda each: each.criterion)
    lag = ranked[0].lags[0]
    tried = {(each.lags[0], each.free): each for each in reversed(ranked)}
    likely = [key for key in reversed(tried) if key[0] in (lag, known_lag) and len(key[1]) <= (key[0] == lag)]
    likely += [key for key in list(reversed(tried))[:_KEPT] if key not in likely]
    price = math.log(4 * len(rows.before)) + PRICE
    better = []
    for key in likely:
        names = tuple(NAMES[k] for k in key[1])
        try:
            closest = fit(windows, windows.directions[key[0]], names, start)
        except np.linalg.LinAlgError:  # the equations of motion have no solution there
            continue
        moved = np.array([moved_to(start, name, closest.values[name]) for name in names])
        late = key[0] != known_lag
        if not is_plausible(key[1], moved, start, late):
            continue
        criterion = closest.deviance + price * (len(names) + late)
        better.append(dataclasses.replace(tried[key], moved=moved, fit=closest.deviance, criterion=criterion))
    return better or found


def _hypotheses(rows: Rows, found: list[Tried], size: int, known_lag: int) -> list[tuple[int, tuple[int, ...]]]:
    """Directions and free parameters to try; of three parameters those that contain one of the best pairs.

    If a parameter explains everything, pairs are tried under its delay and the known one alone. A reversed motor and a
    further change look like a long delay as long as the actions alternate once.
    """
    ranked = sorted(found, key=lambda each: each.criterion)
    likely = ranked[:_KEPT]
    if size < 3:
        lags = [d for d, lag in enumerate(rows.lags) if size < 2 or lag[0] <= max(_SHORT_LAG, known_lag)]
        if size == 2 and likely and likely[0].noise < _NOISE and likely[0].deviation < EXPLAINED:
            lags = sorted({0, likely[0].d})
        elif size == 2 and len(rows.before) > _MANY:
            lags = list(dict.fromkeys(each.d for each in ranked))[:_KEPT_LAGS]
        return list(itertools.product(lags, itertools.combinations(range(len(NAMES)), size)))
    more = {(each.d, tuple(sorted({*each.free, k}))) for each in likely for k in range(len(NAMES))}
    return sorted(each for each in more if len(each[1]) == size)


def _weighed(found: list[Tried], start: Values, known: World, known_lag: int) -> tuple[tuple[Explanation, ...], bool]:
    likely = sorted(found, key=lambda each: each.criterion)
    kinds: dict[tuple[int, tuple[int, ...]], Tried] = {}
    for each in likely:
        kinds.setdefault((each.lags[0], each.free), each)
    best = list(kinds.values())
    odds = [math.exp((best[0].criterion - each.criterion) / 2) for each in best]
    rivals = [motion(_values(each, start), each.lags[0]) for each in best if each.fit < best[0].fit + _AS_GOOD]
    sure = len(best[0].lags) == 1 and all(agree(rival, rivals[0]) for rival in rivals)
    return tuple(
        _explanation(each, weight / sum(odds), start, known, known_lag)
        for each, weight in zip(best[:_KEPT], odds, strict=False)
    ), sure


def _values(each: Tried, start: Values) -> Values:
    moved = dict(zip(each.free, each.moved, strict=True))
    return {name: float(value_of(start, name, moved.get(k, 0.0))) for k, name in enumerate(NAMES)}


def motion(value: Values, lag: int) -> Floats:
    """What determines the motion without pushes, `[9]` in units of relevant changes: ratios of masses and forces.

    Args:
        value: of all parameters.
        lag: the action delay, in steps.
    """
    mass = value["masspole"] + value["masscart"]
    signed = [
        value["force_mag"] / mass / 10,
        value["wind"] / mass / 10,
        *(value[name] / SCALES[name] for name in BIASES),
    ]
    sizes = [value["masspole"] / mass + 0.1, value["length"], value["gravity"] / 9.8 + 0.1, value["tau"]]
    return np.array([lag, *signed, *np.log(sizes)])


def same_motion(one: World, other: World) -> bool:
    """Whether two worlds move alike, to about a tenth; ranges count as their middle."""
    return agree(*(motion(values_of(world), int(middle(world.action_delay))) for world in (one, other)))


def agree(one: Floats, other: Floats) -> bool:
    """Whether two worlds move alike, by what `motion` returns of them."""
    return bool((np.abs(one - other) < _AGREE).all())


def _explanation(each: Tried, weight: float, start: Values, known: World, known_lag: int) -> Explanation:
    changed = {NAMES[k]: float(value_of(start, NAMES[k], move)) for k, move in zip(each.free, each.moved, strict=True)}
    fields: dict[str, Any] = {name: value for name, value in changed.items() if name not in BIASES}
    if any(name in BIASES for name in changed):
        bias = list(known.sensor_bias or (0.0,) * 4)
        for name, entry in BIASES.items():
            bias[entry] = changed.get(name, bias[entry])
        fields["sensor_bias"] = tuple(bias)
    if each.lags[0] != known_lag:
        changed["action_delay"] = float(each.lags[0])
        fields["action_delay"] = each.lags[0]
    if each.noise > _NOISE:
        fields["sensor_noise"] = (each.noise,) * 4
    return Explanation(
        changed=changed,
        weight=weight,
        world=dataclasses.replace(known, **fields),
        noise=each.noise,
        deviation=each.deviation,
    )
