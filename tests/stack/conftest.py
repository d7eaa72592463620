from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from engine import docker
from mlflow import MlflowClient
from stack import PORTS, Stack, read_env, write_env

from tests.stack.system import System

WORKERS = 6
"""Each takes one run at a time: three that die leave three to take over."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "stack" in item.path.parts:
            item.add_marker(pytest.mark.timeout(3600))  # images are built, outages of minutes are waited for


@pytest.fixture(scope="session")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    env_file = tmp_path_factory.mktemp("stack") / "env"
    write_env(env_file)
    ports = dict(zip(PORTS.values(), (14200, 15000, 18000), strict=True))
    text = env_file.read_text()
    for variable, port in ports.items():
        text = text.replace(f"{variable}={port - 10_000}", f"{variable}={port}")
    env_file.write_text(text.replace("WORKER_LIMIT=2", "WORKER_LIMIT=1"))
    stack = Stack("dqn-test", env_file)
    login = pytest.MonkeyPatch()
    stack.compose("down", "--volumes", "--remove-orphans")
    try:
        stack.up("--scale", f"worker={WORKERS}")
        variables = read_env(env_file)
        login.setenv("MLFLOW_TRACKING_USERNAME", "admin")
        login.setenv("MLFLOW_TRACKING_PASSWORD", variables["MLFLOW_PASSWORD"])
        with httpx.Client(base_url=f"http://127.0.0.1:{ports['SERVING_PORT']}", timeout=30) as serving:
            yield System(
                stack=stack,
                prefect_url=f"http://127.0.0.1:{ports['PREFECT_PORT']}/api",
                prefect_auth=f"prefect:{variables['PREFECT_PASSWORD']}",
                mlflow_login=("admin", variables["MLFLOW_PASSWORD"]),
                mlflow=MlflowClient(f"http://127.0.0.1:{ports['MLFLOW_PORT']}"),
                serving=serving,
                token=variables["SERVING_TOKEN"],
            )
        for name in stack.containers():
            Path(env_file.parent, f"{name}.log").write_text(docker("logs", name))
    finally:
        login.undo()
        stack.compose("down", "--volumes", "--remove-orphans")
