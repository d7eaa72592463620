from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from dqn.environments.world import NOMINAL, World
from serving.errors import PolicyError
from serving.policy import OnnxPolicy
from tests.support.serving.policies import PROPERTIES, linear_model


def test_policy_acts_greedily_on_batches() -> None:
    policy = OnnxPolicy.load(linear_model())
    observation = np.array([[0, 0, 0.1, 0], [0, 0, -0.1, 0]], dtype=np.float64)
    np.testing.assert_allclose(policy.q_values(observation), [[-0.1, 0.1], [0.1, -0.1]], rtol=1e-6)
    assert policy.act(observation).tolist() == [1, 0]


def test_policy_knows_where_it_comes_from() -> None:
    metadata = OnnxPolicy.load(linear_model(properties=PROPERTIES | {"run_id": "r", "config_sha256": "c"})).metadata
    assert (metadata.env_id, metadata.action_meanings, metadata.seed) == ("CartPole-v1", ("left", "right"), 7)
    assert (metadata.run_id, metadata.config_sha256) == ("r", "c")
    assert (metadata.observation_size, metadata.num_actions) == (4, 2)
    assert metadata.world == NOMINAL
    assert metadata.observed == (), "an older file does not say"
    observed = PROPERTIES | {"observed": "[[-1, 2], [0, 0], [-3, -2], [1, 1e9]]"}
    ranges = OnnxPolicy.load(linear_model(properties=observed)).metadata.observed
    assert ranges == ((-1, 2), (0, 0), (-3, -2), (1, 1e9))
    gentle = PROPERTIES | {"world": '{"length": [0.25, 0.75]}'}
    assert OnnxPolicy.load(linear_model(properties=gentle)).metadata.world == World(length=(0.25, 0.75))


def test_a_policy_is_read_from_a_file_and_runs_on_one_thread(tmp_path: Path) -> None:
    path = tmp_path / "p.onnx"
    with pytest.raises(FileNotFoundError):
        OnnxPolicy.load(path)
    path.write_bytes(linear_model())
    options = OnnxPolicy.load(path)._session.get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (1, 1)


def taking(shape: list[str | int]) -> bytes:
    """A policy with an input of another shape than [batch, 4]."""
    given = helper.make_tensor_value_info("observation", TensorProto.FLOAT, shape)
    answer = helper.make_tensor_value_info("q_values", TensorProto.FLOAT, ["rows", 2])
    constant = helper.make_tensor("shape", TensorProto.INT64, [2], [-1, 2])
    node = helper.make_node("Reshape", ["observation", "shape"], ["q_values"])
    graph = helper.make_graph([node], "reshaping", [given], [answer], [constant])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    helper.set_model_props(model, PROPERTIES)
    return bytes(model.SerializeToString())


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (b"not a model", "not a loadable ONNX model"),
        (linear_model(input_name="x"), "expected one input 'observation'"),
        (linear_model(batch=1), "dynamic batch"),
        (taking(["batch", "n"]), r"'observation' must have shape \[batch, n\].* with a dynamic batch, got"),
        (taking(["batch", 4, "m"]), "'observation' must have shape"),
        (taking(["batch"]), "'observation' must have shape"),
        (linear_model(properties=PROPERTIES | {"env_kwargs": "x"}), "'env_kwargs' is no JSON"),
        (linear_model(properties=PROPERTIES | {"env_kwargs": "[" * 4_000}), "'env_kwargs' is no JSON"),
        (linear_model(properties=PROPERTIES | {"env_kwargs": "[1]"}), "'env_kwargs' must be an object"),
        (linear_model(properties=PROPERTIES | {"env_kwargs": '{"a": "' + "x" * 4_096 + '"}'}), "of at most 4096"),
        (linear_model(properties=PROPERTIES | {"max_episode_steps": "-1"}), "'max_episode_steps' must be a whole"),
        (linear_model(properties=PROPERTIES | {"max_episode_steps": "9" * 10}), "'max_episode_steps' must be a whole"),
        (linear_model(element=TensorProto.DOUBLE), "must be float32"),
        (linear_model(properties={"env_id": "CartPole-v1"}), "missing: action_meanings, run_id"),
        (linear_model(properties=PROPERTIES | {"seed": "x"}), "'seed' must be a whole number"),
        (linear_model(properties=PROPERTIES | {"action_meanings": "left"}), "1 action meanings for 2 Q-values"),
        (linear_model(properties=PROPERTIES | {"world": "[" * 10_000}), "'world' is none"),
        (linear_model(properties=PROPERTIES | {"world": "x"}), "'world' is none"),
        (linear_model(properties=PROPERTIES | {"world": '{"length": -1}'}), "'world' is none: world.length must be"),
        *(
            (linear_model(properties=PROPERTIES | {"observed": text}), f"'observed' {message}")
            for text, message in [
                ("x", "is no list of"),
                ("7", "is no list of"),
                ("[" * 10_000, "is no list of"),
                ("[[1]]", "is no list of"),
                ('[["a", 1]]', "is no list of"),
                ("[[0, 1]]", "must hold 4 finite ranges"),
                ("[[0, 1], [0, 1], [0, 1], [1, 0]]", "must hold 4 finite ranges"),
                ("[[0, 1], [0, 1], [0, 1], [0, Infinity]]", "must hold 4 finite ranges"),
                ("[[0, 1], [0, 1], [0, 1], [-Infinity, 0]]", "must hold 4 finite ranges"),
                ("[[NaN, 1], [0, 1], [0, 1], [0, 1]]", "must hold 4 finite ranges"),
            ]
        ),
    ],
)
def test_a_broken_contract_is_named(model: bytes, message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        OnnxPolicy.load(model)


@pytest.mark.parametrize("shape", [(4,), (1, 3), (1, 1, 4)])
def test_a_wrong_observation_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected observations of shape \[batch, 4\]"):
        OnnxPolicy.load(linear_model()).q_values(np.zeros(shape))
