"""The stack as its users see it, and what may be asked of it."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import httpx
from engine import docker, service_of
from mlflow import MlflowClient
from mlflow.entities import Run
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun
from stack import Stack

MODEL = "dqn-CartPole-v1"
MetricHistory = dict[str, list[tuple[int, float]]]


@dataclass(frozen=True, kw_only=True)
class System:
    """The stack as its users see it."""

    stack: Stack
    prefect_url: str
    prefect_auth: str
    mlflow_login: tuple[str, str]
    mlflow: MlflowClient
    serving: httpx.Client
    token: str

    def environment(self) -> dict[str, str]:
        """Of a client on this machine."""
        return {
            **os.environ,
            "PREFECT_API_URL": self.prefect_url,
            "PREFECT_API_AUTH_STRING": self.prefect_auth,
            "PREFECT_CLI_WRAP_LINES": "false",
        }

    def deploy_run(self, *arguments: str, deployment: str = "train-dqn/cartpole") -> subprocess.CompletedProcess[str]:
        """`prefect deployment run DEPLOYMENT ...` on this machine."""
        return subprocess.run(
            (sys.executable, "-m", "prefect", "deployment", "run", deployment, *arguments),
            env=self.environment(),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=300,
        )

    def prefect(self) -> SyncPrefectClient:
        return SyncPrefectClient(self.prefect_url, auth_string=self.prefect_auth)

    def status(self) -> dict[str, Any]:
        answer: dict[str, Any] = self.serving.get("/api/status").raise_for_status().json()
        return answer

    def population(self, flow_run_id: UUID) -> Run:
        """The one MLflow run of a flow run."""
        (run,) = self.populations(flow_run_id)
        return run

    def populations(self, flow_run_id: UUID) -> list[Run]:
        """The MLflow runs of a flow run: none before it has begun, and never two."""
        experiments = [experiment.experiment_id for experiment in self.mlflow.search_experiments()]
        return list(self.mlflow.search_runs(experiments, f"tags.`prefect.flow_run_id` = '{flow_run_id}'"))


def finish(system: System, flow_run: FlowRun) -> FlowRun:
    """Wait until a flow run is over; it must have completed."""

    def is_over() -> bool:
        state = read(system, flow_run.id).state
        return state is not None and state.is_final() and not state.is_crashed()

    within(900, is_over)
    finished = read(system, flow_run.id)
    assert finished.state is not None
    assert finished.state.is_completed(), finished.state.message
    return finished


def read(system: System, flow_run_id: UUID) -> FlowRun:
    with system.prefect() as prefect:
        return prefect.read_flow_run(flow_run_id)


def metrics_of(system: System, flow_run_id: UUID) -> MetricHistory:
    """Every value logged for a population but its speed, by agent and name, as pairs of step and value."""
    parent = system.population(flow_run_id)
    assert parent.info.status == "FINISHED"
    of_parent = f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
    children = system.mlflow.search_runs([parent.info.experiment_id], of_parent)
    return {
        f"{run.data.tags.get('agent', 'population')} {name}": sorted(
            (metric.step, metric.value) for metric in system.mlflow.get_metric_history(run.info.run_id, name)
        )
        for run in (parent, *children)
        for name in run.data.metrics
        if name.startswith(("train/", "eval/")) and name != "train/steps_per_second"
    }


def container_of(system: System, service: str) -> str:
    return next(name for name, container in system.stack.containers().items() if service_of(container) == service)


def workers(system: System) -> list[str]:
    """Workers that run."""
    return [
        name
        for name, container in system.stack.containers().items()
        if service_of(container) == "worker" and container["State"]["Running"]
    ]


def trains(worker: str) -> bool:
    """Whether a worker is busy with a flow run."""
    return "prefect.engine" in docker("top", worker, "-eo", "pid,comm")


def within(seconds: float, condition: Callable[[], bool]) -> None:
    """Wait for something that must become true."""
    patience = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < patience, f"not within {seconds:.0f} s"
        time.sleep(0.5)
