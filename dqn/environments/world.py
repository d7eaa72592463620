"""The world of an episode: parameters of cart and pole, sensors, action delay, wind and pushes."""

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, Self

Value = float | tuple[float, float]
Count = int | tuple[int, int]

MAX_DELAY: Final = 100


class WorldError(ValueError):
    """An invalid world; the message names the field, its value and the allowed values."""


@dataclass(frozen=True, kw_only=True)
class World:
    """Differences from the environment as Gymnasium defines it; none by default.

    Each value is a number, or a range (low, high) from which each sub-environment draws uniformly at each reset.
    """

    # Pydantic refuses unknown keys. The attribute docstrings become the field descriptions in the Prefect UI.
    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "use_attribute_docstrings": True}

    length: Value | None = None
    """Half the pole's length in metres (CartPole-v1: 0.5), or the length of Acrobot's links."""
    masspole: Value | None = None
    """Mass of the pole in kilograms (CartPole-v1: 0.1), or of each of Acrobot's links."""
    masscart: Value | None = None
    """Mass of the cart in kilograms (CartPole-v1: 1)."""
    inertia: Value | None = None
    """Moment of inertia of Acrobot's links in kilogram square metres (1)."""
    gravity: Value | None = None
    """Gravity in metres per second squared (CartPole-v1: 9.8), or in MountainCar's unit (0.0025)."""
    force_mag: Value | None = None
    """Force of an action in newtons (CartPole-v1: 10; MountainCar's unit: 0.001); negative for a reversed motor."""
    tau: Value | None = None
    """Seconds per environment step (CartPole-v1: 0.02)."""
    wind: Value = 0.0
    """Constant outside force on the cart in newtons, positive to the right."""
    push_force: Value = 0.0
    """Outside force on the cart in newtons during single steps, from a random side each time."""
    push_interval: Count = 100
    """Environment steps from one push to the next, counted from the start of the episode."""
    action_delay: Count = 0
    """Environment steps until an action takes effect; before that, the first action applies."""
    sensor_bias: tuple[Value, ...] = ()
    """Added to the observation, one value per entry; empty for none."""
    sensor_noise: tuple[Value, ...] = ()
    """Standard deviation of normal noise on the observation, one value per entry; empty for none."""
    attributes: dict[str, Value] = field(default_factory=dict, hash=False)
    """Numbers among the environment's own attributes that no other field names, such as Acrobot's LINK_MASS_1."""

    def __post_init__(self) -> None:
        """Validate all fields and convert whole numbers to floats.

        Raises:
            WorldError: for the first field that has a wrong type or is out of range.
        """
        for name in _DEFAULTS:
            value = getattr(self, name)
            value = _as_tuples(value) if isinstance(value, dict) else value  # a command line has lists there
            self._check(name, value)
            if name not in WHOLE:  # equal worlds are written equally
                object.__setattr__(self, name, _as_floats(value))

    def _check(self, name: str, value: Any) -> None:
        if name == "attributes":
            if not isinstance(value, dict) or not all(isinstance(key, str) and _is_public(key) for key in value):
                raise WorldError(f"world.attributes must be numbers by the names of attributes, got {value!r:.80}")
            for key, number in value.items():
                self._check(f"attributes.{key:.40}", number)
            return
        if value is None and _DEFAULTS.get(name, 0) is None:
            return
        least, expected = _LEAST.get(name, (-math.inf, "a finite number"))
        entries = value if name in ENTRYWISE and isinstance(value, tuple) else (value,)
        for entry in entries:
            ends = entry if isinstance(entry, tuple) else (entry, entry)
            numbers = len(ends) == 2 and all(_is_number(end, whole=name in WHOLE) and end >= least for end in ends)
            too_late = name == "action_delay" and numbers and ends[1] > MAX_DELAY
            if not numbers or ends[0] > ends[1] or too_late or (name in ENTRYWISE and not isinstance(value, tuple)):
                raise WorldError(f"world.{name} must be {expected}, or a range from low to high, got {value!r:.80}")

    def to_dict(self) -> dict[str, Any]:
        """The differences from the default, as plain JSON values."""
        given = {name: getattr(self, name) for name in _DEFAULTS}
        given["attributes"] = dict(self.attributes)
        return {name: value for name, value in given.items() if value != _DEFAULTS[name]}

    def flat(self) -> dict[str, Any]:
        """Every field; an attribute is the field `attributes.NAME`."""
        fields = {name: getattr(self, name) for name in _DEFAULTS if name != "attributes"}
        return fields | {f"attributes.{name}": value for name, value in self.attributes.items()}

    @classmethod
    def from_dict(cls, values: object) -> Self:
        """Inverse of `to_dict`, also after a round trip through JSON.

        Raises:
            WorldError: if a field is unknown, has a wrong type or is out of range.
        """
        if not isinstance(values, dict):
            raise WorldError(f"a world must be an object with any of {', '.join(_DEFAULTS)}, got {values!r:.80}")
        if unknown := sorted(map(str, values.keys() - _DEFAULTS.keys())):
            raise WorldError(f"a world has no {', '.join(unknown)[:80]}; it has {', '.join(_DEFAULTS)}")
        return cls(**{name: _as_tuples(value) for name, value in values.items()})

    def altered(self, change: "World") -> "World":
        """This world with the fields that differ from the default in `change`.

        If `change` has a push force, its push interval applies too. A default value can be set by a range: `wind=(0.0,
        0.0)`. Attributes that `change` does not name stay.
        """
        given = change.to_dict() | {"attributes": self.attributes | change.attributes}
        if "push_force" in given:
            given["push_interval"] = change.push_interval
        return dataclasses.replace(self, **given)

    def __str__(self) -> str:
        """A readable form: `length 1, wind 2 to 3`, or `nominal`."""
        return ", ".join(f"{name} {_text(name, value)}" for name, value in self.to_dict().items()) or "nominal"


_DEFAULTS: Final[dict[str, Any]] = {
    each.name: {} if each.name == "attributes" else each.default for each in dataclasses.fields(World)
}
ENTRYWISE: Final = ("sensor_bias", "sensor_noise")
"""Fields with one value per entry of the observation."""
WHOLE: Final = ("push_interval", "action_delay")
"""Fields that count environment steps."""
_ABOVE_0: Final = (math.ulp(0.0), "a number above 0")
_LEAST: Final[dict[str, tuple[float, str]]] = {
    **dict.fromkeys(("length", "masspole", "masscart", "inertia", "tau"), _ABOVE_0),
    "push_interval": (1, "a whole number of steps from 1"),
    "action_delay": (0, f"a whole number of steps from 0 to {MAX_DELAY}"),
    "sensor_noise": (0, "a number from 0 for each entry of the observation"),
    "sensor_bias": (-math.inf, "a finite number for each entry of the observation"),
}


def _is_public(name: str) -> bool:
    return name.isidentifier() and not name.startswith("_")


def _is_number(value: object, *, whole: bool) -> bool:
    if type(value) is int:
        return abs(value) < 2**31
    return not whole and type(value) is float and math.isfinite(value)


def _as_tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _as_tuples(entry) for name, entry in value.items()}
    return tuple(map(_as_tuples, value)) if isinstance(value, list) else value


def _as_floats(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _as_floats(value[name]) for name in sorted(value)}
    if isinstance(value, tuple):
        return tuple(map(_as_floats, value))
    return value if value is None else float(value) + 0.0


def _text(name: str, value: Any) -> str:
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key} {_text(key, entry)}' for key, entry in value.items())}}}"
    if name in ENTRYWISE:
        return f"[{', '.join(_text('', entry) for entry in value)}]"
    return f"{value[0]:g} to {value[1]:g}" if isinstance(value, tuple) else f"{value:g}"


NOMINAL: Final = World()
"""The environment as Gymnasium defines it."""
