"""Registering a new version: of a training, or from a file."""

import hashlib
import json
from pathlib import Path

import onnx
from mlflow import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_GIT_COMMIT, MLFLOW_RUN_NOTE, MLFLOW_SOURCE_NAME, MLFLOW_USER

from dqn.config import DQNConfig
from flows.failures.errors import InputError
from flows.orchestration.step import step
from flows.registry import versions
from flows.registry.gate_tag import PENDING, is_decided
from flows.tracking.attempt import Attempt, FencedClient
from flows.tracking.labels import user
from flows.tracking.runs import FLOW_RUN_TAG, config_of, experiment_of, find_run
from flows.tracking.store import connect
from serving.errors import PolicyError
from serving.policy import OnnxPolicy


@step("register")
def register(run_id: str, model_id: str, attempt: Attempt, described: dict[str, str] | None = None) -> int:
    """Register a logged model as challenger, unless it is registered and decided on, or a newer one is challenger.

    Args:
        run_id: the run that trained it.
        model_id: of the logged model.
        attempt: the attempt that writes.
        described: tags in place of those that the run's configuration gives.

    Returns:
        Its version.
    """
    fenced = FencedClient(client=connect(), attempt=attempt)
    run = find_run(fenced.client, run_id)
    config = config_of(run)
    tags = {
        "git_commit": run.data.tags.get(MLFLOW_GIT_COMMIT, "unknown"),
        **{key: value for key, value in run.data.tags.items() if key == FLOW_RUN_TAG},
        "world": str(config.world),
        versions.WORLD_TAG: json.dumps(config.world.to_dict()),
        "gate": PENDING,
        **(described or {}),
    }
    if config.env_kwargs:
        tags["env_kwargs"] = json.dumps(config.env_kwargs)
    if config.max_episode_steps:
        tags["max_episode_steps"] = str(config.max_episode_steps)
    name = versions.model_name(config.env_id)
    version = versions.register(fenced.checked(), name, model_id=model_id, run_id=run_id, tags=tags)
    gate = versions.get_version(fenced.client, name, version).tags["gate"]
    if not is_decided(gate) and (versions.version_of(fenced.client, name, versions.CHALLENGER) or 0) < version:
        versions.set_alias(fenced.client, name, versions.CHALLENGER, version)
    return version


def read_file(client: MlflowClient, path: Path, env_id: str) -> versions.Artifact:
    """A policy in a file, as the version that it would become.

    Raises:
        InputError: if it cannot be read, breaks the contract of policies, or plays another environment.
    """
    try:
        content = path.read_bytes()
        policy = OnnxPolicy.load(content)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except PolicyError as error:
        raise InputError(f"{path} is no policy: {error}") from error
    plays = policy.metadata.env_id
    if plays != env_id:  # a file does not choose which module is imported
        raise InputError(f"{path} plays {plays!r}, not {env_id}: name the environment of the file with --env-id")
    name = versions.model_name(env_id)
    known = [int(found.version) for found in client.search_model_versions(f"name='{name}'")]
    digest = hashlib.sha256(content).hexdigest()
    following = max(known, default=0) + 1
    return versions.Artifact(name=name, version=following, content=content, policy=policy, sha256=digest)


@step("register file", keeps_result=False)
def register_file(path: Path, env_id: str) -> int:
    """Register a policy from a file as challenger, under a run of its own. Returns its version.

    The run, the version's description and its tag `origin` say that it was not trained here. The file's property
    `run_id` is replaced by the id of that run, so that no other run gets its evaluation.
    """
    client = connect()
    artifact = read_file(client, path, env_id)
    claimed = artifact.policy.metadata
    origin = (
        f"the file {path.name} (SHA-256 {artifact.sha256}), not by this registry: that it was trained with seed "
        f"{claimed.seed} in run {claimed.run_id or 'unknown'} is the file's own word."
    )
    tags = {MLFLOW_SOURCE_NAME: path.name, MLFLOW_USER: user(), MLFLOW_RUN_NOTE: f"A policy from {origin}"}
    experiment = experiment_of(client, DQNConfig(env_id=env_id))
    run_id = client.create_run(experiment, tags=tags, run_name=f"file {path.name}").info.run_id
    try:
        model = onnx.load_model_from_string(artifact.content)
        for entry in model.metadata_props:
            if entry.key == "run_id":
                entry.value = run_id
        world = claimed.world
        described = {"world": str(world), versions.WORLD_TAG: json.dumps(world.to_dict())}
        version = versions.register(
            client,
            artifact.name,
            model_id=versions.log_model(run_id, model.SerializeToString()),
            run_id=run_id,
            tags={versions.ORIGIN_TAG: origin, **described, "gate": PENDING},
        )
        versions.set_alias(client, artifact.name, versions.CHALLENGER, version)
    except BaseException:
        client.set_terminated(run_id, "FAILED")
        raise
    client.set_terminated(run_id, "FINISHED")
    return version
