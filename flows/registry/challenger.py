"""Registering a new version."""

import json

from mlflow.utils.mlflow_tags import MLFLOW_GIT_COMMIT

from flows.orchestration.step import step
from flows.registry import versions
from flows.registry.gate_tag import PENDING, is_decided
from flows.tracking.attempt import Attempt, FencedClient
from flows.tracking.runs import FLOW_RUN_TAG, config_of, find_run
from flows.tracking.store import connect


@step("register")
def register(run_id: str, model_id: str, attempt: Attempt) -> int:
    """Register a logged model as challenger, unless it is registered and decided on, or a newer one is challenger.

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
