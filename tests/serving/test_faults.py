"""Whatever goes wrong on the way from the registry: once it has ended, the alias' target plays within two polls."""

import asyncio
import tempfile
import threading
from contextlib import suppress
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from serving.models.cache import Cache
from serving.models.follower import Models
from serving.models.registry import RegistryUnavailableError, Snapshot, UnknownModelError, Version
from serving.models.served import ServedModel
from tests.policies import ACROBOT, BALANCES, PROPERTIES, linear_model

GOOD = [linear_model(BALANCES, bias=bias) for bias in range(4)]
BAD = {
    "garbage": b"not a model",
    "empty": b"",
    "truncated": GOOD[0][: len(GOOD[0]) // 2],
    "three inputs": linear_model((0, 0, 1)),
    "three actions": linear_model(actions=3, properties=PROPERTIES | {"action_meanings": "a,b,c"}),
    "another environment": linear_model(BALANCES, properties=PROPERTIES | {"env_id": ACROBOT["env_id"]}),
    "no such environment": linear_model(BALANCES, properties=PROPERTIES | {"env_id": "NoSuch-v0"}),
    "imports": linear_model(BALANCES, properties=PROPERTIES | {"env_id": "tests.registers_on_import:Registered-v0"}),
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
    """Versions and aliases in memory, with faults."""

    name = "dqn"

    def __init__(self) -> None:
        self.aliases: dict[str, str] = {}
        self.versions: dict[str, Version] = {}
        self.contents: dict[str, bytes] = {}
        self.fault: Exception | None = None
        self.download_fault: Exception | None = None
        self.fetched = 0

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


class Following(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = tempfile.TemporaryDirectory()
        self.registry = Registry()
        self.cache = BrittleCache(Path(self.folder.name), "dqn")
        self.created = 1
        self.played: str | None = None
        self.start()

    def teardown(self) -> None:
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()
        self.folder.cleanup()

    def start(self) -> None:
        self.models = Models(self.registry, alias="champion", version=None, cache=self.cache, clock=lambda: 0.0)

    @initialize()
    def begin(self) -> None:
        self.registry.add("1", GOOD[0])
        self.registry.aliases["champion"] = "1"
        self.poll()

    @rule()
    def poll(self) -> None:
        self.loop.run_until_complete(self.models.poll())

    @rule()
    def restart(self) -> None:
        before = self.models.current
        self.start()
        self.loop.run_until_complete(self.models.restore())
        if before and self.models.current is None:
            assert not self.kept(before.version), "what played and lies on disk plays again"

    def kept(self, version: Version) -> bool:
        played = self.cache.played("champion")
        try:
            return played == version and self.cache.read(version) is not None
        except OSError:
            return False

    @rule(number=st.sampled_from("1234"), model=st.sampled_from(GOOD), tagged=st.booleans())
    def register(self, number: str, model: bytes, tagged: bool) -> None:
        self.created += 1
        digest = sha256(model).hexdigest() if tagged else None
        self.registry.add(number, model, digest=digest, created=self.created)

    @rule(number=st.sampled_from("1234"), kind=st.sampled_from(sorted(BAD)))
    def register_bad(self, number: str, kind: str) -> None:
        self.created += 1
        self.registry.add(number, BAD[kind], created=self.created)

    @rule(number=st.sampled_from("1234"), model=st.sampled_from(GOOD))
    def exchange_artifact(self, number: str, model: bytes) -> None:
        self.registry.contents[number] = model

    @rule(number=st.sampled_from("1234"))
    def delete(self, number: str) -> None:
        self.registry.versions.pop(number, None)

    @rule(number=st.sampled_from("1234"))
    def move(self, number: str) -> None:
        self.registry.aliases["champion"] = number

    @rule(fault=st.sampled_from(FAULTS))
    def registry_fails(self, fault: Exception) -> None:
        self.registry.fault = fault

    @rule(fault=st.sampled_from(FAULTS))
    def downloads_fail(self, fault: Exception) -> None:
        self.registry.download_fault = fault

    @rule(reference=st.sampled_from(["1", "2", "3", "4", "champion", "5"]))
    def somebody_asks_for(self, reference: str) -> None:
        """A request for a version: it gets it or one of the errors that are answered, and harms nobody else."""
        with suppress(UnknownModelError, RegistryUnavailableError, ValueError):
            self.loop.run_until_complete(self.models.get(reference))

    @rule()
    def disk_is_full(self) -> None:
        self.cache.fault = OSError(28, "No space left on device")

    @rule(content=st.sampled_from([*BAD.values(), GOOD[3]]))
    def disk_is_damaged(self, content: bytes) -> None:
        for path in self.cache.folder.rglob("*.onnx"):
            path.write_bytes(content)

    @rule(content=st.sampled_from([b"", b"{}", b"[1]", b'{"aliases": 3, "versions": {}}', b"\xff"]))
    def notes_are_damaged(self, content: bytes) -> None:
        for path in self.cache.folder.rglob("*.json"):
            path.write_bytes(content)

    @rule(model=st.sampled_from(GOOD), moved=st.booleans())
    def faults_end(self, model: bytes, moved: bool) -> None:
        self.registry.fault = self.registry.download_fault = self.cache.fault = None
        number = self.registry.aliases["champion"]
        if moved or number not in self.registry.versions:
            self.created += 1
            self.registry.add(number, model, digest=sha256(model).hexdigest(), created=self.created)
        else:  # the artifact is repaired in its place
            self.registry.contents[number] = model
            self.registry.versions[number] = replace(self.registry.versions[number], tags={})
        self.poll()
        self.poll()
        current = self.models.current
        assert current
        assert current.version.identity == self.registry.versions[number].identity
        assert self.models.notice == ""

    @invariant()
    def what_plays_is_sound(self) -> None:
        if current := self.models.current:
            assert current.policy.metadata.env_id == "CartPole-v1"
            assert current.sha256 in {sha256(model).hexdigest() for model in GOOD}
            assert current.version.sha256 in ("", current.sha256)


TestFollowing = Following.TestCase
TestFollowing.settings = settings(
    max_examples=25, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: type(fault).__name__)
@pytest.mark.parametrize("where", ["fault", "download_fault"])
def test_whatever_is_raised_the_next_poll_follows(fault: Exception, where: str, tmp_path: Path) -> None:
    async def story() -> None:
        registry = Registry()
        registry.add("1", GOOD[0])
        registry.aliases["champion"] = "1"
        models = following(registry, tmp_path)
        setattr(registry, where, fault)
        async with asyncio.timeout(60):
            await models.poll()
        assert models.current is None
        setattr(registry, where, None)
        assert await models.poll()
        assert models.current

    asyncio.run(story())


def test_a_cache_that_cannot_be_costs_the_copy_and_nothing_else(tmp_path: Path) -> None:
    async def story() -> None:
        registry = Registry()
        registry.add("1", GOOD[0])
        registry.aliases["champion"] = "1"
        (tmp_path / "file").write_text("no directory")
        models = Models(registry, alias="champion", version=None, cache=Cache(tmp_path / "file", "dqn"))
        await models.restore()
        assert await models.poll()
        assert models.current
        assert models.errors > 0

    asyncio.run(story())


def test_versions_that_hang_hold_up_neither_a_swap_nor_those_that_are_loaded(tmp_path: Path) -> None:
    async def story() -> None:
        registry = Registry()
        for number in "1234":
            registry.add(number, GOOD[0], created=int(number))
        registry.aliases["champion"] = "1"
        models = following(registry, tmp_path)
        await models.poll()
        released, fetch = threading.Event(), registry.fetch

        def hang(version: Version) -> bytes:
            if version.number in "23":
                assert released.wait(60)
            return fetch(version)

        registry.fetch = hang  # type: ignore[method-assign]
        waiting = [asyncio.create_task(models.get(number)) for number in "2322"]
        await asyncio.sleep(0)
        with pytest.raises(RegistryUnavailableError, match="2 versions are being loaded already"):
            await models.get("4")
        assert (await models.get("1")).version.number == "1"
        registry.aliases["champion"] = "4"
        assert await models.poll()
        assert models.current
        assert models.current.version.number == "4"
        released.set()
        assert [served.version.number for served in await asyncio.gather(*waiting)] == list("2322")
        assert registry.fetched == 4, "who asks for what is being fetched waits for the same"

    asyncio.run(story())


def following(registry: Registry, tmp_path: Path, **options: Any) -> Models:
    return Models(registry, alias="champion", version=None, cache=BrittleCache(tmp_path, "dqn"), **options)


def test_a_failure_is_counted_each_time_and_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        registry = Registry()
        registry.fault = RuntimeError("database is locked")
        models = following(registry, tmp_path)
        assert not await models.poll()
        assert not await models.poll()
        assert models.errors == 2
        assert "database is locked" in models.notice
        assert models._backoff() == 4.0
        for _ in range(8):
            await models.poll()
        assert models._backoff() == 10.0

    asyncio.run(story())
    assert [record.getMessage() for record in caplog.records if record.exc_info] == ["following the registry failed"]


def test_the_loop_survives_what_nobody_foresaw(tmp_path: Path) -> None:
    async def story() -> None:
        registry = Registry()
        registry.add("1", GOOD[0])
        registry.aliases["champion"] = "1"
        registry.fault = KeyError("unforeseen")
        models = following(registry, tmp_path)
        task = asyncio.create_task(models.run())
        while not models.errors:
            await asyncio.sleep(0)
        registry.fault = None
        models.refresh()
        async with asyncio.timeout(60):
            while models.current is None:
                await asyncio.sleep(0)
        task.cancel()

    asyncio.run(story())


@pytest.mark.parametrize("kind", sorted(BAD))
def test_a_bad_version_is_refused_once_and_its_repaired_artifact_played(kind: str, tmp_path: Path) -> None:
    async def story() -> None:
        registry = Registry()
        registry.add("1", GOOD[0])
        registry.add("2", BAD[kind])
        registry.aliases["champion"] = "1"
        models = following(registry, tmp_path)
        assert await models.poll()
        registry.aliases["champion"] = "2"
        for _ in range(3):
            assert not await models.poll()
        assert models.failed_swaps == 1
        assert "version 2 was refused" in models.notice
        assert "version 1 plays on" in models.notice
        registry.aliases["champion"] = "1"
        assert await models.poll()
        assert models.notice == ""
        registry.aliases["champion"] = "2"
        await models.poll()
        assert "version 2 was refused" in models.notice
        registry.contents["2"] = GOOD[1]
        assert await models.poll()
        assert models.current
        assert models.current.version.number == "2"
        assert models.swaps == 2

    asyncio.run(story())


def test_bytes_that_were_refused_are_not_loaded_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loads = []
    load = Models._load

    async def counted(self: Models, version: Version, content: bytes) -> ServedModel:
        loads.append(version.number)
        return await load(self, version, content)

    monkeypatch.setattr(Models, "_load", counted)

    async def story() -> None:
        registry = Registry()
        registry.add("1", BAD["garbage"])
        registry.aliases["champion"] = "1"
        models = following(registry, tmp_path)
        for _ in range(3):
            await models.poll()
        assert "not a loadable" in models.notice

    asyncio.run(story())
    assert loads == ["1"]


def test_only_the_artifact_that_was_judged_plays(tmp_path: Path) -> None:
    async def story() -> None:
        registry = Registry()
        registry.add("1", GOOD[0], digest=sha256(GOOD[1]).hexdigest())
        registry.aliases["champion"] = "1"
        models = following(registry, tmp_path)
        await models.poll()
        assert models.current is None
        assert "was judged" in models.notice

    asyncio.run(story())


def test_an_environment_is_imported_only_if_it_was_admitted(tmp_path: Path) -> None:
    async def story() -> None:
        registry = Registry()
        registry.add("1", BAD["imports"])
        registry.aliases["champion"] = "1"
        models = following(registry, tmp_path)
        await models.poll()
        assert "--allow-env" in models.notice

    asyncio.run(story())


def test_the_registry_is_seen_when_it_answers(tmp_path: Path) -> None:
    async def story() -> None:
        now = 100.0
        registry = Registry()
        models = following(registry, tmp_path, clock=lambda: now)
        await models.poll()
        now = 107.0
        assert models.registry_age == 7
        registry.fault = RegistryUnavailableError("gone")
        await models.poll()
        assert models.registry_age == 7

    asyncio.run(story())


def test_the_least_recently_used_version_leaves(tmp_path: Path) -> None:
    async def story() -> None:
        registry = Registry()
        for number in range(1, 11):
            registry.add(str(number), GOOD[0])
        registry.aliases["champion"] = "10"
        models = following(registry, tmp_path)
        await models.poll()
        for number in range(1, 8):
            await models.get(str(number))
        assert models.peek("1")
        await models.get("8")  # the ninth: the champion itself was used least recently, and plays on all the same
        await models.get("9")
        assert models.peek("2") is None
        assert models.peek("1")
        assert models.peek("10") is models.current
        registry.add("1", GOOD[2], created=2)
        await models.poll()
        assert models.peek("1") is None
        assert (await models.get("1")).sha256 == sha256(GOOD[2]).hexdigest()
        del registry.versions["1"]
        await models.poll()
        assert not [identity for identity in models._loaded if identity[0] == "1"]
        with pytest.raises(UnknownModelError):
            await models.get("1")

    asyncio.run(story())


def test_a_failure_of_a_request_is_remembered_for_some_seconds(tmp_path: Path) -> None:
    async def story() -> None:
        now = 0.0
        registry = Registry()
        registry.add("1", GOOD[0])
        models = following(registry, tmp_path, clock=lambda: now)
        await models.poll()
        registry.download_fault = OSError("hangs")
        for _ in range(3):
            with pytest.raises(RegistryUnavailableError, match="hangs"):
                await models.get("1")
        assert registry.fetched == 1
        now, registry.download_fault = 5.0, None
        assert (await models.get("1")).version.number == "1"

    asyncio.run(story())


def test_a_moved_alias_is_loaded_for_those_who_watch_it(tmp_path: Path) -> None:
    async def story() -> None:
        registry = Registry()
        registry.add("1", GOOD[0])
        registry.add("2", GOOD[1])
        registry.aliases |= {"champion": "1", "challenger": "1"}
        models = following(registry, tmp_path)
        models.watched.update(["challenger"])
        await models.poll()
        registry.aliases["challenger"] = "2"
        await models.poll()
        played = models.peek("challenger")
        assert played
        assert played.version.number == "2"

    asyncio.run(story())


def test_a_cached_copy_is_used_only_whole(tmp_path: Path) -> None:
    cache = Cache(tmp_path, "dqn")
    version = Version(number="1", source="s3://1")
    assert cache.read(version) is None
    cache.keep(version, GOOD[0])
    assert cache.read(version) == GOOD[0]
    assert cache.read(replace(version, created_ms=2)) is None
    assert cache.read(replace(version, tags={"sha256": sha256(GOOD[1]).hexdigest()})) is None
    (kept,) = cache.folder.glob("*.onnx")
    kept.write_bytes(GOOD[1])
    assert cache.read(version) is None
    cache.keep(version, GOOD[2])
    assert cache.read(version) == GOOD[2]
    assert len(list(cache.folder.iterdir())) == 1


@pytest.mark.parametrize("step", ["os.fsync", "pathlib.Path.replace"])
def test_a_write_that_fails_leaves_nothing_behind(step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    cache = Cache(tmp_path, "dqn")
    monkeypatch.setattr(step, full)
    with pytest.raises(OSError, match="No space"):
        cache.keep(Version(number="1", source="s"), GOOD[0])
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
