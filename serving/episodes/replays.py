"""Replays: episodes are played on request, kept, and rendered to files on demand; the oldest are dropped."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Annotated, Final

from msgspec import Meta, Struct

from dqn.environments.world import World
from serving.episodes.kept import KEPT_REPLAYS, Kept
from serving.episodes.limits import Changes, Pushes, Seed, WorldValues, parse_world
from serving.episodes.recording import to_gif, to_html, to_video
from serving.episodes.replay import Replay, record
from serving.metrics.metrics import Metrics
from serving.models.follower import Models
from serving.models.served import ServedModel

KEPT_BYTES: Final = 24 << 20
FORMATS: Final[dict[str, tuple[str, Callable[[Replay], bytes]]]] = {
    "json": ("application/json", Replay.to_json),
    "gif": ("image/gif", to_gif),
    "mp4": ("video/mp4", lambda replay: to_video(replay, "mp4")),
    "webm": ("video/webm", lambda replay: to_video(replay, "webm")),
    "html": ("text/html; charset=utf-8", to_html),
}


class EpisodeRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An episode to play. The same request and version give the same episode."""

    seed: Seed = 0
    version: Annotated[str | int | None, Meta(description="number or alias; null is the current one")] = None
    pushes: Pushes = ()
    world: WorldValues | None = None
    """None: the world that the version was trained for."""
    changes: Changes = ()

    def __post_init__(self) -> None:
        if self.world is not None:
            parse_world(self.world)


class Summary(Struct, frozen=True, kw_only=True):
    """A replay in short, with the paths of its files."""

    id: str
    model: str
    version: str
    seed: int
    steps: int
    episodic_return: float
    pushes: int
    changes: int
    files: dict[str, str]

    @classmethod
    def of(cls, replay: Replay) -> "Summary":
        """The summary of a replay."""
        return cls(
            id=replay.id,
            model=replay.model,
            version=replay.version,
            seed=replay.seed,
            steps=len(replay.actions),
            episodic_return=replay.episodic_return,
            pushes=len(replay.pushes),
            changes=len(replay.changes),
            files={kind: f"/api/episodes/{replay.id}.{kind}" for kind in FORMATS},
        )


class Replays:
    """Keeps a bounded number of replays and bytes. Belongs to one event loop; plays or renders one replay at a time."""

    def __init__(self, models: Models, metrics: Metrics, kept: Kept | None = None) -> None:
        self._models = models
        self._metrics = metrics
        self._kept = kept
        self._replays: OrderedDict[str, Replay] = OrderedDict()
        self._files: OrderedDict[tuple[str, str], bytes] = OrderedDict()
        self._working = asyncio.Semaphore(1)
        self._writing = asyncio.Lock()

    async def create(self, request: EpisodeRequest) -> Replay:
        """Play the episode that a request describes, and keep it. Raises what `play` raises."""
        replay = await self.play(request)
        self._keep(replay)
        if self._kept:
            async with self._writing:  # two writers of one file would be in each other's way
                await asyncio.to_thread(self._kept.add, replay)
        return replay

    async def restore(self) -> None:
        """Read the replays that an earlier server kept on the disk."""
        if self._kept:
            restored = {replay.id: replay for replay in await asyncio.to_thread(self._kept.read)}
            self._replays = OrderedDict(restored | self._replays)  # what was played meanwhile is newer
            self._trim()

    def _keep(self, replay: Replay) -> None:
        self._replays[replay.id] = replay
        self._replays.move_to_end(replay.id)
        self._trim()

    def _trim(self) -> None:
        while len(self._replays) > KEPT_REPLAYS:
            self._replays.popitem(last=False)

    async def play(self, request: EpisodeRequest) -> Replay:
        """Play the episode that a request describes.

        Raises:
            UnknownModelError, RegistryUnavailableError: if there is no such version to play.
            ValueError: if the version was refused.
        """
        served = await self._served(request.version)
        async with self._working:
            replay = await asyncio.to_thread(
                record,
                served.policy,
                model=self._models.name,
                version=served.version.number,
                seed=request.seed,
                pushes=request.pushes,
                world=None if request.world is None else World.from_dict(request.world),
                changes=request.changes,
            )
        self._metrics.episodes.labels("replay").inc()
        return replay

    def get(self, replay_id: str) -> Replay | None:
        """A kept replay, or None."""
        return self._replays.get(replay_id)

    async def file(self, replay: Replay, kind: str) -> bytes:
        """A replay in one of `FORMATS`, rendered once.

        Raises:
            RecordingError: if a library that it needs is not installed.
        """
        if (replay.id, kind) not in self._files:
            async with self._working:
                if content := self._files.get((replay.id, kind)):  # another request rendered it meanwhile
                    return content
                content = await asyncio.to_thread(FORMATS[kind][1], replay)
            self._files[replay.id, kind] = content
            while sum(map(len, self._files.values())) > KEPT_BYTES and len(self._files) > 1:
                self._files.popitem(last=False)
            return content
        self._files.move_to_end((replay.id, kind))
        return self._files[replay.id, kind]

    def list(self) -> list[Summary]:
        """Summaries, newest first."""
        return [Summary.of(replay) for replay in reversed(self._replays.values())]

    async def _served(self, version: str | int | None) -> ServedModel:
        if version is None and self._models.current:
            return self._models.current
        return await self._models.get(self._models.alias or "" if version is None else str(version))
