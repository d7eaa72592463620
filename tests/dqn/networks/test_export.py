import logging
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from dqn.networks.bodies.mlp import MLP
from dqn.networks.heads import Mean
from dqn.networks.onnx import (
    ExportError,
    ModelProperties,
    QFunction,
    action_meanings,
    check_parity,
    export_onnx,
)
from dqn.networks.population import QNetworks
from serving.policy import OnnxPolicy

PROPERTIES = ModelProperties(
    env_id="CartPole-v1",
    action_meanings=("left", "right"),
    run_id="r",
    seed=3,
    agent=1,
    config_sha256="c",
    observed=((-2.4, 2.4), (-3.1, 3.0), (-0.2, 0.2), (-3.3, 3.25)),
)


def networks() -> QNetworks:
    return QNetworks.initialised(
        seeds=range(3),
        body=MLP(observation_shape=(4,), hidden_sizes=(32, 16)),
        num_actions=2,
        observation_scale=(2.4, 2.0, 0.2, 2.0),
        initial_q=1.0,
    )


def load(model: bytes) -> QFunction:
    return OnnxPolicy.load(model).q_values


@pytest.fixture(scope="module")
def exported() -> bytes:
    return export_onnx(networks(), PROPERTIES, load=load)


def test_the_export_keeps_the_serving_contract(exported: bytes) -> None:
    policy = OnnxPolicy.load(exported)
    assert policy.metadata.env_id == "CartPole-v1"
    assert policy.metadata.action_meanings == ("left", "right")
    assert (policy.metadata.seed, policy.metadata.run_id, policy.metadata.config_sha256) == (3, "r", "c")
    assert policy.metadata.observed == PROPERTIES.observed
    for batch in (1, 2, 1_000):
        assert policy.q_values(np.zeros((batch, 4), dtype=np.float32)).shape == (batch, 2)


def test_the_exported_network_is_that_of_the_agent(exported: bytes) -> None:
    observation = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    population = networks()
    for agent in range(3):
        expected = population.agent(agent)(torch.from_numpy(observation)).detach().numpy()
        same = np.allclose(OnnxPolicy.load(exported).q_values(observation), expected, atol=1e-6)
        assert same == (agent == PROPERTIES.agent)


def test_actions_have_names_where_they_are_known_and_numbers_elsewhere() -> None:
    assert action_meanings("MountainCar-v0", 3) == ("left", "nothing", "right")
    assert action_meanings("Other-v0", 3) == ("action 0", "action 1", "action 2")


def test_exporting_twice_gives_the_same_bytes(exported: bytes) -> None:
    assert export_onnx(networks(), PROPERTIES, load=load) == exported


def test_nothing_of_the_machine_is_in_the_file(exported: bytes) -> None:
    model = onnx.load_from_string(exported)
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)
    assert b".py" not in exported
    assert (model.ir_version, model.opset_import[0].version) == (10, 20), "what older runtimes read"
    properties = {entry.key: entry.value for entry in model.metadata_props}
    assert (properties["agent"], properties["seed"], properties["world"]) == ("1", "3", "{}")
    assert all(tensor.data_location == onnx.TensorProto.DEFAULT for tensor in model.graph.initializer)


def by_torch(network: torch.nn.Sequential, width: int) -> bytes:
    """What PyTorch's own exporter makes of a network."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program: Any = torch.onnx.export(
            network, (torch.zeros(2, width),), dynamo=True, external_data=False, verbose=False
        )
    return bytes(program.model_proto.SerializeToString())


@pytest.mark.slow
@pytest.mark.parametrize(
    "shape",
    [{}, {"dueling": True}, {"head": Mean(num_outputs=3)}, {"body": MLP(observation_shape=(4,), hidden_sizes=())}],
    ids=str,
)
def test_pytorchs_exporter_gives_the_same_function(shape: dict[str, Any]) -> None:
    body = MLP(observation_shape=(4,), hidden_sizes=(32, 16))
    fields: dict[str, Any] = {"body": body, "num_actions": 2, "observation_scale": (2.4, 2.0, 0.2, 2.0)}
    population = QNetworks.initialised(seeds=range(3), **(fields | shape))
    observation = np.random.default_rng(1).normal(size=(2, 4)).astype(np.float32)
    ours = load(export_onnx(population, PROPERTIES, load=load))(observation)
    oracle = ort.InferenceSession(by_torch(population.agent(1).eval(), 4), providers=["CPUExecutionProvider"])
    (expected,) = oracle.run(None, {oracle.get_inputs()[0].name: observation})
    np.testing.assert_allclose(ours, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.slow
def test_training_and_exporting_load_no_compiler(tmp_path: Path) -> None:
    code = (
        "import sys; from dqn import DQNConfig, train;"
        "config = DQNConfig(num_agents=2, num_envs=4, batch_size=4, min_replay_batches=1, max_updates=4);"
        f"train(config).export({str(tmp_path / 'policy.onnx')!r});"
        "print([name for name in ('torch._dynamo', 'torch.onnx._internal', 'onnxscript') if name in sys.modules])"
    )
    root = Path(__file__).parents[3]
    assert subprocess.check_output([sys.executable, "-c", code], text=True, cwd=root) == "[]\n"
    assert OnnxPolicy.load(tmp_path / "policy.onnx").metadata.num_actions == 2


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda q: q + 2e-5 * np.abs(q).max(), "differ by"),
        (lambda q: q[:, ::-1], "differ by"),
        (lambda q: q * np.nan, "not finite"),
    ],
    ids=["shifted", "swapped", "nan"],
)
def test_a_runtime_that_computes_something_else_is_found_out(broken: QFunction, message: str) -> None:
    def load_broken(model: bytes) -> QFunction:
        q_values = load(model)
        return lambda observation: broken(q_values(observation))

    with pytest.raises(ExportError, match=message):
        export_onnx(networks(), PROPERTIES, load=load_broken)


@pytest.mark.parametrize("magnitude", [1e-6, 1e-3, 1.0, 200.0, 1e6])
def test_the_scale_of_q_values_does_not_matter(magnitude: float) -> None:
    population = networks()
    with torch.no_grad():
        population.weights[-1] *= magnitude
        population.biases[-1] *= magnitude
    export_onnx(population, PROPERTIES, load=load)

    def load_another(model: bytes) -> QFunction:
        q_values = load(model)
        return lambda observation: q_values(observation * np.float32(1.001))

    with pytest.raises(ExportError, match="differ by"):
        export_onnx(population, PROPERTIES, load=load_another)


def test_what_is_compared_spans_twice_the_scale_of_observations() -> None:
    compared: list[np.ndarray] = []

    def load_watched(model: bytes) -> QFunction:
        q_values = load(model)

        def watched(observation: np.ndarray) -> np.ndarray:
            compared.append(observation)
            return q_values(observation)

        return watched

    export_onnx(networks(), PROPERTIES, load=load_watched)
    (observation,) = compared
    scale = np.array([2.4, 2.0, 0.2, 2.0])
    assert observation.shape == (10_000, 4)
    np.testing.assert_allclose(observation.max(0), 2 * scale, rtol=0.01)
    np.testing.assert_allclose(observation.min(0), -2 * scale, rtol=0.01)


class _NearlyEqual(torch.nn.Module):
    """Prefers action 0 by less than the tolerance of its Q-values, and by more than rounding explains."""

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        return torch.tensor([8 + 4e-5, 8.0]).expand(len(observation), -1)


def test_another_preference_is_found_out_where_the_values_agree() -> None:
    network, scale = _NearlyEqual(), np.ones(4, dtype=np.float32)
    check_parity(network, constant(8 + 4e-5, 8.0), observation_scale=scale)
    with pytest.raises(ExportError, match="prefers another action in 10000 of 10000"):
        check_parity(network, constant(8.0, 8 + 4e-5), observation_scale=scale)


class _Equal(torch.nn.Module):
    """Prefers action 0 by less than rounding explains."""

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        return torch.tensor([8 + 4e-6, 8.0]).expand(len(observation), -1)


def test_what_rounding_decides_is_no_preference() -> None:
    check_parity(_Equal(), constant(8.0, 8 + 4e-6), observation_scale=np.ones(4, dtype=np.float32))


def constant(*q_values: float) -> QFunction:
    return lambda observation: np.tile(np.array(q_values, dtype=np.float32), (len(observation), 1))
