"""What a viewer does to an episode: its seed, pushes on the cart, and another world's physics."""

from typing import Annotated, Final

from msgspec import Meta, Struct

MAX_PUSH: Final = 200.0
MAX_PUSHES: Final = 1_000
MAX_SEED: Final = 2**31 - 1
MAX_STEPS: Final = 2_000

Seed = Annotated[int, Meta(ge=0, le=MAX_SEED)]
StepIndex = Annotated[int, Meta(ge=0, le=MAX_STEPS - 1)]
Force = Annotated[float, Meta(ge=-MAX_PUSH, le=MAX_PUSH, description="newtons, positive to the right")]


class Physics(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a viewer may change about CartPole, by Gymnasium's own names; the defaults are CartPole-v1's."""

    length: Annotated[float, Meta(ge=0.1, le=2.0, description="half the pole's length, metres")] = 0.5
    masspole: Annotated[float, Meta(ge=0.01, le=2.0, description="mass of the pole, kilograms")] = 0.1
    gravity: Annotated[float, Meta(ge=0.0, le=30.0, description="metres per second squared")] = 9.8
    force_mag: Annotated[float, Meta(ge=1.0, le=50.0, description="force of an action on the cart, newtons")] = 10.0


CARTPOLE: Final = Physics()
"""CartPole-v1 as Gymnasium has it."""


class Push(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An outside force on the cart during one environment step (0.02 s)."""

    step: StepIndex
    force: Force


class Change(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Other physics from one environment step on."""

    step: StepIndex
    physics: Physics


Pushes = Annotated[tuple[Push, ...], Meta(max_length=MAX_PUSHES)]
Changes = Annotated[tuple[Change, ...], Meta(max_length=MAX_PUSHES)]
