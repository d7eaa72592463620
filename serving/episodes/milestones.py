"""Milestones of the training of the version that plays, from untrained to accepted. All play the same episode."""

import asyncio
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from serving.episodes.limits import Push
from serving.episodes.replay import Replay, record
from serving.errors import PolicyError, UnknownModelError
from serving.models.follower import Models
from serving.models.served import ServedModel
from serving.policy import OnnxPolicy

SEED: Final = 0
PUSHES: Final = (Push(step=150, force=40.0), Push(step=300, force=-40.0))
_MILESTONES: Final = 64
_INDEX: Final = "learning.json"
_CARTPOLE: Final = "CartPole"


class Milestone(Struct, frozen=True, kw_only=True):
    """The progress of training when a network was saved, and the return of that network."""

    file: str
    updates: int
    environment_steps: int
    mean_return: float
    """Of the greedy policy, over the evaluation episodes of training."""


class Way(Struct, frozen=True, kw_only=True):
    """The milestones of the version that plays, oldest first; empty if its run has none."""

    version: str
    seed: int
    pushes: tuple[Push, ...]
    milestones: list[Milestone]


class Learning:
    """Milestones of the current version, each fetched and played once. Belongs to one event loop."""

    def __init__(self, models: Models) -> None:
        self._models = models
        self._working = asyncio.Lock()
        self._served: ServedModel | None = None
        self._milestones: list[Milestone] = []
        self._policies: list[OnnxPolicy] = []
        self._replays: dict[int, Replay] = {}

    async def way(self) -> Way:
        """The milestones that can be played.

        Raises:
            UnknownModelError: if nothing plays.
            RegistryUnavailableError: if its milestones cannot be fetched now.
            PolicyError: if they are invalid.
        """
        async with self._working:
            served = await self._load()
            number, pushes = served.version.number, _pushes(served)
            return Way(version=number, seed=SEED, pushes=pushes, milestones=self._milestones)

    async def play(self, index: int) -> Replay:
        """The episode of a milestone, or of the version itself after the last milestone. Raises what `way` raises."""
        async with self._working:
            served = await self._load()
            if index > len(self._policies):
                raise UnknownModelError(f"there is no milestone {index}: there are {len(self._policies)}, from 0")
            if index not in self._replays:
                policy = [*self._policies, served.policy][index]
                self._replays[index] = await asyncio.to_thread(
                    record,
                    policy,
                    model=self._models.name,
                    version=served.version.number,
                    seed=SEED,
                    pushes=_pushes(served),
                )
            return self._replays[index]

    async def _load(self) -> ServedModel:
        served = self._models.current
        if served is None:
            raise UnknownModelError(f"nothing plays: {self._models.notice}")
        if served is not self._served:
            files = await asyncio.to_thread(self._models.source.learning, served.version)
            self._milestones, self._policies = await asyncio.to_thread(_read, files, served)
            self._replays.clear()
            self._served = served
        return served


def _pushes(served: ServedModel) -> tuple[Push, ...]:
    return PUSHES if served.policy.metadata.env_id.startswith(_CARTPOLE) else ()


def _read(files: dict[str, bytes], served: ServedModel) -> tuple[list[Milestone], list[OnnxPolicy]]:
    if not files:
        return [], []
    try:
        milestones = msgspec.json.decode(files[_INDEX], type=Annotated[list[Milestone], Meta(max_length=_MILESTONES)])
        policies = [OnnxPolicy.load(files[milestone.file]) for milestone in milestones]
    except (KeyError, msgspec.DecodeError, msgspec.ValidationError) as error:
        raise PolicyError(f"its run's learning/ is not as training leaves it: {error}") from error
    own = served.policy.metadata
    for policy in policies:
        if (policy.metadata.environment, policy.metadata.world) != (own.environment, own.world):
            raise PolicyError(f"its run's learning/ is of {policy.metadata.env_id[:80]!r} in another world")
    return milestones, policies
