"""Small ONNX policies, built without torch."""

import json
from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper

PROPERTIES = {
    "env_id": "CartPole-v1",
    "action_meanings": "left,right",
    "run_id": "0" * 32,
    "seed": "7",
    "config_sha256": "0" * 64,
}
ACROBOT = PROPERTIES | {"env_id": "Acrobot-v1", "action_meanings": "torque -1,no torque,torque +1"}
SWINGS = (0.0, 0.0, 0.0, 0.0, 1.0, 0.0)
"""Torque on Acrobot-v1 in the direction in which its first link turns."""
BALANCES = (0.05, 0.3, 6.0, 1.2)
"""A linear controller of (x, x_dot, theta, theta_dot) that holds CartPole-v1 for all 500 steps."""
FALLS = (0.0, 0.0, 1.0, 0.0)
"""The same idea without damping: it falls within about 50 steps."""


def linear_model(
    gains: Sequence[float] = (0, 0, 1, 0),
    *,
    bias: float = 0.0,
    properties: dict[str, str] = PROPERTIES,
    shape: Sequence[int] = (),
    actions: int = 2,
    batch: str | int = "batch",
    input_name: str = "observation",
    element: int = TensorProto.FLOAT,
) -> bytes:
    """q = bias -/+ observation @ gains: the second action wins where observation @ gains is positive.

    Of more actions the last one does, and those between get the bias alone. Observations of a `shape` are flattened.
    """
    dtype = helper.tensor_dtype_to_np_dtype(element)
    weight = np.outer(gains, np.linspace(-1, 1, actions)).astype(dtype)
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", [input_name], ["flat"]),
            helper.make_node("MatMul", ["flat", "W"], ["advantage"]),
            helper.make_node("Add", ["advantage", "b"], ["q_values"]),
        ],
        "linear",
        [helper.make_tensor_value_info(input_name, element, [batch, *(shape or [len(gains)])])],
        [helper.make_tensor_value_info("q_values", element, [batch, actions])],
        [
            onnx.numpy_helper.from_array(weight, "W"),
            onnx.numpy_helper.from_array(np.full(actions, bias, dtype=dtype), "b"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    helper.set_model_props(model, properties)
    return bytes(model.SerializeToString())


def member(gains: Sequence[float], world: dict[str, object]) -> bytes:
    """A policy of one layer, as training exports it, for a world."""
    weights = np.outer([-1, 1], gains).astype(np.float32)
    tensors = {"scale": np.ones(4, np.float32), "weights": weights, "biases": np.zeros(2, np.float32)}
    graph = helper.make_graph(
        [
            helper.make_node("Div", ["observation", "scale"], ["scaled"]),
            helper.make_node("Gemm", ["scaled", "weights", "biases"], ["q_values"], transB=1),
        ],
        "layer",
        [helper.make_tensor_value_info("observation", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("q_values", TensorProto.FLOAT, ["batch", 2])],
        [onnx.numpy_helper.from_array(array, name) for name, array in tensors.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    helper.set_model_props(model, PROPERTIES | {"world": json.dumps(world)})
    return bytes(model.SerializeToString())
