"""The MLflow model registry: versions, tags and aliases. This module takes no decisions."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, Literal

import mlflow
import numpy as np
import onnx
import onnxruntime as ort
from mlflow import MlflowClient
from mlflow.entities import LoggedModelStatus
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.types import Schema, TensorSpec

from dqn.config import DQNConfig
from dqn.environments.masks import ACTION_MASK
from flows.failures.errors import InputError, RegistryError
from flows.failures.outages import is_transient
from flows.names import environment_of, no_version
from flows.names import model_name as model_name
from serving.commands import command
from serving.errors import PolicyError
from serving.policy import INPUT, OUTPUT, OnnxPolicy, PolicyMetadata

Alias = Literal["champion", "challenger", "previous"]
CHAMPION: Final[Alias] = "champion"
CHALLENGER: Final[Alias] = "challenger"
PREVIOUS: Final[Alias] = "previous"
DIGEST_TAG: Final = "sha256"
"""Digest of the evaluated file: only the file that passed the gate may be served."""
WORLD_TAG: Final = "world.values"
"""The world that a version was trained in, as JSON; the tag `world` describes it in words."""
BANKED_TAG: Final = "bank.champion"
"""Of a bank's run and version: the version of its champion (`flows.bank`)."""
ORIGIN_TAG: Final = "origin"
"""Tag of a version that was not trained here: a sentence about where it comes from."""

_LARGEST: Final = 2**31 - 1
"""Of the numbers that Postgres has a column for; MLflow answers a larger one with 500."""
_REQUIREMENTS: Final = ["onnxruntime>=1.27", "numpy>=2"]


def serve_command(env_id: str, uri: str = "") -> str:
    """The command that plays a version of an environment's model in the browser; by default the champion."""
    options = []
    if uri or env_id != DQNConfig.env_id:
        options += ["--model", uri or f"models:/{model_name(env_id)}@{CHAMPION}"]
    if ":" in env_id:
        options += ["--allow-env", env_id]
    return command("serve", *options)


def log_model(run_id: str, onnx_bytes: bytes) -> str:
    """Log an exported policy to a run, unless an earlier attempt has done so. What that left unfinished is completed.

    Args:
        run_id: the run that trained the policy.
        onnx_bytes: the exported model.

    Returns:
        The id of the logged model, which follows `models:/` in its URI.
    """
    client = MlflowClient()
    run = client.get_run(run_id)
    digest = hashlib.sha256(onnx_bytes).hexdigest()
    same = f"source_run_id = '{run_id}' AND tags.{DIGEST_TAG} = '{digest}'"
    for model in client.search_logged_models([run.info.experiment_id], same):
        if model.status == LoggedModelStatus.READY:
            return str(model.model_id)
        client.delete_logged_model(model.model_id)  # its files may be incomplete
    # mlflow.onnx.log_model makes both calls, but with the thread's active run; flows name their runs.
    model = client.create_logged_model(
        run.info.experiment_id, "policy", run_id, tags={DIGEST_TAG: digest}, params=run.data.params
    )
    metadata = OnnxPolicy.load(onnx_bytes).metadata
    float32 = np.dtype(np.float32)
    signature = ModelSignature(
        inputs=Schema([TensorSpec(float32, (-1, *metadata.observation_shape), INPUT)]),
        outputs=Schema([TensorSpec(float32, (-1, metadata.num_actions), OUTPUT)]),
    )
    ort.set_default_logger_severity(3)  # MLflow loads the model, and onnxruntime warns of its optional input
    info = Model.log(
        artifact_path=None,
        model_id=model.model_id,
        flavor=mlflow.onnx,
        run_id=run_id,
        onnx_model=onnx.load_model_from_string(onnx_bytes),
        signature=signature,
        input_example={INPUT: np.zeros((1, *metadata.observation_shape), np.float32)},
        pip_requirements=_REQUIREMENTS,
        onnx_execution_providers=["CPUExecutionProvider"],
        save_as_external_data=False,
    )
    return str(info.model_id)


def register(client: MlflowClient, name: str, *, model_id: str, run_id: str, tags: Mapping[str, str]) -> int:
    """Register a logged model, unless an earlier attempt has done so. Returns the version."""
    try:
        client.create_registered_model(name, description=_about(name))
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    for found in client.search_model_versions(f"name='{name}' and run_id='{run_id}'"):
        if model_id_of(found) == model_id:
            return int(found.version)
    created = client.create_model_version(name, f"models:/{model_id}", run_id, tags=dict(tags), model_id=model_id)
    return int(created.version)


def model_id_of(version: ModelVersion) -> str:
    """Id of a version's logged model."""
    return str(version.model_id or (version.source or "").removeprefix("models:/"))


def metrics_of(client: MlflowClient, version: ModelVersion) -> set[str]:
    """Names of the metrics that are linked to a version's logged model."""
    return {metric.key for metric in client.get_logged_model(model_id_of(version)).metrics or ()}


def get_version(client: MlflowClient, name: str, version: int) -> ModelVersion:
    """A registered version.

    Raises:
        RegistryError: if the version does not exist.
    """
    try:
        return client.get_model_version(name, str(version))
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        raise RegistryError(f"{name} has no version {version}") from error


def trained_by(client: MlflowClient, name: str, version: int) -> str:
    """The run that trained a version's network; of a version with a bank, its champion's.

    Raises:
        RegistryError: if a version does not exist, or a bank's champion is no earlier one.
    """
    found = get_version(client, name, version)
    champion = found.tags.get(BANKED_TAG)
    if champion is None:
        return str(found.run_id)
    if not champion.isdecimal() or int(champion) >= version:
        raise RegistryError(f"the tag {BANKED_TAG} of version {version} of {name} is no earlier version: {champion!r}")
    return trained_by(client, name, int(champion))


def version_of(client: MlflowClient, name: str, alias: Alias) -> int | None:
    """The version that an alias points to, if it is set."""
    return resolve(client, name, alias)


def resolve(client: MlflowClient, name: str, reference: str) -> int | None:
    """The version that a number or an alias refers to, if it exists."""
    try:
        if reference.isdecimal():
            if int(reference) > _LARGEST:
                return None
            return int(client.get_model_version(name, reference).version)
        return int(client.get_model_version_by_alias(name, reference).version)
    except MlflowException as error:
        if error.error_code in ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST"):
            return None
        raise


def require(client: MlflowClient, name: str, reference: str) -> int:
    """The version that a number or an alias refers to.

    Raises:
        InputError: if there is none.
    """
    version = resolve(client, name, reference)
    if version is None:
        known = sorted(int(found.version) for found in client.search_model_versions(f"name='{name}'"))
        raise InputError(no_version(environment_of(name), reference, [str(number) for number in known], why=""))
    return version


def set_alias(client: MlflowClient, name: str, alias: Alias, version: int) -> None:
    """Point an alias to a version, and read it back, as another process may have set it at the same time.

    Raises:
        RegistryError: if the alias points to another version afterwards.
    """
    client.set_registered_model_alias(name, alias, str(version))
    actual = version_of(client, name, alias)
    if actual != version:
        raise RegistryError(f"alias {alias} of {name} was set to version {version} and points to {actual}")


def remove_alias(client: MlflowClient, name: str, alias: Alias) -> None:
    """Remove an alias."""
    client.delete_registered_model_alias(name, alias)


def set_tags(client: MlflowClient, name: str, version: int, tags: Mapping[str, str]) -> None:
    """Tag a version."""
    for key, value in tags.items():
        client.set_model_version_tag(name, str(version), key, value)


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """The file of a registered version."""

    name: str
    version: int
    policy: OnnxPolicy
    content: bytes
    """The ONNX file."""
    sha256: str

    def __str__(self) -> str:
        """Its name in messages."""
        return f"version {self.version} of {self.name}"


def download(name: str, version: int) -> Artifact:
    """Download a version's file from the registry and load it.

    Raises:
        RegistryError: if the file is missing from the artifact store, or is no policy. A retry does not help.
    """
    with TemporaryDirectory() as directory:
        try:
            fetched = mlflow.artifacts.download_artifacts(f"models:/{name}/{version}", dst_path=directory)
        except (MlflowException, OSError) as error:
            if is_transient(error):
                raise
            raise RegistryError(
                f"the file of version {version} of {name} cannot be downloaded from the artifact store: {error}"
            ) from error
        path = Path(fetched) / "model.onnx"
        if not path.exists():
            raise RegistryError(f"version {version} of {name} has no model.onnx in the artifact store any more")
        content = path.read_bytes()
    try:
        policy = OnnxPolicy.load(content)
    except PolicyError as error:
        raise RegistryError(f"the file of version {version} of {name} is damaged: {error}") from error
    digest = hashlib.sha256(content).hexdigest()
    return Artifact(name=name, version=version, policy=policy, content=content, sha256=digest)


def describe(
    client: MlflowClient, name: str, version: int, metadata: PolicyMetadata, *, training: str, evaluation: str
) -> None:
    """Write the description of a version: its inputs and outputs, training, evaluation, and how to play it."""
    shape = ", ".join(map(str, metadata.observation_shape))
    given = f" with `{metadata.env_kwargs}`" if metadata.env_kwargs != "{}" else ""
    allowed = f" The optional input `{ACTION_MASK}`, bool `[batch, {metadata.num_actions}]`, is of the allowed actions."
    masks = allowed if metadata.masked else ""
    description = f"""\
The greedy policy of a DQN agent on **{metadata.env_id}**{given}, one ONNX file. It takes `{INPUT}` float32 \
`[batch, {shape}]` and gives `{OUTPUT}` float32 `[batch, {metadata.num_actions}]`, a value for \
each action ({", ".join(metadata.action_meanings)}); the greedy action has the highest.{masks}

**How it was trained:** {training}

**How good it is:** {evaluation}

**How to play it:** `{serve_command(metadata.env_id)}`, or anywhere with onnxruntime:

    path = mlflow.artifacts.download_artifacts("models:/{name}/{version}")
    session = onnxruntime.InferenceSession(path + "/model.onnx")
    (q_values,) = session.run(None, {{"{INPUT}": observations}})
"""
    client.update_model_version(name, str(version), description)


def _about(name: str) -> str:
    return (
        f"DQN policies for {environment_of(name)}. `champion` is served, `previous` was served before it, and "
        "`challenger` has been registered and not promoted."
    )
