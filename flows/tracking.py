"""The MLflow runs of a population: a parent, and a child an agent."""

import getpass
import os
import sqlite3
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Final

import mlflow
import prefect.runtime
from mlflow import MlflowClient
from mlflow.entities import Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import (
    MLFLOW_GIT_COMMIT,
    MLFLOW_PARENT_RUN_ID,
    MLFLOW_RUN_NOTE,
    MLFLOW_SOURCE_NAME,
    MLFLOW_USER,
)
from sqlalchemy.exc import SQLAlchemyError

from dqn.config import DQNConfig
from dqn.metrics import POPULATION
from flows.parameters import InputError

CONFIG_FILE: Final = "population/config.json"
FLOW_RUN_TAG: Final = "prefect.flow_run_id"
TRAINED_TAG: Final = "trained"
_POPULATION_TAG: Final = "population"
_AGENT_TAG: Final = "agent"
_PACKAGES: Final = ("torch", "gymnasium", "numpy", "onnxruntime", "mlflow", "prefect")
_PATIENCE: Final = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}
"""MLflow's own defaults make one call to a server that is down last four minutes."""


class TrackingError(RuntimeError):
    """MLflow cannot be reached or refuses; the message names where it was looked for."""


@dataclass(frozen=True, kw_only=True)
class PopulationRuns:
    """Ids of the parent run and of its children."""

    parent: str
    children: tuple[str, ...]
    """`[A]`, by agent"""

    @property
    def by_agent(self) -> Mapping[int, str]:
        """Run ids by agent, the parent's under POPULATION."""
        return {POPULATION: self.parent, **dict(enumerate(self.children))}


def connect() -> MlflowClient:
    """A client whose tracking store has answered a real call.

    Raises:
        TrackingError: within seconds, if it does not.
    """
    for name, value in _PATIENCE.items():
        os.environ.setdefault(name, value)
    uri = mlflow.get_tracking_uri()
    try:
        _check_file(uri)
        client = MlflowClient()
        client.search_experiments(max_results=1)
    except (MlflowException, SQLAlchemyError, sqlite3.Error) as error:
        raise TrackingError(
            f"MLflow's tracking store {uri} cannot be used ({one_line(error)}); "
            "start its server or free its directory, or set MLFLOW_TRACKING_URI to another"
        ) from error
    return client


def open_runs(
    client: MlflowClient, config: DQNConfig, *, preset: str, flow_run_id: str, tags: Mapping[str, str]
) -> PopulationRuns:
    """The runs of this flow run: those of an earlier attempt where there was one, or new ones with these tags too."""
    experiment = _experiment(client, config)
    query = f"tags.`{FLOW_RUN_TAG}` = '{flow_run_id}'"
    if earlier := client.search_runs([experiment], query, max_results=1):
        return reopen_runs(client, earlier[0].info.run_id, flow_run_id=flow_run_id)
    all_tags = {
        **tags,
        FLOW_RUN_TAG: flow_run_id,
        _POPULATION_TAG: f"{config.num_agents} agents",
        MLFLOW_GIT_COMMIT: git_commit(),
        MLFLOW_USER: _user(),
        MLFLOW_SOURCE_NAME: "flows/train.py",
        MLFLOW_RUN_NOTE: _description(config, preset),
        "preset": preset,
        "seed": str(config.seed),
        **{f"version.{package}": version(package) for package in _PACKAGES},
    }
    name = f"{preset} seed {config.seed}"
    parent = client.create_run(experiment, tags=all_tags, run_name=name).info.run_id
    params = [Param(key, "none" if value is None else str(value)) for key, value in config.to_dict().items()]
    client.log_batch(parent, params=params)
    client.log_dict(parent, config.to_dict(), CONFIG_FILE)
    return PopulationRuns(parent=parent, children=_children(client, parent, experiment, config))


def reopen_runs(client: MlflowClient, run_id: str, *, flow_run_id: str) -> PopulationRuns:
    """The runs of a population that goes on.

    Raises:
        InputError: if there is no such run, or it is none of a population.
    """
    parent = find_run(client, run_id)
    config = read_config(client, run_id)
    client.log_batch(run_id, tags=[RunTag(FLOW_RUN_TAG, flow_run_id)])
    client.update_run(run_id, status="RUNNING")
    children = _children(client, run_id, parent.info.experiment_id, config)
    if parent.data.tags.get(TRAINED_TAG) is None:
        for child in children:
            client.update_run(child, status="RUNNING")
    return PopulationRuns(parent=run_id, children=children)


def read_runs(client: MlflowClient, run_id: str) -> PopulationRuns:
    """The runs of a population, by its parent's id."""
    parent = find_run(client, run_id)
    return PopulationRuns(
        parent=run_id, children=_children(client, run_id, parent.info.experiment_id, read_config(client, run_id))
    )


def find_run(client: MlflowClient, run_id: str) -> Run:
    """The parent run of a population.

    Raises:
        InputError: if there is no such run, or it is none of a population.
    """
    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        raise InputError(
            f"there is no run {run_id!r} in MLflow's tracking store {mlflow.get_tracking_uri()}; "
            "its id is printed when training starts and stands on its page in `mlflow ui`"
        ) from error
    if _POPULATION_TAG not in run.data.tags:
        parent = run.data.tags.get(MLFLOW_PARENT_RUN_ID)
        raise InputError(f"run {run_id} is not a population's" + (f"; its parent {parent} is" if parent else ""))
    return run


def read_config(client: MlflowClient, run_id: str) -> DQNConfig:
    """The configuration a run was started with."""
    return DQNConfig.from_dict(mlflow.artifacts.load_dict(f"{client.get_run(run_id).info.artifact_uri}/{CONFIG_FILE}"))


def describe_run(client: MlflowClient, run_id: str, results: str) -> None:
    """Put results above what the run's description says, once."""
    before = client.get_run(run_id).data.tags[MLFLOW_RUN_NOTE]
    if results not in before:
        client.set_tag(run_id, MLFLOW_RUN_NOTE, f"{results}\n\n{before}")


@contextmanager
def ending(client: MlflowClient, runs: PopulationRuns, checkpoint: Path) -> Iterator[None]:
    """End the runs as the block does: FINISHED, FAILED, or KILLED where it was interrupted from outside.

    An error leaves with a note that says how to go on, where that is possible.
    """
    try:
        yield
    except BaseException as error:
        status = "FAILED" if isinstance(error, Exception) else "KILLED"
        resumable = checkpoint.exists()
        try:
            end_runs(client, (runs.parent, *_still_running(client, runs)), status)
            resumable |= TRAINED_TAG in client.get_run(runs.parent).data.tags
        except Exception as second:  # the first error is the one to report
            error.add_note(f"the run could not be marked {status}: {one_line(second)}")
        if resumable:
            error.add_note(f"resume with: {_resuming(runs)}")
        raise
    end_runs(client, (runs.parent,), "FINISHED")


def _resuming(runs: PopulationRuns) -> str:
    """The command that goes on with runs; only the worker has the checkpoint of a deployment's."""
    if prefect.runtime.deployment.id:
        return f"prefect flow-run retry {prefect.runtime.flow_run.id}"
    return f'make train ARGS="--resume {runs.parent}"'


def end_runs(client: MlflowClient, run_ids: tuple[str, ...], status: str) -> None:
    """Set the status runs end with."""
    for run_id in run_ids:
        client.set_terminated(run_id, status)


def git_commit() -> str:
    """Commit this code is at: `GIT_COMMIT` where an image sets it, else what git says; "+changes" if edited since."""
    if commit := os.environ.get("GIT_COMMIT"):
        return commit
    try:
        commit, changes = (_git("rev-parse", "HEAD"), _git("status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit + ("+changes" if changes else "")


def one_line(error: BaseException) -> str:
    """The first line of what an error says, less the causes MLflow's client strings together behind it."""
    first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return first_line.partition(" with exception HTTP")[0]


def _check_file(uri: str) -> None:
    """Open an embedded store for writing; MLflow itself would try for two minutes."""
    if not uri.startswith("sqlite:///"):
        return
    with closing(sqlite3.connect(uri.removeprefix("sqlite:///"))) as connection:
        connection.execute("BEGIN IMMEDIATE")


def _user() -> str:
    """Who trains; a container may be run by a number without a name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def _git(*arguments: str) -> str:
    command = ("git", "-C", str(Path(__file__).parent), *arguments)
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()  # noqa: S603 # fixed words


def _experiment(client: MlflowClient, config: DQNConfig) -> str:
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or f"dqn-{config.env_id}"
    if found := client.get_experiment_by_name(name):
        return str(found.experiment_id)
    return client.create_experiment(name)


def _children(client: MlflowClient, parent: str, experiment: str, config: DQNConfig) -> tuple[str, ...]:
    query = f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{parent}'"
    found = client.search_runs([experiment], query, max_results=config.num_agents)
    children = {int(run.data.tags[_AGENT_TAG]): run.info.run_id for run in found}
    for agent in reversed(range(config.num_agents)):  # MLflow lists the newest first
        if agent not in children:
            tags = {
                MLFLOW_PARENT_RUN_ID: parent,
                MLFLOW_USER: _user(),
                _AGENT_TAG: str(agent),
                "seed": str(config.seed),
            }
            children[agent] = client.create_run(experiment, tags=tags, run_name=f"agent {agent:02d}").info.run_id
    return tuple(children[agent] for agent in range(config.num_agents))


def _still_running(client: MlflowClient, runs: PopulationRuns) -> tuple[str, ...]:
    return tuple(child for child in runs.children if client.get_run(child).info.status == "RUNNING")


def _description(config: DQNConfig, preset: str) -> str:
    return (
        f"A population of {config.num_agents} DQN agents on {config.env_id}, preset `{preset}`, seed {config.seed}. "
        "Each agent has a child run.\n\n"
        "One generator draws for the whole population: agent k is reproduced by the seed and the number of agents "
        "together, not by itself."
    )
