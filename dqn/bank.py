"""A bank: a champion and members for other worlds, chosen by what they add, in one ONNX file. Torch-free.

The file has an optional input `policy`, int64 `[policies]`: 0 is the champion, and members count from 1. A client that
gives the observation alone plays the champion. With several members, each gets as many consecutive rows of the batch.
"""

import json
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, checker, helper, numpy_helper

from dqn.cards.layers import Layers, champion_graph, read_layers
from dqn.environments.world import World

MOST: Final = 8
"""Members of a bank."""
POLICY: Final = "policy"
BANK: Final = "bank"
"""The model property with the members' worlds, a JSON list."""


class BankError(ValueError):
    """Policies that cannot be put into one file; the message says why."""


def cover(held: npt.NDArray[np.bool_], already: npt.NDArray[np.bool_], most: int) -> list[int]:
    """The members that add the most worlds, each after those before it; none that adds no world.

    Args:
        held: `[M, W]`, whether a member balances a world.
        already: `[W]`, whether a world is balanced without members.
        most: number of members at most.
    """
    chosen: list[int] = []
    left = ~already
    while len(chosen) < most and len(held):
        gains = (held & left).sum(1)
        best = int(gains.argmax())
        if not gains[best]:
            break
        chosen.append(best)
        left = left & ~held[best]
    return chosen


def space(own: World, *, count: int, seed: int) -> list[World]:
    """Random worlds around one: three to five fields that cannot be undone, the motor in the world's own direction.

    The ranges are those that `serving`'s page offers for CartPole, or narrower.
    """
    generator = np.random.default_rng(seed)
    sign = -1.0 if np.mean(own.force_mag or 1.0) < 0 else 1.0
    return [own.altered(World.from_dict(_drawn(generator, sign))) for _ in range(count)]


def _drawn(generator: np.random.Generator, sign: float) -> dict[str, float]:
    def even_in_logarithm(low: float, high: float) -> float:
        return float(np.exp(generator.uniform(np.log(low), np.log(high))))

    values = {
        "length": even_in_logarithm(0.08, 2.0),
        "force_mag": sign * even_in_logarithm(4.0, 30.0),
        "masspole": even_in_logarithm(0.02, 1.0),
        "masscart": even_in_logarithm(0.3, 4.0),
        "gravity": float(generator.uniform(3.0, 30.0)),
        "tau": even_in_logarithm(0.01, 0.04),
        "wind": float(generator.uniform(-6.0, 6.0)),
    }
    names = generator.choice(list(values), int(generator.integers(3, 6)), replace=False)
    return {str(name): round(values[str(name)], 3) for name in names}


def to_bank(champion: bytes, members: Sequence[bytes], *, run_id: str) -> bytes:
    """One file of a champion and members, with the champion's properties, the members' worlds and a run of its own.

    Args:
        champion: an exported policy, or a bank, of which the champion is taken.
        members: exported policies with equal layers, which know their worlds.
        run_id: replaces the champion's.

    Raises:
        BankError: if a member is no multilayer perceptron, members differ in their layers, or there are action masks.
    """
    model = onnx.load_model_from_string(champion)
    graph = champion_graph(model)
    if len(model.graph.input) != 1 and graph is model.graph:
        raise BankError("a champion with action masks cannot have a bank")
    worlds = [_properties(onnx.load_model_from_string(member)).get("world", "{}") for member in members]
    both = helper.make_graph(
        [
            helper.make_node("ReduceMax", [POLICY], ["greatest"], keepdims=0),
            helper.make_node("Equal", ["greatest", "champion"], ["is_champion"]),
            helper.make_node(
                "If",
                ["is_champion"],
                ["q_values"],
                then_branch=_renamed(graph) if graph is model.graph else graph,
                else_branch=_members([_layers(member) for member in members]),
            ),
        ],
        "bank",
        [model.graph.input[0], helper.make_tensor_value_info(POLICY, TensorProto.INT64, ["policies"])],
        list(model.graph.output),
        [
            numpy_helper.from_array(np.zeros(1, np.int64), POLICY),
            numpy_helper.from_array(np.array(0, np.int64), "champion"),
        ],
    )
    made = helper.make_model(both, opset_imports=list(model.opset_import), ir_version=model.ir_version)
    bank = json.dumps([json.loads(world) for world in worlds])
    helper.set_model_props(made, {**_properties(model), "run_id": run_id, BANK: bank})
    checker.check_model(made, full_check=True)
    return bytes(made.SerializeToString(deterministic=True))


def _properties(model: onnx.ModelProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in model.metadata_props}


def _layers(member: bytes) -> Layers:
    layers = read_layers(member)
    if layers is None:
        raise BankError("a member is no multilayer perceptron with ReLU")
    return layers


def _renamed(graph: onnx.GraphProto) -> onnx.GraphProto:
    """A graph without inputs, as a branch: its tensors have names of their own, and `observation` is the outer one."""
    branch = onnx.GraphProto()
    branch.CopyFrom(graph)
    branch.ClearField("input")
    branch.ClearField("value_info")
    for named in (*branch.initializer, *branch.output):
        named.name = f"champion.{named.name}"
    for node in branch.node:
        for names in (node.input, node.output):
            names[:] = [name if name in ("", "observation") else f"champion.{name}" for name in names]
    return branch


def _members(layers: Sequence[Layers]) -> onnx.GraphProto:
    """The graph of M members with stacked weights, of which `policy` chooses."""
    if len({(tuple(each.sizes), each.scale.tobytes()) for each in layers}) != 1:
        raise BankError("members must have equal layers and an equal scale, and there must be one at least")
    tensors: dict[str, npt.NDArray[Any]] = {
        "scale": layers[0].scale,
        "one": np.array(1, np.int64),
        "rows": np.array([-1, layers[0].sizes[0]], np.int64),
        "flat": np.array([-1, layers[0].sizes[-1]], np.int64),
    }
    nodes = [
        helper.make_node("Sub", [POLICY, "one"], ["member"]),
        helper.make_node("Shape", [POLICY], ["policies"]),
        helper.make_node("Concat", ["policies", "rows"], ["shape"], axis=0),
        helper.make_node("Div", ["observation", "scale"], ["scaled"]),
        helper.make_node("Reshape", ["scaled", "shape"], ["layer_0"]),
    ]
    count = len(layers[0].biases)
    for k in range(count):
        tensors[f"weights_{k}"] = np.stack([each.weights[k].T for each in layers])
        tensors[f"biases_{k}"] = np.stack([each.biases[k][np.newaxis] for each in layers])
        nodes += [
            helper.make_node("Gather", [f"weights_{k}", "member"], [f"own_weights_{k}"], axis=0),
            helper.make_node("Gather", [f"biases_{k}", "member"], [f"own_biases_{k}"], axis=0),
            helper.make_node("MatMul", [f"layer_{k}", f"own_weights_{k}"], [f"product_{k}"]),
            helper.make_node("Add", [f"product_{k}", f"own_biases_{k}"], [f"sum_{k}"]),
        ]
        if k < count - 1:
            nodes.append(helper.make_node("Relu", [f"sum_{k}"], [f"layer_{k + 1}"]))
    nodes.append(helper.make_node("Reshape", [f"sum_{count - 1}", "flat"], ["member.q_values"]))
    output = helper.make_tensor_value_info("member.q_values", TensorProto.FLOAT, ["batch", layers[0].sizes[-1]])
    return helper.make_graph(
        nodes, "members", [], [output], [numpy_helper.from_array(array, name) for name, array in tensors.items()]
    )
