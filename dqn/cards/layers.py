"""The numbers of a policy in an ONNX file: observation scale, and weights and biases layer by layer."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Layers:
    """A multilayer perceptron with ReLU between its layers."""

    scale: Floats
    """`[obs]`, divisor of the observation"""
    weights: tuple[Floats, ...]
    """`[out, in]` each"""
    biases: tuple[Floats, ...]
    """`[out]` each"""

    @property
    def sizes(self) -> list[int]:
        """Widths from the observation to the actions."""
        return [len(self.scale), *(len(bias) for bias in self.biases)]

    @property
    def numbers(self) -> Floats:
        """All numbers in one array: the scale, then weights (row by row) and biases of each layer."""
        pairs = zip(self.weights, self.biases, strict=True)
        flat = [part for weight, bias in pairs for part in (weight.ravel(), bias)]
        return np.concatenate([self.scale, *flat]).astype("<f4")


def champion_graph(model: onnx.ModelProto) -> onnx.GraphProto:
    """The graph of a policy, or of a bank's champion (`dqn.bank`)."""
    last = model.graph.node[-1] if model.graph.node else onnx.NodeProto()
    branches: dict[str, onnx.GraphProto] = {attribute.name: attribute.g for attribute in last.attribute}
    return branches.get("then_branch", model.graph)


def read_layers(model: bytes) -> Layers | None:
    """The layers of an exported policy; None if its graph is not a Div, and Gemm layers with Relu between them.

    The Where that applies an action mask to the Q-values may follow. Of a bank it is the champion's.
    """
    graph = champion_graph(onnx.load_model_from_string(model))
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    nodes, given, last = list(graph.node), "observation", graph.output[0].name
    if nodes and nodes[-1].op_type == "Where" and nodes[-1].output[0] == last:
        last = nodes.pop().input[1]
    expected = ["Div", *["Gemm", "Relu"] * (len(nodes) // 2 - 1), "Gemm"]
    if [node.op_type for node in nodes] != expected or nodes[-1].output[0] != last:
        return None
    for node in nodes:
        transposed = [(a.name, a.i) for a in node.attribute] == ([("transB", 1)] if node.op_type == "Gemm" else [])
        if node.input[0] != given or not transposed or any(name not in tensors for name in node.input[1:]):
            return None
        given = node.output[0]
    parts = [[tensors[name] for name in node.input[1:]] for node in nodes if node.op_type != "Relu"]
    return Layers(
        scale=parts[0][0],
        weights=tuple(weight for weight, _ in parts[1:]),
        biases=tuple(bias for _, bias in parts[1:]),
    )
