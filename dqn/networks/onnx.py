"""Export of one agent's network to ONNX."""

import contextlib
import json
import logging
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import TensorProto, checker, helper, numpy_helper
from onnx.shape_inference import InferenceError
from torch import nn

from dqn.config import DQNConfig
from dqn.environments.making import has_action_mask
from dqn.environments.masks import ACTION_MASK, MASKED_Q, Mask
from dqn.environments.spec import Environment, environment_spec
from dqn.environments.world import NOMINAL, World
from dqn.networks.operators import Operator, operators
from dqn.networks.population import QNetworks

QFunction = Callable[..., npt.NDArray[np.float32]]
"""Q-values `[batch, actions]` of observations `[batch, ...]`, and of masks `[batch, actions]` where there are masks."""

PARITY_OBSERVATIONS: Final = 10_000
_PARITY_ENTRIES: Final = 4_000_000
"""Entries of all observations: 10,000 images of 84 x 84 x 4 would take gigabytes."""
PARITY_TOLERANCE: Final = 1e-5
"""Relative to the largest Q-value."""
_ACTIONS: Final = {
    "CartPole-v0": ("left", "right"),
    "CartPole-v1": ("left", "right"),
    "MountainCar-v0": ("left", "nothing", "right"),
    "Acrobot-v1": ("torque -1", "torque 0", "torque +1"),
    "LunarLander-v3": ("nothing", "left engine", "main engine", "right engine"),
    "Taxi-v4": ("south", "north", "east", "west", "pick up", "drop off"),
}
_OPSET: Final = 20
_IR_VERSION: Final = 10
_ROUNDING: Final = 1e-6  # relative to the largest Q-value; closer Q-values are equal within float32 rounding


class ExportError(RuntimeError):
    """The network cannot be exported, or the exported model computes something else."""


@dataclass(frozen=True, kw_only=True)
class ModelProperties:
    """Metadata of an exported policy."""

    env_id: str
    action_meanings: tuple[str, ...]
    run_id: str
    seed: int
    """Seed of the population."""
    agent: int
    """Index of the agent in the population."""
    config_sha256: str
    world: World = NOMINAL
    """World that it was trained for."""
    observed: tuple[tuple[float, float], ...] = ()
    """Minimum and maximum of each entry of the observations in training; empty if unknown."""
    env_kwargs: str = "{}"
    """Keyword arguments of the environment, as a JSON object."""
    max_episode_steps: int = 0
    """Time limit of the environment; 0 for the registered one."""
    masked: bool = False
    """Whether its environment has action masks."""

    @classmethod
    def of(
        cls,
        config: DQNConfig,
        *,
        num_actions: int,
        run_id: str,
        agent: int,
        observed: Sequence[tuple[float, float]] = (),
        environment: Environment | None = None,
    ) -> Self:
        """The properties of one agent of a population trained by `config`, by default in its `environment`."""
        environment = environment or config.environment
        return cls(
            env_id=config.env_id,
            action_meanings=action_meanings(environment_spec(environment).id, num_actions),
            run_id=run_id,
            seed=config.seed,
            agent=agent,
            config_sha256=config.sha256,
            world=config.world_of(agent),
            observed=tuple((low, high) for low, high in observed),
            env_kwargs=environment.kwargs,
            max_episode_steps=environment.max_episode_steps,
            masked=has_action_mask(environment, config.world_of(agent)),
        )

    def to_strings(self) -> dict[str, str]:
        """As ONNX model properties, which are strings."""
        return {
            "env_id": self.env_id,
            "action_meanings": ",".join(self.action_meanings),
            "run_id": self.run_id,
            "seed": str(self.seed),
            "agent": str(self.agent),
            "config_sha256": self.config_sha256,
            "world": json.dumps(self.world.to_dict(), sort_keys=True),
            "observed": json.dumps(self.observed),
            "env_kwargs": self.env_kwargs,
            "max_episode_steps": str(self.max_episode_steps),
            **({ACTION_MASK: "true"} if self.masked else {}),
        }


def export_onnx(networks: QNetworks, properties: ModelProperties, *, load: Callable[[bytes], QFunction]) -> bytes:
    """Export the network of agent `properties.agent`, and compare it with the original in the target runtime.

    Args:
        networks: the population.
        properties: stored in the model.
        load: loads the bytes in the target runtime and returns the Q-function.

    Returns:
        A single-file ONNX model with a dynamic batch axis. Equal networks and properties give equal bytes.

    Raises:
        ExportError: if a weight is not finite, or if on 10,000 observations a Q-value differs by more than 1e-5 of the
            largest one or a greedy action differs.
    """
    network = networks.agent(properties.agent).eval()
    shape = networks.body.observation_shape
    exported = to_onnx(network, properties, observation_shape=shape)
    scale = networks.observation_scale.view(shape).numpy()
    check_parity(network, load(exported), observation_scale=scale, masked=properties.masked)
    return exported


def to_onnx(network: nn.Sequential, properties: ModelProperties, *, observation_shape: tuple[int, ...]) -> bytes:
    """Convert a network of `QNetworks.agent` to ONNX, layer by layer.

    PyTorch's exporter takes seconds longer and stores local paths in the file. It converts only networks with modules
    that have no entry in `operators`, or that are applied to more axes than their operator takes. The tests compare the
    results. With action masks the model has a second input, `action_mask`, bool `[batch, actions]` or `[1, actions]`.
    It may be left out, and then allows all actions. Q-values of the others are `MASKED_Q`, which is finite.

    Raises:
        ExportError: if a weight is not finite, or PyTorch's exporter is needed and fails or is not installed.
    """
    if not all(bool(tensor.isfinite().all()) for tensor in network.state_dict().values()):
        raise ExportError(
            f"the network of agent {properties.agent:02d} has weights that are not finite (it diverged) and cannot be "
            "exported: lower learning_rate or reward_scale, or set max_gradient_norm"
        )
    known, last = operators(network), "unmasked" if properties.masked else "q_values"
    if known is not None:
        with contextlib.suppress(InferenceError):  # a layer has an input with more axes than its operator takes
            return _model(_graph(known, last), properties, observation_shape, last)
    return _model(_by_torch(network, observation_shape, last), properties, observation_shape, last)


def _model(graph: onnx.GraphProto, properties: ModelProperties, observation_shape: tuple[int, ...], last: str) -> bytes:
    """The model of a graph that computes `last` of `observation`, with its inputs, its output and the mask.

    Raises:
        InferenceError: if an operator does not fit its input.
    """
    num_actions = len(properties.action_meanings)
    graph.input.append(_batch("observation", *observation_shape))
    graph.output.append(_batch("q_values", num_actions))
    if properties.masked:
        graph.input.append(helper.make_tensor_value_info(ACTION_MASK, TensorProto.BOOL, ["masks", num_actions]))
        graph.node.append(helper.make_node("Where", [ACTION_MASK, last, "masked_q"], ["q_values"]))
        graph.initializer.append(numpy_helper.from_array(np.ones((1, num_actions), dtype=np.bool_), ACTION_MASK))
        graph.initializer.append(numpy_helper.from_array(np.array(MASKED_Q, dtype=np.float32), "masked_q"))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION)
    helper.set_model_props(model, properties.to_strings())
    checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))


def _graph(layers: Sequence[Operator], output: str) -> onnx.GraphProto:
    nodes, tensors, given = [], [], "observation"
    for index, (operator, parameters, attributes) in enumerate(layers):
        result = output if index == len(layers) - 1 else f"layer_{index}"
        named = {f"{result}.{name}": tensor for name, tensor in parameters.items()}
        nodes.append(helper.make_node(operator, [given, *named], [result], **attributes))
        tensors += [numpy_helper.from_array(tensor.detach().numpy(), name) for name, tensor in named.items()]
        given = result
    return helper.make_graph(nodes, "q_network", [], [], initializer=tensors)


def _by_torch(network: nn.Module, observation_shape: tuple[int, ...], output: str) -> onnx.GraphProto:
    """The graph that PyTorch's exporter makes of a network, without what it notes about this machine.

    Raises:
        ExportError: if the exporter fails, or the package `onnxscript` is not installed.
    """
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program: Any = torch.onnx.export(
                network.eval(),
                (torch.zeros(2, *observation_shape),),
                input_names=["observation"],
                output_names=[output],
                dynamic_shapes=({0: "batch"},),
                opset_version=_OPSET,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
    except Exception as error:  # the network's own code, or a package that is missing
        reason = str(error).partition("\n")[0]
        raise ExportError(f"PyTorch cannot export the body ({reason}); it needs the package onnxscript") from error
    graph: onnx.GraphProto = program.model_proto.graph
    for node in graph.node:
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    for field in ("input", "output", "value_info", "metadata_props"):
        graph.ClearField(field)
    return graph


def _batch(name: str, *shape: int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *shape])


def action_meanings(env_id: str, num_actions: int) -> tuple[str, ...]:
    """The meanings of an environment's actions, or their numbers if unknown."""
    return _ACTIONS.get(env_id) or tuple(f"action {k}" for k in range(num_actions))


def by_reference(model: bytes) -> QFunction:
    """Load a model in ONNX's reference implementation, which needs no runtime."""
    from onnx.reference import ReferenceEvaluator

    evaluator: Any = ReferenceEvaluator(model)  # its annotations omit that `run` returns a list

    def q_values(observation: npt.NDArray[np.float32], mask: Mask | None = None) -> npt.NDArray[np.float32]:
        given = {"observation": observation} | ({} if mask is None else {ACTION_MASK: mask})
        return np.asarray(evaluator.run(None, given)[0])

    return q_values


@torch.no_grad()
def check_parity(
    network: nn.Module,
    q_function: QFunction,
    *,
    observation_scale: npt.NDArray[np.float32],
    masked: bool = False,
) -> None:
    """Compare a runtime's Q-values with PyTorch's on 10,000 observations, fewer if they are large images.

    Raises:
        ExportError: if Q-values differ by more than rounding, or greedy actions differ; if the model is `masked`, also
            if a mask does not mask.
    """
    generator = np.random.default_rng(0)
    scale = 2 * observation_scale
    count = min(PARITY_OBSERVATIONS, max(1, _PARITY_ENTRIES // scale.size))
    observation = generator.uniform(-scale, scale, (count, *scale.shape)).astype(np.float32)
    expected = network(torch.from_numpy(observation)).numpy()
    actual = q_function(observation)
    if not np.isfinite(actual).all():
        raise ExportError("the exported network returns Q-values that are not finite")
    difference, largest = float(np.abs(actual - expected).max()), float(np.abs(expected).max())
    if difference > PARITY_TOLERANCE * largest:
        raise ExportError(
            f"the exported network's Q-values differ by {difference:.1e} (allowed {PARITY_TOLERANCE} of the largest, "
            f"{largest:.3g})"
        )
    runner_up, best = np.sort(expected, axis=1)[:, -2:].T
    decided = best - runner_up > _ROUNDING * largest
    changed = int((actual.argmax(1) != expected.argmax(1))[decided].sum())
    if changed:
        raise ExportError(f"the exported network prefers another action in {changed} of {count} cases")
    if masked:
        mask = generator.random(actual.shape) < 0.5
        if not np.array_equal(q_function(observation, mask), np.where(mask, actual, np.float32(MASKED_Q))):
            raise ExportError(f"the exported network does not apply its {ACTION_MASK}")
