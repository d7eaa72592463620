"""What a request may set in an episode: its seed, pushes on the cart, and the world, each within limits."""

from collections.abc import Iterator
from typing import Annotated, Any, Final

from msgspec import Meta, Struct

from dqn.environments.world import ENTRYWISE, MAX_DELAY, WHOLE, World, WorldError

MAX_PUSH: Final = 200.0
MAX_PUSHES: Final = 1_000
MAX_SEED: Final = 2**31 - 1
MAX_STEPS: Final = 2_000
MAX_ATTRIBUTES: Final = 32

LIMITS: Final[dict[str, tuple[float, float]]] = {
    "length": (0.05, 2.0),
    "masspole": (0.01, 10.0),
    "masscart": (0.1, 10.0),
    "inertia": (0.1, 10.0),
    "gravity": (0.0, 50.0),
    "force_mag": (-100.0, 100.0),
    "tau": (0.001, 0.1),
    "wind": (-50.0, 50.0),
    "push_force": (0.0, MAX_PUSH),
    "push_interval": (1, 100_000),
    "action_delay": (0, MAX_DELAY),
    "sensor_bias": (-5.0, 5.0),
    "sensor_noise": (0.0, 5.0),
    "attributes": (-1e6, 1e6),
}
"""Least and greatest value of each field of a world that a request may set; the environment limits attributes more."""


def _schema(name: str) -> dict[str, Any]:
    low, high = LIMITS[name]
    number = {"type": "integer" if name in WHOLE else "number", "minimum": low, "maximum": high}
    value = {"anyOf": [number, {"type": "array", "items": number, "minItems": 2, "maxItems": 2}]}
    if name == "attributes":
        return {"type": "object", "additionalProperties": value, "maxProperties": MAX_ATTRIBUTES}
    return {"type": "array", "items": value} if name in ENTRYWISE else value


Seed = Annotated[int, Meta(ge=0, le=MAX_SEED)]
StepIndex = Annotated[int, Meta(ge=0, le=MAX_STEPS - 1)]
Force = Annotated[float, Meta(ge=-MAX_PUSH, le=MAX_PUSH, description="newtons, positive to the right")]
WorldValues = Annotated[
    dict[str, Any],
    Meta(
        title="World",
        description="the differences from Gymnasium's environment; for a range [low, high] a number is drawn from it "
        "at the start of each episode",
        extra_json_schema={"properties": {name: _schema(name) for name in LIMITS}, "additionalProperties": False},
    ),
]
"""A world in JSON (`World.to_dict`)."""


class Push(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An outside force on the cart during one environment step (0.02 s)."""

    step: StepIndex
    force: Force


class Change(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Another world from one environment step on."""

    step: StepIndex
    world: WorldValues

    def __post_init__(self) -> None:
        parse_world(self.world)


Pushes = Annotated[tuple[Push, ...], Meta(max_length=MAX_PUSHES)]
Changes = Annotated[tuple[Change, ...], Meta(max_length=MAX_PUSHES)]


def parse_world(values: object) -> World:
    """A world from JSON values, within `LIMITS`.

    Raises:
        WorldError: with the first field that is unknown, of another type or out of range.
    """
    try:
        world = World.from_dict(values)
    except RecursionError:
        raise WorldError("a world's values are numbers and ranges, not something nested deep") from None
    if len(world.attributes) > MAX_ATTRIBUTES:
        raise WorldError(f"world.attributes has {len(world.attributes)} numbers, at most {MAX_ATTRIBUTES} may change")
    for name, value in world.to_dict().items():
        low, high = LIMITS[name]
        for number in _numbers(value):
            if not low <= number <= high:
                raise WorldError(f"world.{name} must be between {low:g} and {high:g} here, got {number:g}")
    return world


def _numbers(value: Any) -> Iterator[float]:
    if not isinstance(value, tuple | dict):
        yield value
        return
    for entry in value.values() if isinstance(value, dict) else value:
        yield from _numbers(entry)
