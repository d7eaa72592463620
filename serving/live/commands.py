"""What a viewer may ask of a show, as JSON objects told apart by `do`."""

from typing import Final

import msgspec
from msgspec import Struct

from serving.episodes.physics import Force, Seed


class _Command(Struct, tag_field="do", forbid_unknown_fields=True):
    """Told apart by `do`."""


class Authorize(_Command, tag="authorize"):
    """Show the server's token, once a connection."""

    token: str


class PushCart(_Command, tag="push"):
    """Push the cart at the next step."""

    force: Force


class Pause(_Command, tag="pause"):
    """Stand still."""


class Resume(_Command, tag="resume"):
    """Play on."""


class SingleStep(_Command, tag="step"):
    """Take one step, then stand still."""


class Speed(_Command, tag="speed"):
    """Play at a multiple of real time."""

    speed: float


class Restart(_Command, tag="reset"):
    """Begin a new episode, from the present seed or another one."""

    seed: Seed | None = None


Command = PushCart | Pause | Resume | SingleStep | Speed | Restart
DECODER: Final = msgspec.json.Decoder(Command | Authorize)
