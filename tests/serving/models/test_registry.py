"""Versions of a registered model and their files, from an MLflow client in memory."""

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

from serving.errors import PolicyError, RegistryUnavailableError, UnknownModelError
from serving.models.mlflow import RegistrySource
from serving.models.source import Snapshot, Version
from tests.serving.conftest import MODEL


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
    assert (client.made, client.runs_read) == (1, 1), "one client, and known runs are not requested again"


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


def test_the_learning_files_of_a_run_are_downloaded_if_it_has_any(client: Client) -> None:
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
    assert (len(asked), client.runs_read) == (2, 0), "known runs are not requested again"
