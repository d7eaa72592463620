"""What a viewer does to an episode: its seed, pushes on the cart, and another world's physics."""

from dataclasses import asdict, dataclass, fields
from typing import Any, Final, Self, cast

import numpy as np

from serving.quoting import quote

MAX_PUSH: Final = 200.0
MAX_PUSHES: Final = 1_000
MAX_SEED: Final = 2**31 - 1
MAX_STEPS: Final = 2_000
_RANGES: Final = {
    "length": (0.1, 2.0),
    "masspole": (0.01, 2.0),
    "gravity": (0.0, 30.0),
    "force_mag": (1.0, 50.0),
}


def _number(name: str, value: object) -> float:
    if type(value) not in (int, float) or not np.isfinite(cast("float", value)):
        raise ValueError(f"{name} must be a finite number, got {quote(value, 40)}")
    return float(cast("float", value))


@dataclass(frozen=True, kw_only=True)
class Physics:
    """What a viewer may change about CartPole, by Gymnasium's own names; the defaults are CartPole-v1's.

    Raises:
        ValueError: if a value is outside its range.
    """

    length: float = 0.5
    """Half the pole's length, in metres."""
    masspole: float = 0.1
    """Mass of the pole, in kilograms."""
    gravity: float = 9.8
    """Gravity, in metres per second squared."""
    force_mag: float = 10.0
    """Force of one action on the cart, in newtons."""

    def __post_init__(self) -> None:
        for name, (low, high) in _RANGES.items():
            value = _number(name, getattr(self, name))
            if not low <= value <= high:
                raise ValueError(f"{name} must be between {low:g} and {high:g}, got {value:g}")
            object.__setattr__(self, name, value)

    @classmethod
    def parse(cls, values: object) -> Self:
        """Physics from a JSON object; names left out keep their defaults."""
        names = [field.name for field in fields(cls)]
        if not isinstance(values, dict):
            raise ValueError(f"physics must be an object with any of {', '.join(names)}, got {_kind(values)}")
        if unknown := sorted(set(values) - set(names)):
            raise ValueError(f"unknown physics {', '.join(unknown)}; there are {', '.join(names)}")
        return cls(**values)


CARTPOLE: Final = Physics()
"""CartPole-v1 as Gymnasium has it."""


@dataclass(frozen=True, kw_only=True)
class Push:
    """An outside force on the cart during one environment step (0.02 s)."""

    step: int
    force: float
    """In newtons, positive to the right."""

    def __post_init__(self) -> None:
        _check_step("a push's step", self.step)
        force = _number("a push's force", self.force)
        if not -MAX_PUSH <= force <= MAX_PUSH:
            raise ValueError(f"a push's force must be between -{MAX_PUSH:g} and {MAX_PUSH:g} newtons, got {force:g}")
        object.__setattr__(self, "force", force)

    @classmethod
    def parse(cls, values: object) -> Self:
        """A push from a JSON object with `step` and `force`."""
        if not isinstance(values, dict) or set(values) != {"step", "force"}:
            raise ValueError(f"a push must be an object with step and force, got {quote(values)}")
        return cls(**values)


@dataclass(frozen=True, kw_only=True)
class Change:
    """Other physics from one environment step on."""

    step: int
    physics: Physics

    def __post_init__(self) -> None:
        _check_step("a change's step", self.step)

    @classmethod
    def parse(cls, values: object) -> Self:
        """A change from a JSON object with `step` and `physics`."""
        if not isinstance(values, dict) or set(values) != {"step", "physics"}:
            raise ValueError(f"a change must be an object with step and physics, got {_kind(values)}")
        return cls(step=values["step"], physics=Physics.parse(values["physics"]))

    def to_json(self) -> dict[str, Any]:
        """What `parse` reads."""
        return {"step": self.step, "physics": asdict(self.physics)}


def parse_seed(value: object) -> int:
    """A seed from JSON."""
    if type(value) is not int or not 0 <= value <= MAX_SEED:
        raise ValueError(f"seed must be a whole number from 0 to {MAX_SEED}, got {quote(value, 40)}")
    return value


def _check_step(name: str, value: object) -> None:
    if type(value) is not int or not 0 <= value < MAX_STEPS:
        raise ValueError(f"{name} must be a whole number from 0 to {MAX_STEPS - 1}, got {quote(value, 40)}")


def _kind(value: object) -> str:
    return {dict: "an object", list: "an array", str: "a string", type(None): "null"}.get(type(value), "a number")
