"""The commands of a viewer: JSON objects with a tag in `do`."""

from collections.abc import Callable
from typing import Any, Final

import msgspec
from msgspec import Struct

from serving.episodes.limits import Force, Seed


class _Command(Struct, frozen=True, tag_field="do", forbid_unknown_fields=True):
    """A command; its tag is in `do`."""


class Authorize(_Command, frozen=True, tag="authorize"):
    """Present the server's token; a wrong or missing token withdraws the permission."""

    token: Any = None


class PushCart(_Command, frozen=True, tag="push"):
    """Push the cart at the next step."""

    force: Force


class Pause(_Command, frozen=True, tag="pause"):
    """Stop playing."""


class Resume(_Command, frozen=True, tag="resume"):
    """Continue playing."""


class SingleStep(_Command, frozen=True, tag="step"):
    """Take one step, then stop."""


class Speed(_Command, frozen=True, tag="speed"):
    """Play at a multiple of real time."""

    speed: float


class Restart(_Command, frozen=True, tag="reset"):
    """Begin a new episode from the present seed or another one."""

    seed: Seed | None = None


Command = PushCart | Pause | Resume | SingleStep | Speed | Restart
DECODER: Final = msgspec.json.Decoder(Command | Authorize)


class Allowance:
    """Limits the commands of one connection: so many a second, and so many at once after a rest (token bucket)."""

    def __init__(self, a_second: float, at_once: float, clock: Callable[[], float]) -> None:
        self._a_second = a_second
        self._at_once = at_once
        self._clock = clock
        self._left = at_once
        self._counted_at = clock()

    def take(self) -> bool:
        """Whether one more command is within the limit."""
        now = self._clock()
        self._left = min(self._at_once, self._left + (now - self._counted_at) * self._a_second)
        self._counted_at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True
