import logging
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import onnx
import pytest
from starlette.testclient import TestClient

from serving.application import App
from serving.policy import OnnxPolicy
from tests.support.serving.clients import client_of
from tests.support.serving.policies import BALANCES, FALLS, linear_model
from tests.support.serving.stepped import Stepped

MODEL = "dqn-CartPole-v1"


@pytest.fixture(autouse=True)
def own_logging() -> Iterator[None]:
    """What a server configures in this process ends with the test: its stream is this test's."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    for handler in set(root.handlers) - set(handlers):
        root.removeHandler(handler)
    root.setLevel(level)


@dataclass
class RunningServer:
    url: str
    process: subprocess.Popen[str]
    log: Path

    def get(self, path: str, **options: Any) -> httpx.Response:
        return httpx.get(self.url + path, timeout=60, **options)

    def put(self, path: str, **options: Any) -> httpx.Response:
        return httpx.put(self.url + path, timeout=60, **options)

    def post(self, path: str, **options: Any) -> httpx.Response:
        return httpx.post(self.url + path, timeout=60, **options)


@contextmanager
def running_server(folder: Path, *arguments: str, ready: bool = True, **environment: str) -> Iterator[RunningServer]:
    """`python -m serving` in a process of its own, on a free port."""
    log = folder / "server.log"
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "serving", "--port", "0", "--cache-dir", str(folder / "cache"), *arguments],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env=os.environ | environment,
        )
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            assert line.startswith("http://127.0.0.1:"), log.read_text()
            running = RunningServer(line.split()[0], process, log)
            if ready:
                until_ready(running)
            yield running
        finally:
            process.terminate()
            process.wait(30)
            process.stdout.close()


def until_ready(server: RunningServer) -> None:
    deadline = time.monotonic() + 60
    while server.get("/v2/health/ready").status_code != 200:
        assert time.monotonic() < deadline, server.log.read_text()
        time.sleep(0.05)


@pytest.fixture(scope="session")
def champion() -> OnnxPolicy:
    return OnnxPolicy.load(linear_model(BALANCES, bias=95))


@pytest.fixture
def stepped(tmp_path: Path) -> Stepped:
    return Stepped(tmp_path)


@dataclass
class LocalRegistry:
    uri: str

    def register(self, model: bytes, **tags: str) -> str:
        """Log a model as training does, and register it; returns the version's number."""
        import mlflow

        with mlflow.start_run():
            info = mlflow.onnx.log_model(
                onnx.load_from_string(model),
                name="policy",
                save_as_external_data=False,
                pip_requirements=["onnxruntime"],
            )
        version = mlflow.MlflowClient().create_model_version(MODEL, info.model_uri, info.run_id, tags=tags)
        return str(version.version)

    def alias(self, name: str, version: str) -> None:
        import mlflow

        mlflow.MlflowClient().set_registered_model_alias(MODEL, name, version)


@pytest.fixture(scope="session")
def registry_store(tmp_path_factory: pytest.TempPathFactory) -> LocalRegistry:
    """A sqlite registry with a champion (version 1) that balances and a challenger (version 2) that falls."""
    import mlflow

    folder = tmp_path_factory.mktemp("registry")
    registry = LocalRegistry(f"sqlite:///{folder / 'mlflow.db'}")
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow's own use of SQLAlchemy 2.1 and pydantic
        patch.setenv("MLFLOW_TRACKING_URI", registry.uri)
        client = mlflow.MlflowClient()
        experiment = client.create_experiment("dqn", artifact_location=str(folder / "artifacts"))
        mlflow.set_experiment(experiment_id=experiment)
        client.create_registered_model(MODEL)
        registry.alias("champion", registry.register(linear_model(BALANCES, bias=95), gate="passed"))
        registry.alias("challenger", registry.register(linear_model(FALLS, bias=20)))
    return registry


@pytest.fixture
def registry(registry_store: LocalRegistry, monkeypatch: pytest.MonkeyPatch) -> LocalRegistry:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", registry_store.uri)
    return registry_store


@pytest.fixture
def model_path(tmp_path: Path) -> str:
    """The file of a policy that lets the pole fall."""
    (tmp_path / "p.onnx").write_bytes(linear_model(FALLS))
    return str(tmp_path / "p.onnx")


@pytest.fixture
def app_and_client(tmp_path: Path) -> tuple[App, TestClient]:
    return client_of(tmp_path)


@pytest.fixture
def client(app_and_client: tuple[App, TestClient]) -> TestClient:
    return app_and_client[1]
