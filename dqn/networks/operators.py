"""PyTorch's modules as ONNX operators."""

from typing import Any

import torch
from torch import Tensor, nn

from dqn.networks.bodies.conv import ChannelsFirst
from dqn.networks.heads import Expectation
from dqn.networks.population import ObservationScale

Operator = tuple[str, dict[str, Tensor], dict[str, Any]]
"""An ONNX operator, its parameters and its attributes."""


def operators(layer: nn.Module) -> list[Operator] | None:
    """The ONNX operators of a module, which are applied one after the other; None if they are not known."""
    if type(layer).__module__.partition(".")[0] not in ("torch", "dqn"):  # it may compute something else than its base
        return None
    match layer:
        case nn.Sequential():
            each = [operators(inner) for inner in layer]
            known = [some for some in each if some is not None]
            return [operator for some in known for operator in some] if len(known) == len(each) else None
        case nn.Linear(bias=Tensor() as bias):
            return [("Gemm", {"weight": layer.weight, "bias": bias}, {"transB": 1})]
        case nn.Conv2d(padding_mode="zeros", bias=Tensor() as bias, padding=tuple(), groups=1, dilation=(1, 1)):
            window = {"strides": list(layer.stride), "pads": [*map(int, layer.padding)] * 2}
            return [("Conv", {"weight": layer.weight, "bias": bias}, window)]
        case nn.ReLU() | nn.Tanh() | nn.Sigmoid():
            return [(type(layer).__name__.capitalize(), {}, {})]
        case nn.LayerNorm(weight=Tensor(), bias=Tensor()):
            attributes = {"axis": -len(layer.normalized_shape), "epsilon": layer.eps}
            return [("LayerNormalization", {"weight": layer.weight, "bias": layer.bias}, attributes)]
        case nn.Softmax(dim=int()):
            return [("Softmax", {}, {"axis": layer.dim})]
        case nn.Flatten(start_dim=1, end_dim=-1):
            return [("Flatten", {}, {"axis": 1})]
        case nn.Unflatten(dim=1):
            return [_reshaped(layer.unflattened_size)]
        case ChannelsFirst():
            return [_reshaped(layer.shape), ("Transpose", {}, {"perm": [0, 3, 1, 2]})]
        case ObservationScale():
            return [("Div", {"scale": layer.scale}, {})]
        case Expectation():
            return [("MatMul", {"values": layer.values}, {})]
        case nn.Identity():
            return []
    return None


def _reshaped(shape: Any) -> Operator:
    return "Reshape", {"shape": torch.tensor([0, *shape])}, {}  # 0: as in the input
