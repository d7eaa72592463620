"""Milestones of the run of the version that plays: each plays the same episode."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from serving.application import App
from serving.errors import RegistryUnavailableError
from serving.models.follower import Models
from serving.models.mlflow import RegistrySource
from serving.models.source import RunningTraining, Snapshot, Version
from tests.serving.conftest import MODEL, LocalRegistry
from tests.support.serving.milestones import FILES, WAY
from tests.support.serving.policies import ACROBOT, BALANCES, SWINGS, linear_model


class RunSource:
    """Version 1. Its run has `files`, or fails to return them."""

    name = "dqn-CartPole-v1"

    def __init__(self, files: dict[str, bytes] | Exception, model: bytes) -> None:
        self.files = files
        self.asked = 0
        self._model = model

    def snapshot(self, last: Snapshot | None) -> Snapshot:
        return last or Snapshot(aliases={}, versions={"1": Version(number="1", source="1")})

    def fetch(self, version: Version) -> bytes:
        return self._model

    def trainings(self) -> list[RunningTraining]:
        return []

    def population(self, training: RunningTraining) -> bytes:
        raise AssertionError("there is none")

    def learning(self, version: Version) -> dict[str, bytes]:
        self.asked += 1
        if isinstance(self.files, Exception):
            raise self.files
        return self.files


def log_learning(run_id: str, folder: Path) -> None:
    """Leave `FILES` in a run, as training does."""
    import mlflow

    (folder / "learning").mkdir()
    for name, content in FILES.items():
        (folder / "learning" / name).write_bytes(content)
    mlflow.MlflowClient().log_artifacts(run_id, str(folder / "learning"), "learning")


@contextmanager
def client_of(source: RunSource) -> Iterator[TestClient]:
    app = App(Models(source, alias=None, version="1"))
    with TestClient(app.asgi, base_url="http://localhost") as client:
        while app.models.current is None:  # polled here too, it could be loaded twice
            client.get("/api/status")
        yield client


def test_every_milestone_plays_the_same_episode_and_the_version_itself_comes_last() -> None:
    source = RunSource(FILES, linear_model(BALANCES, bias=95))
    with client_of(source) as client:
        way = client.get("/api/learning").json()
        assert (way["version"], way["milestones"]) == ("1", WAY)
        replays = [client.get(f"/api/learning/{index}").json() for index in range(3)]
        assert client.get("/api/learning/1").json() == replays[1]
        beyond = client.get("/api/learning/3")
        assert [client.get(f"/api/learning/{text}").status_code for text in ("-1", "x", "1000", "²")] == [404] * 4
    assert {(replay["seed"], json.dumps(replay["pushes"])) for replay in replays} == {
        (way["seed"], json.dumps(way["pushes"]))
    }
    assert len({json.dumps(replay["observations"][0]) for replay in replays}) == 1
    untrained, trained, itself = replays
    assert untrained["terminated"]
    assert len(untrained["actions"]) < 100 < len(trained["actions"])
    assert itself["q_values"] != trained["q_values"], "the last is the version, not its last milestone"
    assert beyond.status_code == 404
    assert beyond.json()["error"] == "there is no milestone 3: there are 2, from 0"
    assert source.asked == 1, "fetched once a version"


def test_a_version_without_milestones_has_an_empty_list() -> None:
    with client_of(RunSource({}, linear_model(BALANCES))) as client:
        assert client.get("/api/learning").json()["milestones"] == []
        assert len(client.get("/api/learning/0").json()["actions"]) > 100


@pytest.mark.parametrize(
    "files",
    [
        {"a.onnx": FILES["a.onnx"]},
        {**FILES, "learning.json": b"[{]"},
        {**FILES, "learning.json": b'[{"file": "a.onnx"}]'},
        {**FILES, "a.onnx": b"none"},
        {"learning.json": FILES["learning.json"], "b.onnx": FILES["b.onnx"]},
        {**FILES, "a.onnx": linear_model(SWINGS, properties=ACROBOT, actions=3)},
    ],
)
def test_unusable_learning_files_are_refused_in_a_sentence(files: dict[str, bytes]) -> None:
    with client_of(RunSource(files, linear_model(BALANCES))) as client:
        answer = client.get("/api/learning")
        assert answer.status_code == 503
        assert len(answer.json()["error"]) > 20
        assert client.get("/v2/health/ready").status_code == 200


def test_a_registry_that_is_away_is_asked_again() -> None:
    source = RunSource(RegistryUnavailableError("downloading how it learned: gone"), linear_model(BALANCES))
    with client_of(source) as client:
        assert client.get("/api/learning").status_code == 503
        source.files = FILES
        assert client.get("/api/learning").json()["milestones"] == WAY


def test_other_environments_are_not_pushed() -> None:
    swings = linear_model(SWINGS, properties=ACROBOT, actions=3)
    files = {"learning.json": json.dumps(WAY[:1]).encode(), "a.onnx": swings}
    with client_of(RunSource(files, swings)) as client:
        assert client.get("/api/learning").json()["pushes"] == []
        assert client.get("/api/learning/0").json()["env_id"] == "Acrobot-v1"


def test_milestones_come_from_the_versions_run(registry: LocalRegistry, tmp_path: Path) -> None:
    source = RegistrySource(MODEL)
    version = source.snapshot(None).versions["1"]
    assert source.learning(Version(number="1", source="")) == {}
    log_learning(version.run_id, tmp_path)
    assert source.learning(version) == FILES
