"""Warm start: all agents of a population start with the network of a registered version."""

from typing import Final

import torch
from mlflow import MlflowClient
from mlflow.entities import Run

from dqn.config import DQNConfig
from dqn.networks.population import QNetworks
from flows.failures.errors import InputError
from flows.names import no_version
from flows.registry import versions
from flows.tracking.runs import read_config
from flows.training.population import read_networks, read_summary

WARM_START_TAG: Final = "warm_start"
_SHAPE: Final = (
    "body", "hidden_sizes", "observation_scale", "dueling", "num_quantiles", "num_atoms", "value_range",
)  # fmt: skip


def find_version(client: MlflowClient, config: DQNConfig, reference: str) -> int:
    """The registered version to start from.

    Args:
        client: of the registry.
        config: the configuration to train.
        reference: number or alias of a version of the environment's registered model.

    Raises:
        InputError: if the version does not exist, or its network has another shape than the configuration's.
    """
    name = versions.model_name(config.env_id)
    version = versions.resolve(client, name, reference)
    if version is None:
        known = sorted(int(found.version) for found in client.search_model_versions(f"name='{name}'"))
        raise InputError(no_version(config.env_id, reference, [str(number) for number in known]))
    source = read_config(client, versions.trained_by(client, name, version))
    differing = [field for field in _SHAPE if getattr(source, field) != getattr(config, field)]
    if differing:
        raise InputError(
            f"{name} version {version} cannot be started from: its "
            + ", its ".join(f"{field} is {getattr(source, field)}, not {getattr(config, field)}" for field in differing)
            + "; give the configuration the same"
        )
    return version


def starting_network(client: MlflowClient, run: Run, name: str) -> QNetworks | None:
    """The network that all agents of a run start from; None if the run names no version of the model `name`."""
    version = run.data.tags.get(WARM_START_TAG)
    if version is None:
        return None
    source = versions.trained_by(client, name, int(version))
    networks, _ = read_networks(client, source)
    return networks.select(torch.tensor([read_summary(client, source).best.agent]))
