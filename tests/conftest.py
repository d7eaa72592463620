import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from dqn.config import DQNConfig
from flows.cli.terminal import ENVIRONMENT
from tests.support.dqn import awkward, masked, probes, spaces

if TYPE_CHECKING:
    from mlflow import MlflowClient

os.environ |= ENVIRONMENT  # before Prefect is imported: no telemetry leaves this machine
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # messages name programs by it
probes.register()
awkward.register()
spaces.register()
masked.register()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where several processes share the tests, those of a file stay together, and so do all that need Prefect's API.

    It takes twenty seconds to start, and a file's servers are started once.
    """
    for item in items:
        alone = "prefect_api" in getattr(item, "fixturenames", ())
        if alone:
            item.add_marker(pytest.mark.slow)
        item.add_marker(pytest.mark.xdist_group("prefect" if alone else item.path.name))


@pytest.fixture
def small_config() -> Callable[..., DQNConfig]:
    """A configuration that trains in a second, with overrides."""

    def make(**overrides: Any) -> DQNConfig:
        fields: dict[str, Any] = {
            "num_agents": 3,
            "num_envs": 4,
            "hidden_sizes": (16,),
            "batch_size": 16,
            "replay_capacity": 400,
            "n_step": 3,
            "epsilon_decay_updates": 100,
            "max_updates": 120,
            "eval_interval": 40,
            "eval_episodes": 2,
            "acceptance_episodes": 5,
            "log_interval": 1,
            "target_update_interval": 20,
        }
        return DQNConfig(**(fields | overrides))

    return make


@pytest.fixture(scope="session")
def store_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mlflow")


@pytest.fixture
def store(store_directory: Path, monkeypatch: pytest.MonkeyPatch) -> "MlflowClient":
    """The embedded MLflow of one session; creating its tables takes seconds."""
    from mlflow import MlflowClient  # seconds too, which the tests of `dqn` do not need

    monkeypatch.chdir(store_directory)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store_directory}/mlflow.db")
    monkeypatch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    return MlflowClient()


@pytest.fixture(scope="session")
def prefect_api() -> Iterator[str]:
    """URL of a temporary Prefect API; starting it takes about ten seconds."""
    from prefect.settings import PREFECT_API_URL
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield str(PREFECT_API_URL.value())
