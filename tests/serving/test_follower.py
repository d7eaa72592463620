import asyncio
from pathlib import Path

import pytest

from serving.models.cache import Cache
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
from tests.serving.inprocess import two_versions

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


def test_versions_come_from_the_registry_page_by_page(registry: LocalRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.models.registry._PAGE", 1)
    source = RegistrySource(MODEL)
    snapshot = source.snapshot(None)
    assert {"champion": "1", "challenger": "2"}.items() <= dict(snapshot.aliases).items()
    assert {"1", "2"} <= set(snapshot.versions)
    assert snapshot.versions["1"].tags == {"gate": "passed"}
    assert snapshot.versions["1"].experiment_id
    assert source.fetch(snapshot.versions["1"])[:1] == b"\x08"


def test_a_registry_without_the_model_says_so(registry: LocalRegistry) -> None:
    with pytest.raises(UnknownModelError, match=f"^the registry has no model nobody but {MODEL}$"):
        RegistrySource("nobody").snapshot(None)


def test_a_version_that_is_not_there_is_told_beside_those_that_are() -> None:
    models = Models(two_versions(), alias=None, version="99")
    asyncio.run(models.poll())
    assert models.notice.startswith(f"model {MODEL} has no version 99 but 1 @champion, 2 @challenger: run `make train`")


def test_a_registry_that_cannot_be_opened_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mlflow.db").write_text("garbage")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    source = RegistrySource(MODEL)

    def locked() -> None:
        raise RuntimeError("database is locked")

    with monkeypatch.context() as patch:
        patch.setattr("mlflow.MlflowClient", locked)
        with pytest.raises(RegistryUnavailableError, match="database is locked"):
            source.snapshot(None)
    with pytest.raises(RegistryUnavailableError, match="database"):
        source.snapshot(None)


def test_no_store_is_created_where_none_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'none.db'}")
    with pytest.raises(UnknownModelError, match="no registry at sqlite"):
        RegistrySource(MODEL).snapshot(None)
    assert not (tmp_path / "none.db").exists()


class ScriptedSource:
    """A registry whose answers a test writes: files on disk and a snapshot, or an error."""

    name = "scripted"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.answer: Snapshot | Exception = UnknownModelError("nothing here")

    def add(self, number: str, model: bytes) -> Version:
        (self.folder / f"{number}.onnx").write_bytes(model)
        return Version(number=number, source=number)

    def promote(self, *versions: Version) -> None:
        known = {version.number: version for version in versions}
        self.answer = Snapshot(aliases={"champion": versions[-1].number}, versions=known)

    def snapshot(self, last: Snapshot | None) -> Snapshot:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def learning(self, version: Version) -> dict[str, bytes]:
        return {}

    def fetch(self, version: Version) -> bytes:
        return (self.folder / f"{version.number}.onnx").read_bytes()


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
        with pytest.raises(UnknownModelError, match=r"no version or alias 'nine' but 1, 2, 3 @champion$"):
            await models.get("nine")
        with pytest.raises(ValueError, match="not a loadable"):
            await models.get("2")

    asyncio.run(story())


def test_what_played_last_plays_after_a_restart_wherever_the_alias_is(tmp_path: Path) -> None:
    async def story() -> None:
        source = ScriptedSource(tmp_path)
        one = source.add("1", linear_model(BALANCES))
        two = source.add("2", b"not a model")
        source.promote(one)
        models = Models(source, alias="champion", version=None, cache=Cache(tmp_path / "cache", "scripted"))
        await models.poll()
        source.promote(one, two)
        await models.poll()
        assert models.current
        assert models.current.version.number == "1"

        source.answer = RegistryUnavailableError("connection refused")
        again = Models(source, alias="champion", version=None, cache=Cache(tmp_path / "cache", "scripted"))
        await again.restore()
        assert again.current
        assert again.current.version.number == "1"
        assert again.notice == "version 1 played last and plays on; alias 'champion' is at 2"
        assert again.registry_age is None
        assert not await again.poll()
        assert "the last good copy plays on" in again.notice

    asyncio.run(story())


def test_a_file_is_version_one(tmp_path: Path) -> None:
    path = tmp_path / "policy.onnx"
    path.write_bytes(linear_model())
    source = FileSource(path)
    assert (source.name, list(source.snapshot(None).versions)) == ("policy", ["1"])
    with pytest.raises(ValueError, match="there is no file"):
        FileSource(tmp_path / "missing.onnx")
