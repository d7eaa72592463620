"""Trainings in processes of their own."""

import dataclasses
import os
import subprocess
import sys
import time
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Run

from dqn.config import WORLDS, DQNConfig


def process(arguments: list[str], store_directory: Path, prefect_api: str) -> "subprocess.Popen[str]":
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PREFECT_API_URL": prefect_api, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, *arguments],
        cwd=store_directory,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def as_arguments(config: DQNConfig) -> list[str]:
    arguments = []
    given = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    for world in WORLDS:
        given |= {f"{world}.{name}": value for name, value in given.pop(world).to_dict().items()}
    for name, value in given.items():
        values = [str(item) for item in value] if isinstance(value, tuple) else [str(value)]
        arguments += [f"--{name.replace('_', '-')}", *values]
    return arguments


def runs_of(client: MlflowClient) -> set[str]:
    """Every run there is of this environment."""
    experiment = client.get_experiment_by_name("dqn-CartPole-v1")
    return {run.info.run_id for run in client.search_runs([experiment.experiment_id])} if experiment else set()


def in_mid_training(victim: "subprocess.Popen[str]", client: MlflowClient, known: set[str]) -> str:
    """Wait until a process has logged metrics of a new run, and has trained on for a moment; returns the run's id."""
    deadline = time.monotonic() + 180
    while (run := population(client, known)) is None:
        assert victim.poll() is None, victim.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(0.5)
    return str(run.info.run_id)


ROOT = Path(__file__).parents[3]
COMMAND = (
    "from flows.cli.train import main; from flows.tracking import metric_writer; "
    "metric_writer.FLUSH_SECONDS = 0.2; raise SystemExit(main())"
)


def population(client: MlflowClient, known: set[str]) -> Run | None:
    """The parent run that is not among the known ones, once it has children with metrics."""
    experiment = client.get_experiment_by_name("dqn-CartPole-v1")
    if experiment is None:
        return None
    runs = client.search_runs([experiment.experiment_id])
    parents = [run for run in runs if "population" in run.data.tags and run.info.run_id not in known]
    for parent in parents:
        children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
        if any("train/td_loss" in child.data.metrics for child in children):
            return parent
    return None
