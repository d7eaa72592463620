"""Replays on the disk, so that their links work after a restart: the newest ones, as JSON, one file each."""

import logging
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from serving.disk import reason, write_new
from serving.episodes.replay import Replay

KEPT_REPLAYS: Final = 50
_KEPT_BYTES: Final = 32 << 20
_LOG: Final = logging.getLogger("serving")


class Kept:
    """A folder of replays; several servers may share one. Every method may block: call it from a thread."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._failed = False

    def read(self) -> list[Replay]:
        """The replays, the latest requested last. A file that is damaged or from another release is left out."""
        found = []
        for path in reversed(self._newest()):
            with suppress(OSError, ValueError):
                found.append(msgspec.json.decode(path.read_bytes(), type=Replay))
        return found

    def add(self, replay: Replay) -> None:
        """Write a replay, anew if it is there, and remove what is beyond the limits.

        A disk that cannot be written costs the copies, not the replay; the log says so once.
        """
        path = self._folder / f"{replay.id}.json"
        try:
            write_new(path, replay.to_json())
        except OSError as error:
            if not self._failed:
                _LOG.warning(
                    "replays cannot be kept in %s (%s): they end with this server", self._folder, reason(error)
                )
            self._failed = True
            return
        size = 0
        for number, each in enumerate(self._newest(), start=1):
            with suppress(OSError):  # another server on this disk removes replays too
                size += each.stat().st_size
                if each != path and (number > KEPT_REPLAYS or size > _KEPT_BYTES):
                    each.unlink(missing_ok=True)

    def _newest(self) -> list[Path]:
        """The files that still exist, the latest requested one first."""
        used = {}
        for path in self._folder.glob("*.json"):
            with suppress(OSError):  # as above
                used[path] = path.stat().st_mtime_ns
        return sorted(used, key=lambda path: used[path], reverse=True)
