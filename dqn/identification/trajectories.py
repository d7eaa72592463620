"""Output-error identification: the trajectories of CartPole closest to the observations. Torch-free.

In each window the equations of motion are integrated from an initial state, which is estimated too. The parameters
minimise the deviation of the observations from these trajectories. If noise is on the observations only, this is
maximum likelihood (Ljung, System Identification, 1999, sections 5.4 and 7.4). Many short windows with their own initial
states are Bock's multiple shooting without its continuity conditions. A regression of each observation on the one
before would be biased by the noise in both.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from dqn.environments.world import Value, World
from dqn.identification.record import Floats, Windows

Values = dict[str, float]

SCALES: Final = {
    "force_mag": 10.0,
    "length": 0.5,
    "masspole": 0.1,
    "masscart": 1.0,
    "gravity": 9.8,
    "tau": 0.02,
    "wind": 1.0,
    "bias 1": 1.0,
    "bias 2": 0.1,
    "bias 3": 1.0,
}
"""Parameters and the scale of a relevant change; `bias k` is added to entry k of the observation."""
POSITIVE: Final = ("length", "masspole", "masscart", "tau")
"""Positive parameters, which are optimised by their logarithm."""
BIASES: Final = {"bias 1": 1, "bias 2": 2, "bias 3": 3}
"""Entries of the observation that have an identifiable bias; the bias of the cart position (entry 0) is not."""

_NOMINAL: Final = {"force_mag": 10.0, "length": 0.5, "masspole": 0.1, "masscart": 1.0, "gravity": 9.8, "tau": 0.02}
_RESOLUTION: Final = 1e-4
"""Deviations below this count as 0, as observations are float32."""
_ITERATIONS: Final = 25
_TRIES: Final = 6
_DIFFERENCE: Final = 1e-6
_WIDEST: Final = 10.0
"""Greatest half-width of an interval, in units of the parameter's scale or of its logarithm."""
_LONGEST: Final = 1.0
"""Greatest move of a parameter in one iteration, in the same units."""


@dataclass(frozen=True, kw_only=True)
class Fit:
    """The best parameters of one hypothesis."""

    free: tuple[str, ...]
    """Fitted parameters; the others kept their start values."""
    values: Values
    """All parameters."""
    deviance: float
    """-2 log-likelihood up to a constant."""
    noise: Floats
    """`[4]`, standard deviation of the observations around the trajectories"""
    deviation: Floats
    """`[W]`, mean square deviation of each window relative to the noise's variance"""
    smoothness: Floats
    """`[4]`, mean squared difference of successive residuals over their mean square (Durbin and Watson, 1950); noise: 2
    """
    gradient: Floats
    """`[P]`, of half the squared deviations by every parameter of SCALES, with initial states eliminated"""
    information: Floats
    """`[P, P]`, the Gauss-Newton matrix; the inverse of its free part is their covariance"""

    def gain(self, name: str) -> float:
        """Decrease of the squared deviations if a further parameter were free, in the linear approximation."""
        names = list(SCALES)
        rows = [names.index(each) for each in (*self.free, name)]
        return float(self.gradient[rows] @ _solve(self.information[np.ix_(rows, rows)], self.gradient[rows], 1e-9))

    def interval(self, name: str) -> tuple[float, float]:
        """95% interval of a free parameter."""
        names = list(SCALES)
        rows = [names.index(each) for each in self.free]
        covariance = np.linalg.pinv(self.information[np.ix_(rows, rows)], hermitian=True)
        at = self.free.index(name)
        margin = min(1.96 * math.sqrt(max(covariance[at, at], 0.0)), _WIDEST)
        return _moved(name, self.values[name], -margin), _moved(name, self.values[name], margin)


@np.errstate(over="ignore", invalid="ignore", divide="ignore")  # an overflowing move is rejected
def fit(windows: Windows, direction: Floats, free: tuple[str, ...], start: Mapping[str, float]) -> Fit:
    """Fit the free parameters by Levenberg-Marquardt, and the noise of each entry of the observation.

    Args:
        windows: the observations.
        direction: `[W, K]` of the motor.
        free: names of the parameters to fit.
        start: start values of all parameters.
    """
    values, names = dict(start), list(SCALES)
    initial = windows.observed[:, 0] - _bias(values)
    rows = [names.index(name) for name in free]
    left = _residual(windows, direction, values, initial)
    variance = _variance(windows, left)
    damping = 1e-3
    for _ in range(_ITERATIONS):
        normal = _normal_equations(windows, direction, values, initial, left, variance)
        before = _deviance(windows, variance)
        for _ in range(_TRIES):
            move = np.zeros(len(names))
            move[rows] = _solve(normal.information[np.ix_(rows, rows)], normal.gradient[rows], damping)
            move = np.clip(move, -_LONGEST, _LONGEST)
            tried = values | {name: _moved(name, values[name], move[names.index(name)]) for name in free}
            tried_initial = initial + normal.initial_move(move)
            left = _residual(windows, direction, tried, tried_initial)
            tried_variance = _variance(windows, left)
            if better := bool(_deviance(windows, tried_variance) < before):
                break
            damping *= 10
        if not better:
            left = _residual(windows, direction, values, initial)
            break
        values, initial, variance = tried, tried_initial, tried_variance
        damping = max(damping / 10, 1e-9)
        if before - _deviance(windows, variance) < 0.01:
            break
    normal = _normal_equations(windows, direction, values, initial, left, variance)
    squares = (left**2 / variance).sum((1, 2))
    return Fit(
        free=free,
        values=values,
        deviance=_deviance(windows, variance),
        noise=np.sqrt(variance),
        deviation=squares / (4 * windows.present[:, 1:].sum(1)),
        smoothness=_smoothness(windows, left),
        gradient=normal.gradient,
        information=normal.information,
    )


def play(
    values: Mapping[str, float] | Mapping[str, Floats], initial: Floats, direction: Floats, push: Floats
) -> Floats:
    """Trajectories by Gymnasium's equations of motion and Euler integration, as observed with the sensors' bias.

    Args:
        values: each parameter as a number, or `[C, 1]`.
        initial: states `[C, W, 4]`.
        direction: of the motor `[W, K]` or `[C, W, K]`.
        push: outside force `[W, K]` in newtons.

    Returns:
        Observations `[C, W, K + 1, 4]`.
    """
    K = direction.shape[-1]
    trajectory = np.empty((*initial.shape[:2], K + 1, 4))
    x, x_dot, theta, theta_dot = np.moveaxis(initial, -1, 0)
    total_mass = values["masspole"] + values["masscart"]
    polemass_length, tau = values["masspole"] * values["length"], values["tau"]
    for k in range(K + 1):
        for entry, value in enumerate((x, x_dot, theta, theta_dot)):
            trajectory[:, :, k, entry] = value
        if k == K:
            break
        force = values["force_mag"] * direction[..., k] + values["wind"] + push[:, k]
        cos, sin = np.cos(theta), np.sin(theta)
        temp = (force + polemass_length * theta_dot**2 * sin) / total_mass
        inertia = values["length"] * (4 / 3 - values["masspole"] * cos**2 / total_mass)
        theta_acc = (values["gravity"] * sin - cos * temp) / inertia
        x_acc = temp - polemass_length * theta_acc * cos / total_mass
        x, x_dot = x + tau * x_dot, x_dot + tau * x_acc
        theta, theta_dot = theta + tau * theta_dot, theta_dot + tau * theta_acc
    for name, entry in BIASES.items():
        trajectory[..., entry] += np.asarray(values[name])[..., np.newaxis]
    return trajectory


def values_of(known: World) -> Values:
    """The parameters of CartPole in a world; a range counts as its middle."""
    given = {name: getattr(known, name) for name in _NOMINAL}
    values = {name: _NOMINAL[name] if value is None else middle(value) for name, value in given.items()}
    bias = known.sensor_bias or (0.0,) * 4
    return {**values, "wind": middle(known.wind), **{name: middle(bias[entry]) for name, entry in BIASES.items()}}


def middle(value: Value) -> float:
    """A number, or the middle of a range."""
    return float(sum(value) / 2 if isinstance(value, tuple) else value)


@dataclass(frozen=True, kw_only=True)
class _NormalEquations:
    """Gauss-Newton normal equations for P parameters, with the initial states eliminated."""

    gradient: Floats
    """`[P]`"""
    information: Floats
    """`[P, P]`"""
    initial_information: Floats
    """`[W, 4, 4]`"""
    initial_gradient: Floats
    """`[W, 4]`"""
    cross: Floats
    """`[W, 4, P]`"""

    def initial_move(self, move: Floats) -> Floats:
        """Move `[W, 4]` of the initial states that goes with a move `[P]` of the parameters."""
        right = self.initial_gradient - self.cross @ move
        return np.asarray(np.linalg.solve(self.initial_information, right[..., np.newaxis])[..., 0], dtype=np.float64)


def _normal_equations(
    windows: Windows, direction: Floats, values: Values, initial: Floats, left: Floats, variance: Floats
) -> _NormalEquations:
    names, W = list(SCALES), len(initial)
    P = len(names)
    columns: dict[str, Floats] = {name: np.full((1 + P + 4, 1), value) for name, value in values.items()}
    starts = np.repeat(initial[np.newaxis], 1 + P + 4, axis=0)
    for column, name in enumerate(names, start=1):
        columns[name][column] = _moved(name, values[name], _DIFFERENCE)
    for entry in range(4):
        starts[1 + P + entry, :, entry] += _DIFFERENCE
    played = play(columns, starts, direction, windows.push)
    weight = windows.present[..., np.newaxis] / np.sqrt(variance)
    derivative = (((played[1:] - played[:1]) / _DIFFERENCE) * weight).reshape(P + 4, W, -1).transpose(1, 2, 0)
    gram = derivative.transpose(0, 2, 1) @ derivative  # [W, P + 4, P + 4]
    slope = (derivative.transpose(0, 2, 1) @ (left * weight).reshape(W, -1, 1))[..., 0]  # [W, P + 4]
    cross, own = gram[:, P:, :P], gram[:, P:, P:]
    eliminated = np.linalg.solve(own, np.concatenate([cross, slope[:, P:, np.newaxis]], axis=2))  # [W, 4, P + 1]
    reduced = cross.transpose(0, 2, 1) @ eliminated
    return _NormalEquations(
        gradient=(slope[:, :P] - reduced[..., P]).sum(0),
        information=(gram[:, :P, :P] - reduced[..., :P]).sum(0),
        initial_information=own,
        initial_gradient=slope[:, P:],
        cross=cross,
    )


def _solve(information: Floats, gradient: Floats, damping: float) -> Floats:
    """Minimum of a damped quadratic; the least-squares solution leaves undetermined directions at 0."""
    damped = information + damping * np.diag(np.diag(information))
    return np.asarray(np.linalg.lstsq(damped, gradient, rcond=1e-13)[0])


def _moved(name: str, value: float, by: float) -> float:
    return value * math.exp(by) if name in POSITIVE else value + by * SCALES[name]


def _bias(values: Mapping[str, float]) -> Floats:
    return np.array([0.0, *(values[name] for name in BIASES)])


def _residual(windows: Windows, direction: Floats, values: Values, initial: Floats) -> Floats:
    """Observations minus trajectories `[W, K + 1, 4]`, 0 where there is no observation."""
    played = play(values, initial[np.newaxis], direction, windows.push)[0]
    return np.where(windows.present[..., np.newaxis], windows.observed - played, 0.0)


def _variance(windows: Windows, left: Floats) -> Floats:
    """Mean squares `[4]`; each window's initial state costs as many degrees of freedom as one observation."""
    return np.asarray((left**2).sum((0, 1)) / windows.transitions + _RESOLUTION**2)


def _smoothness(windows: Windows, left: Floats) -> Floats:
    differences = np.diff(left, axis=1)[windows.present[:, 1:]]
    squares = (left**2).sum((0, 1)) / windows.present.sum()
    return np.asarray(((differences**2).mean(0) + 2 * _RESOLUTION**2) / (squares + _RESOLUTION**2))


def _deviance(windows: Windows, variance: Floats) -> float:
    return float(windows.transitions * np.log(variance).sum())
