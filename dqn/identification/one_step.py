"""Fits hypotheses about CartPole's world to single transitions, many at once. Torch-free.

A hypothesis is a set of free parameters and an action delay. All hypotheses of a size are a batch dimension of a
Gauss-Newton iteration with Levenberg's damping, which predicts the observation after each transition from the one
before.
"""

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from dqn.environments.world import World
from dqn.identification.record import MAX_DELAY, Experience, Floats, Integers
from dqn.identification.trajectories import BIASES, POSITIVE, SCALES, Values, play

_FRESH: Final = 10
"""With this many transitions of episodes that began after the change, those of its own episode are left out."""
_MIXED: Final = 6
"""First transitions after a change, which are left out as soon as there are more than twice as many."""
_RESOLUTION: Final = 2e-5
"""Deviations below this count as 0."""
PRICE: Final = 8.0
"""Added to the criterion for every changed parameter, besides the logarithm of the number of observations."""
_LONGEST: Final = 1.0
"""Greatest move of a logarithm in one iteration."""
_ITERATIONS: Final = 12
_DIFFERENCE: Final = 1e-6
NAMES: Final = tuple(SCALES)
_POSITIVE: Final = np.array([name in POSITIVE for name in NAMES])
_LIMITS: Final = {
    "force_mag": (-100.0, 100.0),
    "length": (0.03, 4.0),
    "masspole": (0.005, 12.0),
    "masscart": (0.05, 12.0),
    "gravity": (0.0, 60.0),
    "tau": (0.001, 0.12),
    "wind": (-60.0, 60.0),
    "bias 1": (-6.0, 6.0),
    "bias 2": (-0.6, 0.6),
    "bias 3": (-6.0, 6.0),
}
"""Values outside of these are implausible."""
_LEAST_MOTOR: Final = 0.1
"""A motor with less than this part of its force is no explanation together with another change: a policy that pushes to
one side all the time cannot tell a reversed motor from none and a wind."""


@dataclass(frozen=True, kw_only=True)
class Rows:
    """N transitions, and the motor's directions for each delay."""

    before: Floats
    after: Floats
    usable: npt.NDArray[np.bool_]
    """Mask of these transitions in the record."""
    lags: tuple[tuple[int, ...], ...]
    """Delays that have each of the D directions, the known one first and then the shortest."""
    directions: Floats
    """`[D, N]`, -1 or 1."""


@dataclass(frozen=True, kw_only=True)
class Tried:
    """A fitted hypothesis."""

    d: int
    """Index of its direction."""
    lags: tuple[int, ...]
    """Delays that have this direction."""
    free: tuple[int, ...]
    """Indices of its S free parameters in NAMES."""
    moved: Floats
    """How far they moved, `[S]`, as `value_of` takes it."""
    fit: float
    """-2 log-likelihood up to a constant."""
    criterion: float
    """The same and the price of what has changed."""
    noise: float
    """Standard deviation of the observed positions, from their consistency with the velocities."""
    deviation: float
    """Root mean square of the velocities' residuals, in standard deviations under that noise."""


def rows_of(record: Experience, known: World, known_lag: int, first: int) -> Rows:
    """The transitions that count; arguments as of `at_once.explain`, and the delay of the known world in steps."""
    N = len(record.action)
    at = np.arange(N)
    begun = np.maximum.accumulate(np.where(record.continues, 0, at))  # index of the first transition of the episode
    usable = at > first  # the sensors of the first transition may have changed within it
    usable &= record.push == 0  # what pushes is no part of the world
    usable &= (record.step[begun] == 0) | (at - begun >= MAX_DELAY)  # otherwise delayed actions are unknown
    if known.push_force and not isinstance(known.push_interval, tuple):
        usable &= (record.step == 0) | (record.step % known.push_interval != 0)
    fresh = usable & (begun > first)
    if fresh.sum() >= _FRESH:
        usable = fresh
    elif usable.sum() > 2 * _MIXED:
        usable &= at > first + _MIXED
    lags: dict[bytes, dict[int, None]] = {}
    for lag in sorted(range(MAX_DELAY + 1), key=lambda lag: (lag != known_lag, lag)):
        for since in (first - 1, first):  # a delay counts from the change, which may have shown a transition later
            earliest = np.where(begun > first, begun, np.maximum(begun, since))
            direction = np.where(record.action[np.maximum(at - lag, earliest)] == 1, 1.0, -1.0)[usable]
            lags.setdefault(direction.tobytes(), {})[lag] = None
    return Rows(
        before=record.observation[usable],
        after=record.next_observation[usable],
        usable=usable,
        lags=tuple(map(tuple, lags.values())),
        directions=np.array([np.frombuffer(direction) for direction in lags]),
    )


@np.errstate(over="ignore", invalid="ignore", divide="ignore")  # a move that overflows is rejected
def fitted(rows: Rows, start: Values, known_lag: int, hypotheses: list[tuple[int, tuple[int, ...]]]) -> list[Tried]:
    """Fit C hypotheses (direction, free parameters) of one size S; implausible ones are left out.

    Args:
        rows: what is predicted.
        start: start values of all parameters.
        known_lag: delay of the known world, in steps.
        hypotheses: index of the direction and indices of the free parameters in NAMES.
    """
    if not hypotheses:
        return []
    C, S, N = len(hypotheses), len(hypotheses[0][1]), len(rows.before)
    free = np.array([each for _, each in hypotheses], dtype=np.int64).reshape(C, S)
    direction = rows.directions[[d for d, _ in hypotheses]]  # [C, N]
    moves, damping = np.zeros((C, S)), np.full(C, 1e-6)
    residual, slope = _residuals(rows, start, direction, free, moves)
    square = (residual**2).sum((1, 2))
    for _ in range(_ITERATIONS if S else 0):
        J = slope.reshape(C, S, -1)
        gram = J @ J.transpose(0, 2, 1)
        diagonal = np.einsum("css->cs", gram)
        damped = gram + (damping[:, np.newaxis] * diagonal + 1e-18)[:, :, np.newaxis] * np.eye(S)
        step = np.linalg.solve(damped, J @ residual.reshape(C, -1, 1))[..., 0]
        longest = np.where(_POSITIVE[free], _LONGEST, np.inf)
        tried = moves + np.clip(step, -longest, longest)
        new_residual, new_slope = _residuals(rows, start, direction, free, tried)
        new_square = (new_residual**2).sum((1, 2))
        better = new_square < square
        damping = np.where(better, damping / 10, np.maximum(damping, 1e-7) * 30)
        moves[better], residual[better], slope[better] = tried[better], new_residual[better], new_slope[better]
        settled = new_square > square * (1 - 1e-4)
        square = np.where(better, new_square, square)
        if (settled | (square < N * _RESOLUTION**2 / 4)).all():
            break
    variance = (residual**2).mean(1)  # [C, 4]
    fit = N * np.log(variance + _RESOLUTION**2).sum(1)
    noise = np.sqrt(variance[:, [0, 2]].max(1) / 2)
    lean = np.abs(_residuals(rows, start, direction, free, moves, lean=_DIFFERENCE)[0] - residual).mean(1) / _DIFFERENCE
    scale = np.sqrt(2 + lean[:, [1, 3]] ** 2) * np.maximum(noise, _RESOLUTION)[:, np.newaxis]
    deviation = np.sqrt((variance[:, [1, 3]] / scale**2).mean(1))
    price = math.log(4 * N) + PRICE
    return [
        Tried(
            d=d,
            lags=rows.lags[d],
            fit=float(fit[c]),
            free=names,
            moved=moves[c],
            criterion=float(
                fit[c] + price * (S + (rows.lags[d][0] != known_lag)) + _improbable(names, moves[c], start)
            ),
            noise=float(noise[c]),
            deviation=float(deviation[c]),
        )
        for c, (d, names) in enumerate(hypotheses)
        if is_plausible(names, moves[c], start, rows.lags[d][0] != known_lag)
    ]


def _residuals(
    rows: Rows, start: Values, direction: Floats, free: Integers, moves: Floats, lean: float = 0.0
) -> tuple[Floats, Floats]:
    """Observations after the transitions minus predictions `[C, N, 4]`, and their slope `[C, S, N, 4]`.

    The slope is that of the predictions by the free parameters. `lean` (rad) is added to the angle before.
    """
    C, S = moves.shape
    z = np.zeros((1 + S, C, len(NAMES)))
    each = np.arange(C)
    for column in range(S):
        z[:, each, free[:, column]] += moves[:, column]
        z[1 + column, each, free[:, column]] += _DIFFERENCE
    flat = z.reshape(-1, len(NAMES))
    values = {name: value_of(start, name, flat[:, k])[:, np.newaxis] for k, name in enumerate(NAMES)}
    bias = np.concatenate([np.zeros((len(flat), 1)), *(values[name] for name in BIASES)], axis=1)
    before = rows.before + np.array([0.0, 0.0, lean, 0.0]) - bias[:, np.newaxis]
    played = play(values, before, np.tile(direction, (1 + S, 1))[..., np.newaxis], np.zeros((1, 1)))[:, :, 1]
    played = played.reshape(1 + S, C, -1, 4)
    return rows.after - played[0], np.moveaxis(played[1:] - played[0], 0, 1) / _DIFFERENCE


def value_of(start: Values, name: str, moved: Any) -> Any:
    """A parameter after a move: a positive one by its logarithm, any other one in units of its scale."""
    return start[name] * np.exp(moved) if name in POSITIVE else start[name] + moved * SCALES[name]


def moved_to(start: Values, name: str, value: float) -> float:
    """Inverse of `value_of`."""
    return math.log(value / start[name]) if name in POSITIVE else (value - start[name]) / SCALES[name]


def is_plausible(names: tuple[int, ...], moved: Floats, start: Values, late: bool) -> bool:
    """Whether all moved parameters are within limits; `late` tells whether the delay has changed too."""
    for k, move in zip(names, moved, strict=True):
        name = NAMES[k]
        value = float(value_of(start, name, move))
        low, high = _LIMITS[name]
        if not low <= value <= high:
            return False
        if name == "force_mag" and abs(value) < _LEAST_MOTOR * abs(start[name]) and (late or len(names) > 1):
            return False
    return True


def _improbable(names: tuple[int, ...], moved: Floats, start: Values) -> float:
    """Added to the criterion of a wind that is stronger than the motor: a constant side of the motor looks like it."""
    value = dict(start)
    for k, move in zip(names, moved, strict=True):
        value[NAMES[k]] = float(value_of(start, NAMES[k], move))
    return PRICE if abs(value["wind"]) > abs(value["force_mag"]) else 0.0
