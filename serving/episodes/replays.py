"""Replays kept in memory: played headless on request, turned into files when asked for, the oldest forgotten."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final

from serving.episodes.physics import MAX_PUSHES, Change, Physics, Push, parse_seed
from serving.episodes.recording import to_gif, to_html, to_video
from serving.episodes.replay import Replay, record
from serving.models.follower import Models
from serving.models.served import ServedModel
from serving.web.metrics import Metrics

KEPT_REPLAYS: Final = 50
KEPT_BYTES: Final = 24 << 20
_FIELDS: Final = ("seed", "version", "pushes", "physics", "changes")
FORMATS: Final[dict[str, tuple[str, Callable[[Replay], bytes]]]] = {
    "json": ("application/json", Replay.to_json),
    "gif": ("image/gif", to_gif),
    "mp4": ("video/mp4", lambda replay: to_video(replay, "mp4")),
    "webm": ("video/webm", lambda replay: to_video(replay, "webm")),
    "html": ("text/html; charset=utf-8", to_html),
}


class Replays:
    """Bounded in number and in bytes. Lives on one event loop; one replay is played or rendered at a time."""

    def __init__(self, models: Models, metrics: Metrics) -> None:
        self._models = models
        self._metrics = metrics
        self._replays: OrderedDict[str, Replay] = OrderedDict()
        self._files: OrderedDict[tuple[str, str], bytes] = OrderedDict()
        self._working = asyncio.Semaphore(1)

    async def create(self, request: object) -> Replay:
        """Play the episode a request describes, and keep it; errors as of `play`."""
        replay = await self.play(request)
        self._replays[replay.id] = replay
        self._replays.move_to_end(replay.id)
        while len(self._replays) > KEPT_REPLAYS:
            self._replays.popitem(last=False)
        return replay

    async def play(self, request: object) -> Replay:
        """Play the episode a request describes.

        Raises:
            ValueError: for a request that makes no sense.
            UnknownModelError, RegistryUnavailableError: if there is no such version to play.
        """
        if not isinstance(request, dict):
            raise ValueError(f"an episode is asked for by a JSON object with any of {', '.join(_FIELDS)}")
        if unknown := sorted(set(request) - set(_FIELDS)):
            raise ValueError(f"unknown field {unknown[0][:40]!r}; there are {', '.join(_FIELDS)}")
        seed = parse_seed(request.get("seed", 0))
        physics = Physics.parse(request.get("physics", {}))
        pushes = [Push.parse(push) for push in _list(request, "pushes")]
        changes = [Change.parse(change) for change in _list(request, "changes")]
        served = await self._served(request.get("version"))
        async with self._working:
            replay = await asyncio.to_thread(
                record,
                served.policy,
                model=self._models.name,
                version=served.version.number,
                seed=seed,
                pushes=pushes,
                physics=physics,
                changes=changes,
            )
        self._metrics.episodes.labels("replay").inc()
        return replay

    def get(self, replay_id: str) -> Replay | None:
        """A kept replay, or None."""
        return self._replays.get(replay_id)

    async def file(self, replay: Replay, kind: str) -> bytes:
        """A replay in one of `FORMATS`, rendered once.

        Raises:
            RecordingError: if a library it needs is not installed.
        """
        if (replay.id, kind) not in self._files:
            async with self._working:
                if content := self._files.get((replay.id, kind)):  # somebody who asked before waited for the same
                    return content
                content = await asyncio.to_thread(FORMATS[kind][1], replay)
            self._files[replay.id, kind] = content
            while sum(map(len, self._files.values())) > KEPT_BYTES and len(self._files) > 1:
                self._files.popitem(last=False)
            return content
        self._files.move_to_end((replay.id, kind))
        return self._files[replay.id, kind]

    def list(self) -> list[dict[str, Any]]:
        """Summaries, newest first."""
        return [summary(replay) for replay in reversed(self._replays.values())]

    async def _served(self, version: object) -> ServedModel:
        if version is None:
            if self._models.current is None:
                return await self._models.get(self._models.alias or "")
            return self._models.current
        if type(version) is int:
            version = str(version)
        if not isinstance(version, str):
            raise ValueError("version must be a version number or an alias")
        return await self._models.get(version)


def _list(request: dict[str, Any], name: str) -> list[Any]:
    values = request.get(name, [])
    if not isinstance(values, list) or len(values) > MAX_PUSHES:
        raise ValueError(f"{name} must be an array of at most {MAX_PUSHES}")
    return values


def summary(replay: Replay) -> dict[str, Any]:
    """What a replay is and where its files are."""
    return {
        "id": replay.id,
        "model": replay.model,
        "version": replay.version,
        "seed": replay.seed,
        "steps": len(replay.steps),
        "episodic_return": replay.episodic_return,
        "pushes": len(replay.pushes),
        "changes": len(replay.changes),
        "files": {kind: f"/api/episodes/{replay.id}.{kind}" for kind in FORMATS},
    }
