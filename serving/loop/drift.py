"""Detects that the world is no longer the one that a version was trained for.

Cumulative sums watch two series: the differences between the velocities of cart and pole after a step and the solution
of CartPole's equations in the version's own world, and the episodic returns. The prediction includes spectators' pushes
and the world's own wind, delay and sensor bias.

The unit of a residual is its standard deviation under a sensor noise of 0.05, the noise of the stress test
(`dqn.stress.robustness`), or under the noise of the version's own world if that is greater. The part that ranges of the
world can explain is subtracted first. Therefore noise that a robust version withstands raises no alarm, even if it was
trained without noise.
"""

import dataclasses
import math
from collections import deque
from typing import Any, Final

from dqn.environments.world import World
from serving.episodes.simulation import Step
from serving.loop.cartpole import CartPole, middle

TOLERATED_NOISE: Final = 0.05
"""Standard deviation of a sensor's noise that does not count as drift."""
CAP: Final = 4.0
"""Upper limit of a single residual, in standard deviations."""
_LATELY: Final = 10
_RANGED: Final = ("length", "masspole", "masscart", "gravity", "force_mag", "tau", "wind")
_LEAN: Final = 0.2  # rad, angle of the pole at which the effect of a world's ranges on a step is computed
_TURN: Final = 1.0  # rad/s, its velocity there


class Rise:
    """Watches a series of numbers for a rise of its mean.

    The sum max(0, S + x - allowed) is compared with `threshold` (Page 1954, Continuous Inspection Schemes, Biometrika
    41).
    """

    def __init__(self, *, allowed: float, threshold: float) -> None:
        self._allowed = allowed
        self._threshold = threshold
        self.reset()

    def reset(self) -> None:
        """Start again with a sum of 0."""
        self._sum = 0.0
        self.lasted = 0
        """Numbers since the sum was last 0, which is the duration of a rise."""

    def update(self, number: float) -> bool:
        """Add the next number; returns whether the mean has risen."""
        self._sum = max(0.0, self._sum + number - self._allowed)
        self.lasted = self.lasted + 1 if self._sum else 0
        return self._sum > self._threshold


class StepTest:
    """Compares CartPole's steps with the prediction for a world."""

    def __init__(self, world: World) -> None:
        self.cartpole = CartPole.of(world)
        self._wind = middle(world.wind)
        self._bias = [middle(value) for value in world.sensor_bias] or [0.0] * 4
        self._delay = int(middle(world.action_delay))
        self._pushed = bool(world.push_force)
        self._interval = int(middle(world.push_interval))
        self.scales = _scales(world, self.cartpole)
        self._slack = _slack(world, self.cartpole)
        self._actions: deque[int] = deque(maxlen=self._delay + 1)
        # A squared residual has mean 2 under the tolerated noise. The thresholds are those of benchmarks/drift.py: no
        # alarm in days of it, and the smallest of the changes there noticed in a second.
        self._size = Rise(allowed=4.0, threshold=80.0)
        self._sides = [Rise(allowed=0.17, threshold=12.0) for _ in range(4)]  # cart and pole, up and down

    def update(self, step: Step) -> int:
        """Add the next step; returns for how many steps a change has lasted, or 0 without one."""
        if step.index == 0:
            self._actions.clear()
        self._actions.append(step.action)
        if len(self._actions) <= min(self._delay, step.index):
            return 0  # the action that takes effect is unknown: the test began within an episode
        if self._pushed and step.index % self._interval == 0:
            return 0  # the world may push at this step, from either side
        _, x_dot, theta, theta_dot = step.observation
        _, x_bias, theta_bias, turn_bias = self._bias
        motor = self.cartpole.force_mag if self._actions[0] == 1 else -self.cartpole.force_mag
        force = motor + self._wind + step.push
        x_next, turn_next = self.cartpole.velocities(x_dot - x_bias, theta - theta_bias, theta_dot - turn_bias, force)
        cart = _capped(step.next_observation[1] - x_bias - x_next, self._slack[0], self.scales[0])
        pole = _capped(step.next_observation[3] - turn_bias - turn_next, self._slack[1], self.scales[1])
        tests = [self._size, *self._sides]
        numbers = (cart * cart + pole * pole, cart, -cart, pole, -pole)
        lasted = [test.lasted for test, number in zip(tests, numbers, strict=True) if test.update(number)]
        if not lasted:
            return 0
        for test in tests:
            test.reset()
        return max(lasted)


class EpisodeTest:
    """Compares an episode's return with earlier returns, in any environment.

    The reference is the 100 episodes before the last 10. It leaves out the last 10 because they may belong to a change.
    """

    def __init__(self) -> None:
        self._returns: deque[float] = deque(maxlen=100 + _LATELY)
        self._test = Rise(allowed=0.5, threshold=14.0)  # of how far returns fall short

    def update(self, episodic_return: float) -> bool:
        """Add the return of an undisturbed episode; returns whether returns have fallen, from the 11th episode on."""
        self._returns.append(episodic_return)
        if len(self._returns) <= _LATELY:
            return False
        usual = list(self._returns)[: max(_LATELY, len(self._returns) - _LATELY)]
        mean = sum(usual) / len(usual)
        spread = math.sqrt(sum((value - mean) ** 2 for value in usual) / len(usual))
        shortfall = (mean - episodic_return) / max(spread, 0.05 * abs(mean), 1e-9)
        fallen = self._test.update(max(-CAP, min(CAP, shortfall)))
        if fallen:
            self.usual = mean
            self._test.reset()
        return fallen

    usual = 0.0
    """Mean return of the reference at the latest fall."""


def can_predict(env_id: str, world: World) -> bool:
    """Whether steps in this world can be predicted: CartPole without random delays or random times of pushes."""
    at_random = isinstance(world.action_delay, tuple) or (world.push_force and isinstance(world.push_interval, tuple))
    return env_id.startswith("CartPole-") and not at_random


def _capped(residual: float, slack: float, scale: float) -> float:
    size = (abs(residual) - slack) / scale
    return math.copysign(min(size, CAP), residual) if size > 0 else 0.0


def _scales(world: World, cartpole: CartPole) -> tuple[float, float]:
    """Standard deviations of the two residuals under the tolerated noise."""
    noise = [max(TOLERATED_NOISE, _upper(value)) for value in world.sensor_noise] or [TOLERATED_NOISE] * 4
    cart, pole = _effect_of_lean(cartpole, 1e-6)
    return (
        math.sqrt(2 * noise[1] ** 2 + (cart / 1e-6 * noise[2]) ** 2),
        math.sqrt(2 * noise[3] ** 2 + (pole / 1e-6 * noise[2]) ** 2),
    )


def _slack(world: World, cartpole: CartPole) -> tuple[float, float]:
    """The greatest residuals, of cart and pole, that the world's ranges can explain."""
    cart = pole = 0.0
    for name in _RANGED:
        value = getattr(world, name)
        if not isinstance(value, tuple):
            continue
        effects = []
        for end in value:
            there = cartpole if name == "wind" else dataclasses.replace(cartpole, **{name: end})
            more = end - middle(value) if name == "wind" else 0.0
            for side in (-1.0, 1.0):
                expected = cartpole.velocities(0.0, _LEAN, _TURN, side * cartpole.force_mag)
                found = there.velocities(0.0, _LEAN, _TURN, side * there.force_mag + more)
                effects.append((abs(found[0] - expected[0]), abs(found[1] - expected[1])))
        cart += max(effect[0] for effect in effects)
        pole += max(effect[1] for effect in effects)
    if world.sensor_bias and isinstance(world.sensor_bias[2], tuple):
        low, high = world.sensor_bias[2]
        leaning = _effect_of_lean(cartpole, (high - low) / 2)
        cart, pole = cart + leaning[0], pole + leaning[1]
    return cart, pole


def _effect_of_lean(cartpole: CartPole, lean: float) -> tuple[float, float]:
    """Change of both velocities after a step if the pole leans by `lean` (rad) instead of 0."""
    upright, leaning = (cartpole.velocities(0.0, theta, 0.0, 0.0) for theta in (0.0, lean))
    return abs(leaning[0] - upright[0]), abs(leaning[1] - upright[1])


def _upper(value: Any) -> float:
    return float(value[1]) if isinstance(value, tuple) else float(value)
