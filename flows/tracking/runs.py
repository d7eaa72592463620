"""The MLflow runs of a population: a parent, and a child for each agent."""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Final

import mlflow
from mlflow import MlflowClient
from mlflow.entities import LifecycleStage, Run, RunTag, ViewType
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import (
    MLFLOW_GIT_COMMIT,
    MLFLOW_PARENT_RUN_ID,
    MLFLOW_RUN_NOTE,
    MLFLOW_SOURCE_NAME,
    MLFLOW_USER,
)

from dqn.config import DQNConfig
from dqn.training.metrics import POPULATION
from flows.failures.errors import InputError, is_full, one_line
from flows.request.general import StartName
from flows.tracking.attempt import FencedClient
from flows.tracking.labels import description, git_commit, params, run_name, user
from flows.tracking.pages import mlflow_command
from flows.tracking.store import require_artifacts
from flows.uris import artifact_location, redacted
from serving.commands import command

CONFIG_FILE: Final = "population/config.json"
FLOW_RUN_TAG: Final = "prefect.flow_run_id"
TRAINED_TAG: Final = "trained"
_POPULATION_TAG: Final = "population"
_AGENT_TAG: Final = "agent"
_PAGE: Final = 500
"""Runs in one call."""
_PACKAGES: Final = ("torch", "gymnasium", "numpy", "onnxruntime", "mlflow-skinny", "prefect")

logger = logging.getLogger(__name__)


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


def open_run(
    client: MlflowClient, config: DQNConfig, *, preset: StartName, flow_run_id: str | None, tags: Mapping[str, str]
) -> str:
    """Id of the parent run: a new one with these further tags, or the one of an earlier attempt at this flow run."""
    experiment = experiment_of(client, config)
    flow_run = _flow_run_tag(flow_run_id)
    for key, value in flow_run.items():
        if earlier := client.search_runs([experiment], f"tags.`{key}` = '{value}'", max_results=1):
            return str(earlier[0].info.run_id)
    all_tags = {
        **tags,
        **flow_run,
        _POPULATION_TAG: f"{config.num_agents} agents",
        MLFLOW_GIT_COMMIT: git_commit(),
        MLFLOW_USER: user(),
        MLFLOW_SOURCE_NAME: "flows/train.py",
        MLFLOW_RUN_NOTE: description(config, preset),
        "preset": preset,
        "seed": str(config.seed),
        **{f"version.{package.removesuffix('-skinny')}": version(package) for package in _PACKAGES},
    }
    return str(client.create_run(experiment, tags=all_tags, run_name=run_name(config, preset)).info.run_id)


def complete_runs(fenced: FencedClient, config: DQNConfig, *, flow_run_id: str | None) -> None:
    """Give a new or resumed run everything that the steps expect. An earlier attempt may have died in between.

    A run that has a configuration keeps it. The children's parameters are logged with their first metrics.
    """
    client, run_id = fenced.checked(), fenced.run_id
    parent = client.get_run(run_id)
    kept = _config_of(parent) if has_artifact(client, run_id, CONFIG_FILE) else None
    if kept is None:
        client.log_batch(run_id, params=params(config))
        with _artifacts_of(parent):
            client.log_dict(run_id, config.to_dict(), CONFIG_FILE)  # last: the run is complete
    tags = [RunTag(key, value) for key, value in _flow_run_tag(flow_run_id).items()]
    client.log_batch(run_id, tags=tags)
    _set_running(fenced, parent)
    children = _children(fenced, parent.info.experiment_id, kept or config)
    if TRAINED_TAG not in parent.data.tags:
        for child in children:
            _set_running(fenced, child)


def read_runs(fenced: FencedClient) -> PopulationRuns:
    """The runs of a population."""
    parent = fenced.client.get_run(fenced.run_id)
    children = _children(fenced, parent.info.experiment_id, config_of(parent))
    return PopulationRuns(parent=fenced.run_id, children=tuple(child.info.run_id for child in children))


def get_runs(client: MlflowClient, run_ids: Sequence[str]) -> Mapping[str, Run]:
    """Runs of one experiment by id, including deleted ones, with one call for hundreds of them."""
    found: dict[str, Run] = {}
    for start in range(0, len(run_ids), _PAGE):
        page = run_ids[start : start + _PAGE]
        experiment = client.get_run(page[0]).info.experiment_id
        names = ", ".join(f"'{run_id}'" for run_id in page)
        runs = client.search_runs(
            [experiment], f"attributes.run_id IN ({names})", run_view_type=ViewType.ALL, max_results=_PAGE
        )
        found |= {run.info.run_id: run for run in runs}
    return found


def find_run(client: MlflowClient, run_id: str) -> Run:
    """The parent run of a population.

    Raises:
        InputError: if the run does not exist, or is not a population's.
    """
    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        raise InputError(
            f"there is no run {run_id!r} in MLflow's tracking store {redacted(mlflow.get_tracking_uri())}; "
            f"its id is printed when training starts and is shown on its page in `{command('ui')}`"
        ) from error
    if _POPULATION_TAG not in run.data.tags:
        parent = run.data.tags.get(MLFLOW_PARENT_RUN_ID)
        raise InputError(f"run {run_id} is not a population's" + (f"; its parent {parent} is" if parent else ""))
    require_artifacts(run.info.artifact_uri)
    return run


def read_config(client: MlflowClient, run_id: str) -> DQNConfig:
    """The configuration that a run was started with.

    Raises:
        InputError: if its file is damaged, for instance because the process died while writing it.
    """
    return config_of(client.get_run(run_id))


def config_of(run: Run) -> DQNConfig:
    """As `read_config`, of a run that was read already."""
    config = _config_of(run)
    if config is None:
        raise InputError(
            f"the configuration of run {run.info.run_id}, its artifact {CONFIG_FILE}, is damaged: the run cannot be "
            "resumed; start a new training"
        )
    return config


def has_artifact(client: MlflowClient, run_id: str, file: str) -> bool:
    """Whether a file of this path is among a run's artifacts."""
    return any(found.path == file for found in client.list_artifacts(run_id, file.rpartition("/")[0] or None))


def read_artifact(client: MlflowClient, run_id: str, file: str) -> Any:
    """The content of a JSON file among a run's artifacts."""
    return mlflow.artifacts.load_dict(f"{client.get_run(run_id).info.artifact_uri}/{file}")


def describe_run(fenced: FencedClient, results: str) -> None:
    """Put results above the run's description, once."""
    before = fenced.client.get_run(fenced.run_id).data.tags[MLFLOW_RUN_NOTE]
    if results not in before:
        fenced.checked().set_tag(fenced.run_id, MLFLOW_RUN_NOTE, f"{results}\n\n{before}")


@contextmanager
def unless_deleted(client: MlflowClient, run_id: str) -> Iterator[None]:
    """A write to a run, which is skipped with a warning if the run was deleted."""
    try:
        yield
    except MlflowException:
        if not _is_deleted(client, run_id):
            raise
        logger.warning("run %s was deleted: nothing more is written to it", run_id)


def _flow_run_tag(flow_run_id: str | None) -> dict[str, str]:
    return {FLOW_RUN_TAG: flow_run_id} if flow_run_id else {}


def experiment_of(client: MlflowClient, config: DQNConfig) -> str:
    """Id of the experiment of a configuration's environment, which is created if it does not exist.

    Raises:
        InputError: if it was deleted.
    """
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or f"dqn-{config.env_id}"
    found = client.get_experiment_by_name(name)
    if not found:
        try:
            return new_experiment(client, name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":  # by another training that began at the same moment
                raise
            return experiment_of(client, config)
    if found.lifecycle_stage == LifecycleStage.DELETED:
        raise InputError(
            f"experiment {name!r} was deleted in MLflow: restore it by "
            f"`{mlflow_command(f'experiments restore --experiment-id {found.experiment_id}')}`, "
            "or set MLFLOW_EXPERIMENT_NAME to another name"
        )
    require_artifacts(found.artifact_location)
    return str(found.experiment_id)


def new_experiment(client: MlflowClient, name: str) -> str:
    """Id of a new experiment. Artifacts of an embedded store lie in a directory with a name that needs no encoding."""
    embedded = not mlflow.get_tracking_uri().startswith("http")
    return client.create_experiment(name, artifact_location=artifact_location(name) if embedded else None)


@contextmanager
def _artifacts_of(run: Run) -> Iterator[None]:
    """The first write to the artifacts of a run. Their place may be out of this process's reach."""
    try:
        yield
    except (OSError, ImportError) as error:
        if is_full(error):
            raise
        raise InputError(
            f"artifacts cannot be written to {redacted(run.info.artifact_uri)} from here ({one_line(error)}); start "
            "MLflow's server with --artifacts-destination, so that it writes them itself, or install and allow what "
            "that place needs"
        ) from error


def _config_of(run: Run) -> DQNConfig | None:
    """The configuration of a run; None if its file is no JSON object."""
    try:
        fields = mlflow.artifacts.load_dict(f"{run.info.artifact_uri}/{CONFIG_FILE}")
    except MlflowException as error:
        if isinstance(error.__cause__, ValueError):  # not JSON or not UTF-8; an unreachable store is another error
            return None
        raise
    return DQNConfig.from_dict(fields) if isinstance(fields, dict) else None


def _set_running(fenced: FencedClient, run: Run) -> None:
    if run.info.status != "RUNNING":
        with unless_deleted(fenced.client, run.info.run_id):
            fenced.checked().update_run(run.info.run_id, status="RUNNING")


def _is_deleted(client: MlflowClient, run_id: str) -> bool:
    try:
        return bool(client.get_run(run_id).info.lifecycle_stage == LifecycleStage.DELETED)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return True
        raise


def _children(fenced: FencedClient, experiment: str, config: DQNConfig) -> tuple[Run, ...]:
    """The child runs `[A]`, by agent. Missing ones are created; deleted ones stay deleted."""
    client, parent = fenced.client, fenced.run_id
    query = f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{parent}'"
    found = client.search_runs([experiment], query, run_view_type=ViewType.ALL, max_results=2 * config.num_agents)
    children = {int(run.data.tags[_AGENT_TAG]): run for run in found}
    missing = [agent for agent in reversed(range(config.num_agents)) if agent not in children]
    for agent in fenced.in_batch(missing):  # in reverse: MLflow lists the newest first
        tags = {MLFLOW_PARENT_RUN_ID: parent, MLFLOW_USER: user(), _AGENT_TAG: str(agent), "seed": str(config.seed)}
        tags |= {"world": str(config.world_of(agent))} if config.worlds else {}
        children[agent] = client.create_run(experiment, tags=tags, run_name=f"agent {agent:02d}")
    return tuple(children[agent] for agent in range(config.num_agents))
