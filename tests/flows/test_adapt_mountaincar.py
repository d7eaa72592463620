"""A MountainCar whose motor gets weak: noticed by its returns, trained for, gated, and swapped in. Without Prefect."""

import asyncio
import statistics
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from starlette.testclient import TestClient

from dqn.environments.world import World
from flows.adapt import adapt_policy
from flows.registry import versions
from flows.registry.challenger import register
from flows.registry.champion import promote
from flows.registry.evaluation import evaluate
from flows.registry.versions import CHAMPION, WORLD_TAG
from flows.request.parameters import ConfigOverrides
from flows.train import start
from flows.training.steps import export, finish, train
from flows.training.warm_start import WARM_START_TAG
from serving.application import App
from serving.models.follower import Models
from serving.models.mlflow import RegistrySource
from serving.show.show import Show
from tests.support.serving.stepped import joined

MODEL = "dqn-MountainCar-v0"
WEAK = {"force_mag": 0.0008}


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    return MlflowClient()


def train_champion() -> None:
    """One agent, with a third of the preset's updates, which is enough to reach the goal."""
    config = ConfigOverrides.model_validate(
        {
            "num_agents": 1,
            "max_updates": 8_000,
            "learning_rate_decay_updates": 8_000,
            "eval_start": 4_000,
            "eval_episodes": 30,
            "acceptance_episodes": 30,
            "seed": 1,
        }
    )
    attempt, name = start(config, "mountaincar", None, None, "checkpoints")
    version = register(train(attempt.run_id, "checkpoints", attempt), export(attempt.run_id, attempt), attempt)
    promote(name, version, evaluate(name, version, attempt, stressed=False), attempt, force=True)
    finish(attempt)


class Server:
    """The server with its show, which plays on whenever it is asked for something."""

    def __init__(self) -> None:
        self.models = Models(RegistrySource(MODEL), alias=CHAMPION, version=None)
        asyncio.run(self.models.poll())
        self.app = App(self.models)
        self.client = TestClient(self.app.asgi, base_url="http://localhost")
        self.show: Show = joined(self.app)
        assert self.app.live
        self.loop = self.app.live.stage.loop
        self.url = ""

    def play(self, steps: int) -> None:
        asyncio.run(self.models.poll())
        until = self.loop.experience.newest + steps
        while self.loop.experience.newest < until:
            self.show._tick(2.0)  # longer than a break between episodes

    def returns(self, version: str) -> list[float]:
        return [each.episodic_return for each in self.loop.episodes if each.version == version]


@pytest.fixture
def server(store: MlflowClient) -> Iterator[Server]:
    train_champion()
    server, lock = Server(), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with lock:
                server.play(250)
                self._answer(server.client.get(self.path))

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            with lock:
                self._answer(server.client.post(self.path, content=body, headers={"Content-Type": "application/json"}))

        def _answer(self, answer: Any) -> None:
            self.send_response(answer.status_code)
            self.send_header("Content-Length", str(len(answer.content)))
            self.end_headers()
            self.wfile.write(answer.content)

        def log_message(self, *_: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        server.url = f"http://127.0.0.1:{http.server_address[1]}"
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield server
        http.shutdown()
        thread.join()


@pytest.mark.slow
@pytest.mark.timeout(900)  # two trainings and a thousand episodes of two versions
def test_a_weak_motor_is_noticed_trained_for_gated_and_swapped_in(server: Server, store: MlflowClient) -> None:
    server.play(4_000)
    assert server.loop.drift is None
    usual = statistics.fmean(server.returns("1"))
    assert usual > -170, "it reaches the goal"
    assert server.client.put("/api/world", json=WEAK).status_code == 200
    server.play(2_000)
    drift = server.loop.drift
    assert drift
    assert drift.finding.startswith("returns have fallen: ")
    server.play(2_000)
    fallen = statistics.fmean(server.returns("1")[-8:])

    outcome, text = adapt_policy(
        drift=drift.id, model=MODEL, version=drift.version, since=drift.since, serving=server.url, finding=drift.finding
    )
    assert outcome == "recovered", text
    stages = [stage.stage for stage in server.loop.stages]
    expected = ["started", "experience", "identified", "memory", "training", "gate", "promoted", "swapped", "recovered"]
    assert stages == expected
    trained = versions.get_version(store, MODEL, 2)
    assert versions.version_of(store, MODEL, CHAMPION) == 2
    assert server.models.current
    assert server.models.current.version.number == "2"
    home = server.models.current.policy.metadata.world
    assert home.to_dict() == {"force_mag": pytest.approx(WEAK["force_mag"], rel=1e-3)}
    assert World.from_dict(WEAK).force_mag == pytest.approx(home.force_mag)
    run = store.get_run(str(trained.run_id))
    assert run.data.tags[WARM_START_TAG] == "1"
    assert run.data.params["max_updates"] == "2000"
    assert trained.tags["gate"].startswith("passed: better: mean return")
    assert "force_mag" in trained.tags[WORLD_TAG]
    assert statistics.fmean(server.returns("2")) > fallen + 10
    assert server.loop.drift is None
