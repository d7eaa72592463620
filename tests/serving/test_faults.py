"""Whatever goes wrong on the way from the registry: once it has ended, the alias' target plays within two polls."""

import asyncio
import tempfile
from contextlib import suppress
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from serving.errors import RegistryUnavailableError, UnknownModelError
from serving.models.cache import Cache
from serving.models.follower import Models
from serving.models.loader import Loader
from serving.models.served import ServedModel
from serving.models.source import Version
from tests.support.serving.faulty import BAD, FAULTS, GOOD, BrittleCache, Registry, following


class Following(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = tempfile.TemporaryDirectory()
        self.registry = Registry(GOOD[0])
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
    def request_version(self, reference: str) -> None:
        """A request for a version: its result is the version or an error that has an answer."""
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
def test_the_next_poll_follows_after_any_exception(fault: Exception, where: str, tmp_path: Path) -> None:
    async def story() -> None:
        registry = Registry(GOOD[0])
        models = following(registry, tmp_path)
        setattr(registry, where, fault)
        async with asyncio.timeout(60):
            await models.poll()
        assert models.current is None
        setattr(registry, where, None)
        assert await models.poll()
        assert models.current

    asyncio.run(story())


def test_a_cache_that_cannot_be_created_costs_the_copy_and_nothing_else(tmp_path: Path) -> None:
    async def story() -> None:
        registry = Registry(GOOD[0])
        (tmp_path / "file").write_text("no directory")
        models = Models(registry, alias="champion", version=None, cache=Cache(tmp_path / "file", "dqn"))
        await models.restore()
        assert await models.poll()
        assert models.current
        assert models.errors > 0

    asyncio.run(story())


def test_the_loop_survives_an_unexpected_exception(tmp_path: Path) -> None:
    async def story() -> None:
        registry = Registry(GOOD[0])
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
        registry = Registry(GOOD[0], BAD[kind])
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
    load = Loader.load

    async def counted(self: Loader, version: Version, content: bytes) -> ServedModel:
        loads.append(version.number)
        return await load(self, version, content)

    monkeypatch.setattr(Loader, "load", counted)

    async def story() -> None:
        registry = Registry(BAD["garbage"])
        models = following(registry, tmp_path)
        for _ in range(3):
            await models.poll()
        assert "not a loadable" in models.notice

    asyncio.run(story())
    assert loads == ["1"]
