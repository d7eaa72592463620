"""What a viewer may ask of a show, as JSON objects told apart by `do`."""

from typing import Final

import msgspec
from msgspec import Struct

from serving.episodes.physics import Force, Seed


class _Command(Struct, frozen=True, tag_field="do", forbid_unknown_fields=True):
    """Told apart by `do`."""


class Authorize(_Command, frozen=True, tag="authorize"):
    """Show the server's token, once a connection."""

    token: str


class PushCart(_Command, frozen=True, tag="push"):
    """Push the cart at the next step."""

    force: Force


class Pause(_Command, frozen=True, tag="pause"):
    """Stand still."""


class Resume(_Command, frozen=True, tag="resume"):
    """Play on."""


class SingleStep(_Command, frozen=True, tag="step"):
    """Take one step, then stand still."""


class Speed(_Command, frozen=True, tag="speed"):
    """Play at a multiple of real time."""

    speed: float


class Restart(_Command, frozen=True, tag="reset"):
    """Begin a new episode, from the present seed or another one."""

    seed: Seed | None = None


Command = PushCart | Pause | Resume | SingleStep | Speed | Restart
DECODER: Final = msgspec.json.Decoder(Command | Authorize)
