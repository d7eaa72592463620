"""The real world of the shows: each version's own world until a viewer changes it."""

import dataclasses
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from dqn.environments.spec import Environment
from dqn.environments.world import World
from serving.episodes.limits import parse_world
from serving.policy import PolicyMetadata

_ONE_CHANGE: Final = 2.0  # seconds; the requests of a moving slider count as one change


class RealWorld:
    """Changes of the world by viewers. Policies, drift detector and trainer never read it.

    The first change fixes the world under the changes: that of the version playing then. A version that is swapped in
    plays in the changed world, and in that fixed world after the changes are undone. `clock` gives seconds since 1970.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.changed: dict[str, Any] = {}
        """The changed fields with their values."""
        self.history: deque[tuple[float, bool]] = deque(maxlen=8)
        """Time of each change, and whether it undid all changes; the latest last."""
        self._home: tuple[Environment, World] | None = None
        self._clock = clock

    def preview(self, values: object, played: PolicyMetadata) -> World:
        """The world after a change while a version plays.

        Raises:
            WorldError: for an unknown field, another type, or a value out of `serving.episodes.limits.LIMITS`.
        """
        return dataclasses.replace(self.home(played), **_given(values))

    def change(self, values: object, played: PolicyMetadata) -> None:
        """Replace all earlier changes by the fields in `values`; {} undoes them.

        Raises:
            WorldError: as in `preview`.
        """
        self.changed = _given(values)
        self._home = (played.environment, self.home(played))
        now, right = self._clock(), not self.changed
        at = now
        if self.history and self.history[-1][1] == right and now - self.history[-1][0] < _ONE_CHANGE:
            at, _ = self.history.pop()
        self.history.append((at, right))
        self.settle(played)

    def of(self, metadata: PolicyMetadata) -> World:
        """The world that a version plays in."""
        if self._home is None or self._home[0] != metadata.environment:
            return metadata.world
        return dataclasses.replace(self._home[1], **self.changed)

    def settle(self, played: PolicyMetadata) -> None:
        """Use each version's own world again, if nothing is changed and the playing version's own is the fixed one."""
        if not self.changed and self._home == (played.environment, played.world):
            self._home = None

    def home(self, played: PolicyMetadata) -> World:
        """The world without the changes while a version plays."""
        return self._home[1] if self._home and self._home[0] == played.environment else played.world


def _given(values: object) -> dict[str, Any]:
    world = parse_world(values)
    assert isinstance(values, dict)
    return {name: getattr(world, name) for name in values}
