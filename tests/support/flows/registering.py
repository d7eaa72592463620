"""Versions in a registry, each a policy of four numbers."""

from pathlib import Path

import numpy as np
import onnx
from mlflow import MlflowClient
from onnx import TensorProto, helper

from flows.registry import versions
from flows.registry.versions import CHALLENGER

BALANCING = (0.1, 0.3, 1.0, 0.9)
DRIFTING = (0.0, 0.0, 1.0, 1.0)
"""Above the environment's threshold and below 500: a tenth of its episodes leave the track."""
FALLING = (0.0, 0.0, -1.0, 0.0)


def controller(weights: tuple[float, ...], run_id: str) -> bytes:
    """A policy that pushes right where the weighted observation is positive."""
    column = np.array(weights, dtype=np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["observation", "W"], ["q_values"])],
        "controller",
        [helper.make_tensor_value_info("observation", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("q_values", TensorProto.FLOAT, ["batch", 2])],
        [onnx.numpy_helper.from_array(np.stack([-column, column], axis=1), "W")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    properties = {"env_id": "CartPole-v1", "action_meanings": "left,right", "run_id": run_id, "seed": "0"}
    helper.set_model_props(model, {**properties, "config_sha256": "0" * 64})
    return bytes(model.SerializeToString())


def registered(client: MlflowClient, name: str, weights: tuple[float, ...]) -> int:
    experiment = client.get_experiment_by_name(name)
    experiment_id = experiment.experiment_id if experiment else client.create_experiment(name)
    run_id = client.create_run(experiment_id, tags={"population": "1 agents"}).info.run_id
    model_id = versions.log_model(run_id, controller(weights, run_id))
    version = versions.register(client, name, model_id=model_id, run_id=run_id, tags={"git_commit": "unknown"})
    versions.set_alias(client, name, CHALLENGER, version)
    return version


def damage(client: MlflowClient, name: str, version: int, content: bytes | None) -> None:
    """Overwrite the file of a registered version, or remove it."""
    model = client.get_logged_model(versions.model_id_of(versions.get_version(client, name, version)))
    path = Path(str(model.artifact_location).removeprefix("file://")) / "model.onnx"
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
