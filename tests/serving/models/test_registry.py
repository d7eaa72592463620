"""From a model URI to the bytes of a version: by a client that does what a test says, and by MLflow itself."""

import errno
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from mlflow.entities import ViewType

from flows.names import environment_of, model_name
from serving.errors import PolicyError, RegistryUnavailableError, UnknownModelError
from serving.models.advice import how_to_train
from serving.models.glance import glance, store_file
from serving.models.mlflow import RegistrySource
from serving.models.source import FileSource, ModelURI, Snapshot, Version
from tests.serving.conftest import MODEL, LocalRegistry
from tests.support.serving.policies import linear_model

# MLflow 3.17 uses what SQLAlchemy 2.1 deprecated
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")


@pytest.mark.parametrize(
    ("uri", "alias", "version"), [("models:/a-b.c@champion", "champion", None), ("models:/a-b.c/12", None, "12")]
)
def test_a_model_uri_names_an_alias_or_a_version(uri: str, alias: str | None, version: str | None) -> None:
    assert ModelURI.parse(uri) == ModelURI(name="a-b.c", alias=alias, version=version)


@pytest.mark.parametrize(
    "env_id", ["CartPole-v1", "boing_gym:Boing-v0", "a/b:c-v0", "ALE/Pong-v5", "Übung-v0", "a.b-c"]
)
def test_whatever_training_registers_can_be_named_and_is_trained_as_is_said(env_id: str) -> None:
    name = model_name(env_id)
    assert ModelURI.parse(f"models:/{name}@champion") == ModelURI(name=name, alias="champion")
    assert ModelURI.parse(f"models:/{name}/3") == ModelURI(name=name, version="3")
    options = "" if env_id == "CartPole-v1" else f' ARGS="--env-id {environment_of(name)}"'
    assert how_to_train(name) == f"run `make train{options}` to train and promote one"


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "models:/x",
        "models:/../x@y",
        "models:/..@y",
        "runs:/1/x",
        "models:/x/latest",
        "models:/x/٣",
        "models:/x y@z",
    ],
)
def test_any_other_uri_is_refused(uri: str) -> None:
    with pytest.raises(ValueError, match="expected models:/NAME@ALIAS"):
        ModelURI.parse(uri)


def test_a_version_is_another_one_by_number_source_time_and_digest() -> None:
    versions = [
        Version(number="1", source="s"),
        Version(number="2", source="s"),
        Version(number="1", source="t"),
        Version(number="1", source="s", created_ms=1),
        Version(number="1", source="s", tags={"sha256": "d"}),
    ]
    assert len({version.identity for version in versions}) == 5
    assert [version.sha256 for version in versions] == ["", "", "", "", "d"]
    assert Version(number="1", source="s", run_id="r", tags={"gate": "passed"}).identity == versions[0].identity


def test_a_file_is_version_one(tmp_path: Path) -> None:
    path = tmp_path / "policy.onnx"
    path.write_bytes(linear_model())
    source = FileSource(path)
    snapshot = source.snapshot(None)
    version = snapshot.versions["1"]
    assert (source.name, dict(snapshot.aliases), list(snapshot.versions)) == ("policy", {}, ["1"])
    assert source.snapshot(snapshot) is snapshot
    assert (source.fetch(version), source.learning(version)) == (linear_model(), {})
    path.unlink()
    with pytest.raises(RegistryUnavailableError, match=r"policy\.onnx cannot be read: No such file or directory$"):
        source.fetch(version)
    with pytest.raises(ValueError, match="there is no file"):
        FileSource(tmp_path / "missing.onnx")


class MlflowError(Exception):
    """As MLflow's own, with a code."""

    def __init__(self, message: str, error_code: str) -> None:
        super().__init__(message)
        self.error_code = error_code


class Page(list[Any]):
    token: str | None = None


class Client:
    """What this project asks of an MlflowClient, in memory."""

    def __init__(self) -> None:
        self.aliases: dict[str, int] = {"champion": 2}
        self.versions = [self.version(1), self.version(2, source=None, run_id=None, creation_timestamp=None, tags={})]
        self.names = ["dqn-CartPole-v1"]
        self.fault: Exception | None = None
        self.experiments = {"run 1": 7}
        self.artifacts: dict[str, bytes] = {}
        self.made = self.listed = self.runs_read = 0

    @staticmethod
    def version(number: int, **fields: Any) -> SimpleNamespace:
        tags = {"sha256": "d", "gate": "passed", "unknown": "x"}
        given = {"source": f"s{number}", "run_id": f"run {number}", "creation_timestamp": 5, "tags": tags}
        return SimpleNamespace(version=number, **(given | fields))

    def get_registered_model(self, name: str) -> SimpleNamespace:
        if self.fault:
            raise self.fault
        if name not in self.names:
            raise MlflowError(f"model {name} not found", "RESOURCE_DOES_NOT_EXIST")
        return SimpleNamespace(aliases=self.aliases)

    def search_registered_models(self, max_results: int) -> list[SimpleNamespace]:
        return [SimpleNamespace(name=name) for name in self.names[:max_results]]

    def search_model_versions(self, query: str, max_results: int, page_token: str | None) -> Page:
        assert (query, max_results) == (f"name='{MODEL}'", 200)
        self.listed += 1
        index = int(page_token or 0)
        page = Page(self.versions[index : index + 1])
        page.token = str(index + 1) if index + 1 < len(self.versions) else ""
        return page

    def get_run(self, run_id: str) -> SimpleNamespace:
        self.runs_read += 1
        return SimpleNamespace(info=SimpleNamespace(experiment_id=self.experiments[run_id]))

    def list_artifacts(self, run_id: str, path: str) -> list[str]:
        assert (run_id, path) == ("run 1", "learning")
        return sorted(self.artifacts)

    def download_artifacts(self, run_id: str, path: str, folder: str) -> str:
        return self._write(Path(folder) / path)

    def download(self, artifact_uri: str, dst_path: str) -> str:
        assert artifact_uri == f"models:/{MODEL}/1"
        return self._write(Path(dst_path))

    def _write(self, folder: Path) -> str:
        if self.fault:
            raise self.fault
        folder.mkdir()
        for name, content in self.artifacts.items():
            (folder / name).write_bytes(content)
        return str(folder)


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Client:
    """The one that `mlflow` gives, which is not imported."""
    mlflow, artifacts, client = ModuleType("mlflow"), ModuleType("mlflow.artifacts"), Client()

    def make() -> Client:
        client.made += 1
        return client

    vars(mlflow).update(get_registry_uri=lambda: "http://registry", MlflowClient=make)
    vars(artifacts).update(download_artifacts=client.download)
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    monkeypatch.setitem(sys.modules, "mlflow.artifacts", artifacts)
    return client


VERSION = Version(number="1", source="s1", run_id="run 1")


def test_versions_are_listed_page_by_page_as_the_registry_describes_them(client: Client) -> None:
    assert RegistrySource(MODEL).snapshot(None) == Snapshot(
        aliases={"champion": "2"},
        versions={
            "1": Version(
                number="1",
                source="s1",
                run_id="run 1",
                experiment_id="7",
                created_ms=5,
                tags={"sha256": "d", "gate": "passed"},
            ),
            "2": Version(number="2", source=""),
        },
    )
    assert client.listed == 2


def test_versions_are_listed_anew_when_an_alias_moved_and_every_thirty_seconds(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr("serving.models.mlflow.time", SimpleNamespace(monotonic=lambda: now))
    source = RegistrySource(MODEL)
    first = source.snapshot(None)
    now = 1029.9
    assert source.snapshot(first) is first
    client.aliases = {"champion": 1}
    moved = source.snapshot(first)
    assert (moved.aliases, client.listed) == ({"champion": "1"}, 4)
    now += 29.9
    assert source.snapshot(moved) is moved
    now += 0.1
    assert source.snapshot(moved) == moved
    assert client.listed == 6
    assert (client.made, client.runs_read) == (1, 1), "one client, and what is known of a run is not asked again"


def test_a_version_links_to_the_experiment_of_its_run_if_there_is_one(client: Client) -> None:
    source = RegistrySource(MODEL)
    last = source.snapshot(None)
    client.aliases = {}
    client.versions = [client.version(1, run_id="run 9"), client.version(2, run_id="run 1")]
    experiments = [version.experiment_id for version in source.snapshot(last).versions.values()]
    assert experiments == ["", "7"], "the run of the first was deleted, that of the second is a new one"


@pytest.mark.parametrize(
    ("names", "but"),
    [
        ([], ""),
        (["a", "b", "c", "d"], " but a, b, c"),
        (["other", "dqn-CartPole-v0", "dqn-CartPole-v2", "dqn-CartPole-v3", "dqn-CartPole-v"], None),
    ],
)
def test_a_registry_without_the_model_names_some_that_it_has(client: Client, names: list[str], but: str | None) -> None:
    client.names = names
    with pytest.raises(UnknownModelError) as caught:
        RegistrySource(MODEL).snapshot(None)
    sentence = str(caught.value).removeprefix(f"the registry has no model {MODEL}")
    if but is None:
        assert len(sentence.split(", ")) == 3
        assert sentence.count("dqn-CartPole") == 3
    else:
        assert sentence == but


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        (MlflowError("no", "UNAUTHENTICATED"), "it refuses this login: set MLFLOW_TRACKING_USERNAME"),
        (MlflowError("no", "PERMISSION_DENIED"), "it refuses this login: set MLFLOW_TRACKING_USERNAME"),
        (MlflowError("\n the store is away\nTraceback\n", "INTERNAL_ERROR"), "the store is away$"),
        (RuntimeError("API request failed with exception HTTPConnectionPool"), "API request failed$"),
        (RuntimeError(), "RuntimeError$"),
    ],
)
def test_a_registry_that_fails_is_unavailable_in_one_sentence(client: Client, fault: Exception, sentence: str) -> None:
    client.fault, source = fault, RegistrySource(MODEL)
    asks: list[tuple[str, Callable[[], object]]] = [
        ("", lambda: source.snapshot(None)),
        ("downloading version 1: ", lambda: source.fetch(VERSION)),
        ("downloading how it learned: ", lambda: source.learning(VERSION)),
    ]
    client.artifacts = {"a": b"a"}
    for what, ask in asks:
        with pytest.raises(RegistryUnavailableError, match=f"^{what}{sentence}"):
            ask()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EDQUOT])
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_full_disk_for_downloads_is_named(
    code: int, wrapped: bool, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    fault: Exception = OSError(code, os.strerror(code), f"{tmp_path}/model-x/model.onnx")
    if wrapped:
        copying, fault = fault, MlflowError("the artifact is not there", "INTERNAL_ERROR")
        fault.__cause__ = shutil.Error([("a", "b", str(copying))])
    client.fault = fault
    client.artifacts = {"a": b"a"}
    with pytest.raises(RegistryUnavailableError) as caught:
        RegistrySource(MODEL).fetch(VERSION)
    what = f"downloading version 1: {os.strerror(code)} in {tmp_path}"
    assert str(caught.value) == f"{what}: make room there, or name another directory in TMPDIR"


@pytest.mark.parametrize("names", [[], ["a.onnx", "b.onnx"], ["a.txt"]])
def test_a_version_holds_one_onnx_file(client: Client, names: list[str]) -> None:
    source = RegistrySource(MODEL)
    client.artifacts = {"a.onnx": b"model", "MLmodel": b"x"}
    assert source.fetch(VERSION) == b"model"
    client.artifacts = dict.fromkeys(names, b"x")
    found = [name for name in names if name.endswith(".onnx")]
    with pytest.raises(PolicyError) as caught:
        source.fetch(VERSION)
    assert str(caught.value) == f"version 1 should hold one .onnx file, it holds {found}"


def test_what_a_run_keeps_of_its_learning_is_downloaded_if_there_is_any(client: Client) -> None:
    source = RegistrySource(MODEL)
    assert source.learning(Version(number="2", source="")) == {}
    assert client.made == 0
    assert source.learning(VERSION) == {}
    client.artifacts = {"learning.json": b"[]", "a.onnx": b"a"}
    assert source.learning(VERSION) == client.artifacts


def test_the_runs_of_many_versions_are_asked_for_by_the_page(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def search_runs(experiments: list[str], query: str, view: int, max_results: int) -> list[SimpleNamespace]:
        assert (experiments, view) == (["7"], ViewType.ALL)
        ids = re.findall(r"'(.+?)'", query.removeprefix("attributes.run_id IN "))
        asked.append(query)
        assert len(ids) <= max_results
        return [SimpleNamespace(info=SimpleNamespace(run_id=run, experiment_id=7)) for run in ids if run != "run 9"]

    vars(client).update(search_runs=search_runs, search_experiments=lambda **_: [SimpleNamespace(experiment_id="7")])
    client.versions = [client.version(number) for number in range(1, 301)]
    source = RegistrySource(MODEL)
    first = source.snapshot(None)
    assert {number for number, version in first.versions.items() if version.experiment_id != "7"} == {"9"}
    assert (len(asked), client.runs_read) == (2, 0)
    client.versions.append(client.version(301, run_id="run 1"))
    monkeypatch.setattr(source, "_listed", 0.0)
    assert source.snapshot(first).versions["301"].experiment_id == "7"
    assert (len(asked), client.runs_read) == (2, 0), "what is known of a run is not asked again"


ODD = "a b#c%41d'ä+"


@pytest.mark.parametrize("query", ["", "?timeout=60"])
def test_a_store_is_found_in_a_directory_of_any_name(
    query: str, registry_store: LocalRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / ODD
    folder.mkdir()
    shutil.copy(registry_store.uri.removeprefix("sqlite:///"), folder / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db{query}")
    known = glance(MODEL)
    assert known
    assert known.holds("champion")
    source = RegistrySource(MODEL)
    snapshot = source.snapshot(None)
    assert source.fetch(snapshot.versions[snapshot.aliases["champion"]])
    assert [path.name for path in tmp_path.iterdir()] == [ODD], "nothing was created beside it"


@pytest.mark.parametrize("name", [ODD, "what?"])
def test_the_default_store_is_the_one_in_this_directory(
    name: str, registry_store: LocalRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / name
    folder.mkdir()
    shutil.copy(registry_store.uri.removeprefix("sqlite:///"), folder / "mlflow.db")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    assert glance(MODEL)
    assert "champion" in RegistrySource(MODEL).snapshot(None).aliases


@pytest.mark.parametrize(
    ("uri", "file"),
    [
        ("sqlite:///m.db", "m.db"),
        ("sqlite:////a/m.db?timeout=60&x=y", "/a/m.db"),
        ("sqlite+pysqlite:////a/m.db?timeout=60&cached_statements=9", "/a/m.db"),
        ("sqlite:////a%20b/#/m.db", "/a%20b/#/m.db"),
        ("sqlite:///file:/a%20b/m.db?uri=true", "/a b/m.db"),
        ("sqlite://", None),
        ("sqlite:///:memory:", None),
        ("http://a/sqlite:///m.db", None),
        ("postgresql://u@h/sqlite", None),
    ],
)
def test_which_file_a_store_is(uri: str, file: str | None) -> None:
    assert store_file(uri) == (file and Path(file).absolute())


def test_versions_come_from_mlflow(registry: LocalRegistry) -> None:
    source = RegistrySource(MODEL)
    snapshot = source.snapshot(None)
    assert {"champion": "1", "challenger": "2"}.items() <= dict(snapshot.aliases).items()
    assert {"1", "2"} <= set(snapshot.versions)
    assert snapshot.versions["1"].tags == {"gate": "passed"}
    assert snapshot.versions["1"].experiment_id
    assert source.fetch(snapshot.versions["1"])[:1] == b"\x08"
    with pytest.raises(UnknownModelError, match=f"^the registry has no model nobody but {MODEL}$"):
        RegistrySource("nobody").snapshot(None)


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
    with pytest.raises(RegistryUnavailableError, match="downloading version 1: there is no registry at sqlite"):
        RegistrySource(MODEL).fetch(VERSION)
    assert not (tmp_path / "none.db").exists()
