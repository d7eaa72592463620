"""Valid and invalid models, and a registry in memory and a cache on disk that fail when a test says so."""

import asyncio
from pathlib import Path
from typing import Any

from serving.errors import RegistryUnavailableError, UnknownModelError
from serving.models.cache import Cache
from serving.models.follower import Models
from serving.models.source import RunningTraining, Snapshot, Version
from tests.support.serving.policies import ACROBOT, BALANCES, PROPERTIES, linear_model

GOOD = [linear_model(BALANCES, bias=bias) for bias in range(4)]
BAD = {
    "garbage": b"not a model",
    "empty": b"",
    "truncated": GOOD[0][: len(GOOD[0]) // 2],
    "three inputs": linear_model((0, 0, 1)),
    "three actions": linear_model(actions=3, properties=PROPERTIES | {"action_meanings": "a,b,c"}),
    "another environment": linear_model(BALANCES, properties=PROPERTIES | {"env_id": ACROBOT["env_id"]}),
    "no such environment": linear_model(BALANCES, properties=PROPERTIES | {"env_id": "NoSuch-v0"}),
    "imports": linear_model(
        BALANCES, properties=PROPERTIES | {"env_id": "tests.support.dqn.registers_on_import:Registered-v0"}
    ),
    "not finite": linear_model(BALANCES, bias=float("nan")),
}
FAULTS: list[Exception] = [
    RegistryUnavailableError("connection refused"),
    UnknownModelError("no model"),
    OSError("not mounted"),
    TimeoutError("slow"),
    ValueError("two files"),
    KeyError("x"),
    RuntimeError("database is locked"),
    MemoryError(),
    StopIteration(),
    RecursionError("deep"),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
]


class Registry:
    """Versions and aliases in memory, with faults; of the models given, numbered from 1, the first is the champion."""

    name = "dqn"

    def __init__(self, *models: bytes) -> None:
        self.aliases = {"champion": "1"} if models else {}
        self.versions: dict[str, Version] = {}
        self.contents: dict[str, bytes] = {}
        self.fault: Exception | None = None
        self.download_fault: Exception | None = None
        self.fetched = 0
        for number, model in enumerate(models, start=1):
            self.add(str(number), model)

    def add(self, number: str, content: bytes, *, digest: str | None = None, created: int = 1) -> Version:
        tags = {} if digest is None else {"sha256": digest}
        self.versions[number] = Version(number=number, source=f"s3://{number}", created_ms=created, tags=tags)
        self.contents[number] = content
        return self.versions[number]

    def snapshot(self, last: Snapshot | None) -> Snapshot:
        if self.fault:
            raise self.fault
        return Snapshot(aliases=dict(self.aliases), versions=dict(self.versions))

    def learning(self, version: Version) -> dict[str, bytes]:
        return {}

    def trainings(self) -> list[RunningTraining]:
        return []

    def population(self, training: RunningTraining) -> bytes:
        raise AssertionError("there is none")

    def fetch(self, version: Version) -> bytes:
        self.fetched += 1
        if self.download_fault:
            raise self.download_fault
        return self.contents[version.number]


class BrittleCache(Cache):
    """A disk that may be full or unreadable."""

    fault: OSError | None = None

    def _check(self) -> None:
        if self.fault:
            raise self.fault

    def read(self, version: Version) -> bytes | None:
        self._check()
        return super().read(version)

    def keep(self, version: Version, content: bytes) -> None:
        self._check()
        super().keep(version, content)

    def remember(self, snapshot: Snapshot) -> None:
        self._check()
        super().remember(snapshot)

    def remember_played(self, reference: str, version: Version) -> None:
        self._check()
        super().remember_played(reference, version)


def following(registry: Registry, tmp_path: Path, **options: Any) -> Models:
    return Models(registry, alias="champion", version=None, cache=BrittleCache(tmp_path, "dqn"), **options)


def poll(models: Models) -> bool:
    return asyncio.run(models.poll())


def playing(models: Models) -> str | None:
    return models.current.version.number if models.current else None
