"""One step of CartPole by its equations of motion."""

import math
from dataclasses import dataclass
from typing import Any, Final, Self

from gymnasium.envs.classic_control.cartpole import CartPoleEnv

from dqn.environments.world import Value, World

_FIELDS: Final = ("length", "masspole", "masscart", "gravity", "force_mag", "tau")


def middle(value: Value) -> float:
    """A number, or the middle of a range."""
    return (value[0] + value[1]) / 2 if isinstance(value, tuple) else float(value)


@dataclass(frozen=True, kw_only=True)
class CartPole:
    """The parameters of the equations of motion, in SI units."""

    length: float
    """Half the length of the pole."""
    masspole: float
    masscart: float
    gravity: float
    force_mag: float
    tau: float

    @classmethod
    def of(cls, world: World) -> Self:
        """The parameters of a world: a range counts as its middle, and a missing field has Gymnasium's value."""
        own = CartPoleEnv()
        given = {name: getattr(world, name) for name in _FIELDS}
        return cls(**{name: getattr(own, name) if value is None else middle(value) for name, value in given.items()})

    def accelerations(self, sine: Any, cosine: Any, theta_dot: Any, force: Any) -> tuple[Any, Any]:
        """Accelerations of cart and pole (m/s², rad/s²), for numbers or arrays.

        Source: Florian 2007, Correct equations for the dynamics of the cart-pole system, as in
        gymnasium.envs.classic_control.cartpole.
        """
        total = self.masspole + self.masscart
        moment = self.masspole * self.length
        pull = (force + moment * theta_dot * theta_dot * sine) / total
        theta_acc = (self.gravity * sine - cosine * pull) / (
            self.length * (4.0 / 3.0 - self.masspole * cosine * cosine / total)
        )
        return pull - moment * theta_acc * cosine / total, theta_acc

    def velocities(self, x_dot: float, theta: float, theta_dot: float, force: float) -> tuple[float, float]:
        """Velocities of cart and pole one Euler step later, under a force in newtons."""
        x_acc, theta_acc = self.accelerations(math.sin(theta), math.cos(theta), theta_dot, force)
        return x_dot + self.tau * x_acc, theta_dot + self.tau * theta_acc
