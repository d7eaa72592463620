"""The world that the shows really play in: each version's own, until somebody changes it."""

import dataclasses
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from dqn.environments.world import World
from serving.episodes.limits import parse_world
from serving.policy import PolicyMetadata

_ONE_CHANGE: Final = 2.0  # seconds: what a slider asks for on its way is one change


class RealWorld:
    """What a viewer has made of the world; policies, detector and trainer never read it.

    The first change fixes what it is laid over, the world of the version that plays then: whoever takes over plays in
    the changed world, and in that one again once it is put right. `clock` gives seconds since 1970.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.changed: dict[str, Any] = {}
        """The fields that were changed, with their values."""
        self.history: deque[tuple[float, bool]] = deque(maxlen=8)
        """When it was changed, and whether that put it right; the latest last."""
        self._home: tuple[str, World] | None = None
        self._clock = clock

    def preview(self, values: object, played: PolicyMetadata) -> World:
        """What a change would lead to while a version plays.

        Raises:
            WorldError: if it names what is unknown, of another type or out of `serving.episodes.limits.LIMITS`.
        """
        return dataclasses.replace(self.home(played), **_given(values))

    def change(self, values: object, played: PolicyMetadata) -> None:
        """Lay the fields in `values` over the world there was at first, in place of an earlier change; {} for none.

        Raises:
            WorldError: as of `preview`.
        """
        self.changed = _given(values)
        self._home = (played.env_id, self.home(played))
        now, right = self._clock(), not self.changed
        at = now
        if self.history and self.history[-1][1] == right and now - self.history[-1][0] < _ONE_CHANGE:
            at, _ = self.history.pop()
        self.history.append((at, right))
        self.settle(played)

    def of(self, metadata: PolicyMetadata) -> World:
        """What a version plays in."""
        if self._home is None or self._home[0] != metadata.env_id:
            return metadata.world
        return dataclasses.replace(self._home[1], **self.changed)

    def settle(self, played: PolicyMetadata) -> None:
        """Follow the versions' own worlds again once nothing is changed and the one that plays is at home."""
        if not self.changed and self._home == (played.env_id, played.world):
            self._home = None

    def home(self, played: PolicyMetadata) -> World:
        """What it is where nothing was changed, while a version plays."""
        return self._home[1] if self._home and self._home[0] == played.env_id else played.world


def _given(values: object) -> dict[str, Any]:
    world = parse_world(values)
    assert isinstance(values, dict)
    return {name: getattr(world, name) for name in values}
