import asyncio
from pathlib import Path

import orjson
import pytest

from serving.models.follower import Models
from serving.models.registry import (
    FileSource,
    ModelURI,
    RegistrySource,
    RegistryUnavailableError,
    Snapshot,
    UnknownModelError,
    Version,
)
from tests.policies import BALANCES, linear_model
from tests.serving.conftest import MODEL, LocalRegistry

# MLflow 3.17 uses what SQLAlchemy 2.1 deprecated
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")


@pytest.mark.parametrize(
    ("uri", "alias", "version"), [("models:/a-b.c@champion", "champion", None), ("models:/a-b.c/12", None, "12")]
)
def test_a_model_uri_names_an_alias_or_a_version(uri: str, alias: str | None, version: str | None) -> None:
    assert ModelURI.parse(uri) == ModelURI(name="a-b.c", alias=alias, version=version)


@pytest.mark.parametrize("uri", ["", "models:/x", "models:/../x@y", "models:/..@y", "runs:/1/x", "models:/x/latest"])
def test_any_other_uri_is_refused(uri: str) -> None:
    with pytest.raises(ValueError, match="expected models:/NAME@ALIAS"):
        ModelURI.parse(uri)


def test_versions_come_from_the_registry_and_stay_on_disk(
    registry: LocalRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = RegistrySource(MODEL, tmp_path)
    assert source.remembered() is None
    snapshot = source.snapshot(None)
    assert {"champion": "1", "challenger": "2"}.items() <= dict(snapshot.aliases).items()
    assert snapshot.versions["1"].tags == {"gate": "passed"}
    assert snapshot.versions["1"].experiment_id
    path = source.fetch(snapshot.versions["1"])
    assert path.read_bytes()[:1] == b"\x08"
    assert not list(tmp_path.rglob(".*fetching*"))
    unplugged = RegistrySource(MODEL, tmp_path)
    monkeypatch.setattr(unplugged, "_connect", lambda: pytest.fail("the registry was asked"))
    remembered = unplugged.remembered()
    assert remembered == snapshot
    assert unplugged.fetch(remembered.versions["1"]) == path


def test_a_registry_without_the_model_says_so(registry: LocalRegistry, tmp_path: Path) -> None:
    with pytest.raises(UnknownModelError, match="no model nobody"):
        RegistrySource("nobody", tmp_path).snapshot(None)


def test_no_store_is_created_where_none_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'none.db'}")
    with pytest.raises(UnknownModelError, match="no registry at sqlite"):
        RegistrySource(MODEL, tmp_path).snapshot(None)
    assert not (tmp_path / "none.db").exists()


def test_a_snapshot_that_cannot_be_read_is_forgotten(tmp_path: Path) -> None:
    source = RegistrySource(MODEL, tmp_path)
    folder = source._folder
    folder.mkdir(parents=True)
    (folder / "snapshot.json").write_bytes(orjson.dumps({"from": "another release"}))
    assert source.remembered() is None


class ScriptedSource:
    """A registry whose answers a test writes: files on disk and a snapshot, or an error."""

    name = "scripted"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.answer: Snapshot | Exception = UnknownModelError("nothing here")
        self.memory: Snapshot | None = None

    def add(self, number: str, model: bytes) -> Version:
        (self.folder / f"{number}.onnx").write_bytes(model)
        return Version(number=number, source=number)

    def promote(self, *versions: Version) -> None:
        known = {version.number: version for version in versions}
        self.answer = Snapshot(aliases={"champion": versions[-1].number}, versions=known)

    def remembered(self) -> Snapshot | None:
        return self.memory

    def snapshot(self, last: Snapshot | None) -> Snapshot:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def fetch(self, version: Version) -> Path:
        return self.folder / f"{version.number}.onnx"


def test_it_waits_swaps_refuses_and_plays_on(tmp_path: Path) -> None:
    async def story() -> None:
        source = ScriptedSource(tmp_path)
        models = Models(source, alias="champion", version=None)
        await models.poll()
        assert models.current is None
        assert "make train" in models.notice

        one = source.add("1", linear_model(BALANCES))
        source.promote(one)
        await models.poll()
        assert models.current
        assert (models.current.version.number, models.notice, models.swaps) == ("1", "", 1)

        broken = source.add("2", b"not a model")
        source.promote(one, broken)
        for _ in range(3):
            await models.poll()
        assert models.current.version.number == "1"
        assert models.failed_swaps == 1, "a broken version is tried once, not at every poll"
        assert "version 2 was refused" in models.notice
        assert models.aliases_of("1") == ["champion"], "the alias names what plays"

        source.answer = RegistryUnavailableError("connection refused")
        await models.poll()
        assert models.current.version.number == "1"
        assert "last good copy plays on" in models.notice
        assert models.reachable is False

        three = source.add("3", linear_model(BALANCES, bias=3))
        source.promote(one, broken, three)
        await models.poll()
        assert models.current.version.number == "3"
        assert (models.notice, models.reachable, models.swaps) == ("", True, 2)
        assert (await models.get("1")).version.number == "1"
        with pytest.raises(UnknownModelError, match="no version or alias 'nine'"):
            await models.get("nine")
        with pytest.raises(ValueError, match="not a loadable"):
            await models.get("2")

    asyncio.run(story())


def test_the_last_good_copy_plays_before_the_registry_answers(tmp_path: Path) -> None:
    async def story() -> None:
        source = ScriptedSource(tmp_path)
        one = source.add("1", linear_model(BALANCES))
        source.memory = Snapshot(aliases={"champion": "1"}, versions={"1": one})
        source.answer = RegistryUnavailableError("connection refused")
        models = Models(source, alias="champion", version=None)
        following = asyncio.create_task(models.run())
        async with asyncio.timeout(60):
            while models.reachable is None:
                await asyncio.sleep(0.01)
        assert models.current
        assert models.current.version.number == "1"
        following.cancel()

    asyncio.run(story())


def test_a_file_is_version_one(tmp_path: Path) -> None:
    path = tmp_path / "policy.onnx"
    path.write_bytes(linear_model())
    source = FileSource(path)
    assert (source.name, list(source.snapshot(None).versions)) == ("policy", ["1"])
    with pytest.raises(ValueError, match="there is no file"):
        FileSource(tmp_path / "missing.onnx")
