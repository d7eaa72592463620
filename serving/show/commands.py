"""What a viewer may ask of a show, as JSON objects told apart by `do`."""

from collections.abc import Callable
from typing import Any, Final

import msgspec
from msgspec import Struct

from serving.episodes.limits import Force, Seed


class _Command(Struct, frozen=True, tag_field="do", forbid_unknown_fields=True):
    """Told apart by `do`."""


class Authorize(_Command, frozen=True, tag="authorize"):
    """Show the server's token; whatever else is shown, or nothing, takes back what was allowed."""

    token: Any = None


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


class Allowance:
    """How many commands one connection may send: so many a second, and some at once after a rest."""

    def __init__(self, a_second: float, at_once: float, clock: Callable[[], float]) -> None:
        self._a_second = a_second
        self._at_once = at_once
        self._clock = clock
        self._left = at_once
        self._counted_at = clock()

    def take(self) -> bool:
        """Whether one more is within the allowance."""
        now = self._clock()
        self._left = min(self._at_once, self._left + (now - self._counted_at) * self._a_second)
        self._counted_at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True
