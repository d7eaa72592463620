"""Undoes a change of CartPole's world in front of a policy, and balances an identified world without one.

What stands between a policy and the world's change: actions are swapped where the motor is reversed, the sensors' bias
is subtracted, and a delay is bridged by the equations of motion, played ahead over the actions on their way. With noisy
sensors the state is filtered first.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from dqn.environments.masks import Mask
from dqn.environments.world import World
from serving.loop.cartpole import CartPole, middle

Floats = npt.NDArray[np.float64]
State = tuple[Any, Any, Any, Any]
"""Position and velocity of the cart (m, m/s), angle and velocity of the pole (rad, rad/s): numbers, or arrays `[B]`."""
Observed = Callable[[npt.NDArray[np.floating]], npt.NDArray[np.floating]]
"""Q-values `[B, 2]` of observations `[B, 4]`."""

FILTERED_NOISE: Final = 0.005
"""The state is filtered if the sensor noise is above this."""
_COST: Final = (10.0, 1.0, 1.0, 1.0)
"""Weights of the squared state in the regulator; a squared newton weighs `_COST_OF_FORCE`."""
_COST_OF_FORCE: Final = 0.01
_DOUBLINGS: Final = 14
_SLIGHT: Final = 0.02
"""Biases below this, in rad, m/s or rad/s, are not worth words."""
_UNMODELLED: Final = (1e-4, 0.03, 1e-4, 0.06)
"""Standard deviations of what moves the state in a step besides the equations of motion, for the filter."""


@dataclass(frozen=True, kw_only=True)
class Plant:
    """A world as numbers; ranges count as their middle."""

    cartpole: CartPole
    wind: float
    bias: tuple[float, ...]
    """Of the sensors, `[4]`."""
    noise: tuple[float, ...]
    """Standard deviations of the sensors' noise, `[4]`."""
    delay: int

    @classmethod
    def of(cls, world: World) -> "Plant":
        """The numbers of a world."""
        return cls(
            cartpole=CartPole.of(world),
            wind=middle(world.wind),
            bias=tuple(bias_of(world, entry) for entry in range(4)),
            noise=tuple(middle(value) for value in world.sensor_noise) or (0.0,) * 4,
            delay=int(middle(world.action_delay)),
        )

    def step(self, state: State, side: Any, push: Any = 0.0) -> State:
        """The state after one step with the motor to one side, -1 or 1, and an outside force in newtons."""
        x, x_dot, theta, theta_dot = state
        sin, cos = (np.sin, np.cos) if isinstance(theta, np.ndarray) else (math.sin, math.cos)
        force = side * self.cartpole.force_mag + self.wind + push
        x_acc, theta_acc = self.cartpole.accelerations(sin(theta), cos(theta), theta_dot, force)
        tau = self.cartpole.tau
        return x + tau * x_dot, x_dot + tau * x_acc, theta + tau * theta_dot, theta_dot + tau * theta_acc

    def linear(self) -> tuple[Floats, Floats]:
        """The step around the upright pole at rest: `[4, 4]` of the state, and `[4, 1]` of a force in newtons."""
        zero = np.zeros(5)
        small = 1e-6 * np.eye(5)
        still = Plant(cartpole=self.cartpole, wind=0.0, bias=self.bias, noise=self.noise, delay=0)
        after = np.array(still.step(tuple(zero + small[k] for k in range(4)), 0.0, small[4])) / 1e-6
        return after[:, :4], after[:, 4:]


class Undone:
    """Lets a policy play B episodes side by side in `plant`, as if it played in the world it was trained for.

    Args:
        policy: the Q-values of a policy.
        plant: the world that is played.
        own: the world that the policy was trained for.
        actions: of the episode that plays, oldest first; empty at an episode's beginning.
    """

    def __init__(self, policy: Observed, plant: Plant, own: Plant, actions: Iterable[int] = ()) -> None:
        self._policy = policy
        self._plant = plant
        self._own_bias = own.bias
        self.swapped = plant.cartpole.force_mag * own.cartpole.force_mag < 0
        self.bridged = max(0, plant.delay - own.delay)
        noisy = max(plant.noise) > FILTERED_NOISE
        self._gain: list[list[float]] = filter_gain(plant).tolist() if noisy else []
        self._sides: deque[Any] = deque(maxlen=plant.delay + 1)
        self._estimate: State | None = None
        for action in actions:
            self._take(2.0 * action - 1.0)

    def reset(self) -> None:
        """Begin new episodes."""
        self._sides.clear()
        self._estimate = None

    def q_values(self, observation: npt.NDArray[np.floating], mask: Mask | None = None) -> npt.NDArray[np.floating]:
        """Q-values `[B, 2]` of the actions as the motor gets them; the greedy ones are taken. CartPole has no masks."""
        single = len(observation) == 1  # numbers are faster than arrays of one
        x, x_dot, theta, theta_dot = observation[0].tolist() if single else observation.T
        state = _shifted((x, x_dot, theta, theta_dot), self._plant.bias, -1.0)
        if self._gain:
            state = self._filtered(state)
        for k in range(min(self.bridged, len(self._sides))):
            state = self._plant.step(state, self._sides[k])
        state = _shifted(state, self._own_bias, 1.0)
        q_values = self._policy(np.array([state]) if single else np.stack(state, axis=1))
        if self.swapped:
            q_values = q_values[:, ::-1]
        right = q_values[:, 1] > q_values[:, 0]
        self._take((1.0 if right[0] else -1.0) if single else np.where(right, 1.0, -1.0))
        return q_values

    def _take(self, side: Any) -> None:
        """Remember an action; before the delay has passed in an episode, the first one applies."""
        if not self._sides:
            self._sides.extend([side] * self._plant.delay)
        self._sides.append(side)

    def _filtered(self, seen: State) -> State:
        """The estimated state: what the last estimate predicts, corrected by what is observed."""
        if self._estimate is None or not self._sides:
            self._estimate = seen
            return seen
        predicted = self._plant.step(self._estimate, self._sides[0])
        error = [there - expected for there, expected in zip(seen, predicted, strict=True)]
        corrected = [
            expected + a * error[0] + b * error[1] + c * error[2] + d * error[3]
            for expected, (a, b, c, d) in zip(predicted, self._gain, strict=True)
        ]
        self._estimate = (corrected[0], corrected[1], corrected[2], corrected[3])
        return self._estimate


def _shifted(state: State, bias: tuple[float, ...], sign: float) -> State:
    x, x_dot, theta, theta_dot = state
    return x + sign * bias[0], x_dot + sign * bias[1], theta + sign * bias[2], theta_dot + sign * bias[3]


def undone_of(world: World, own: World) -> str:
    """What can be undone of a world in front of a policy that was trained for another one; empty if nothing can."""
    there, here = CartPole.of(world), CartPole.of(own)
    parts = []
    if there.force_mag * here.force_mag < 0:
        parts.append("the motor's sign undone")
    bias = [bias_of(world, k) - bias_of(own, k) for k in range(4)]
    if abs(bias[2]) > _SLIGHT:
        parts.append(f"{abs(math.degrees(bias[2])):.0f}° of the angle's reading subtracted")
    if max(abs(bias[1]), abs(bias[3])) > _SLIGHT:
        parts.append("the bias of a velocity's sensor subtracted")
    late = int(middle(world.action_delay)) - int(middle(own.action_delay))
    if late > 0:
        parts.append(f"{late} step{'s' * (late > 1)} of delay bridged by the equations of motion")
    return ", ".join(parts)


def bias_of(world: World, entry: int) -> float:
    """The bias of a sensor: 0 for the position, 1 for the cart's velocity, 2 for the angle, 3 for its velocity."""
    return middle(world.sensor_bias[entry]) if world.sensor_bias else 0.0


def regulator(plant: Plant) -> Observed:
    """A policy for a plant without delay, bias and noise: the side of a linear-quadratic regulator's force."""
    A, B = plant.linear()
    P = riccati(A, B @ B.T / _COST_OF_FORCE, np.diag(_COST))
    gain = np.linalg.solve(B.T @ P @ B + _COST_OF_FORCE, B.T @ P @ A)[0]

    def q_values(state: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
        right = -(state @ gain) * math.copysign(1.0, plant.cartpole.force_mag)
        return np.stack([-right, right], axis=1)

    return q_values


def filter_gain(plant: Plant) -> Floats:
    """Gain `[4, 4]` of the stationary Kalman filter."""
    A, _ = plant.linear()
    noise = np.diag(np.maximum(plant.noise, 1e-4) ** 2)
    P = riccati(A.T, np.linalg.inv(noise), np.diag(np.square(_UNMODELLED)))
    return np.asarray(P @ np.linalg.inv(P + noise))


def riccati(a: Floats, g: Floats, h: Floats) -> Floats:
    """The stabilising solution of P = aᵀ P (I + g P)⁻¹ a + h, by doubling (Chu, Fan, Lin and Wang, 2004)."""
    for _ in range(_DOUBLINGS):
        w = np.linalg.inv(np.eye(len(a)) + g @ h)
        a, g, h = a @ w @ a, g + a @ w @ g @ a.T, h + a.T @ h @ w @ a
    return h
