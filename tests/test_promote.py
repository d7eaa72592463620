from typing import Any

import numpy as np
import onnx
import pytest
from mlflow import MlflowClient
from onnx import TensorProto, helper

from flows import registry
from flows.parameters import InputError
from flows.promote import move_champion, promote_policy, return_to_previous, rollback_policy, should_promote
from flows.registry import CHALLENGER, CHAMPION, PREVIOUS, RegistryError

BALANCING = (0.1, 0.3, 1.0, 0.9)
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
    model_id = registry.log_model(run_id, controller(weights, run_id))
    version = registry.register(client, name, model_id=model_id, run_id=run_id, tags={"git_commit": "unknown"})
    registry.set_alias(client, name, CHALLENGER, version)
    return version


@pytest.mark.parametrize(
    ("challenger", "threshold", "champion", "promote", "reason"),
    [
        ([500.0] * 100, 475.0, None, True, "no champion before"),
        ([500.0] * 100, 475.0, [490.0] * 100, True, "the champion has 490"),
        ([480.0] * 100, 475.0, [480.0] * 100, True, "the champion has 480"),
        ([475.0] * 100, 475.0, None, True, "threshold 475"),
        ([474.0] * 100, 475.0, None, False, "below the environment's threshold 475"),
        ([480.0] * 100, 475.0, [481.0] * 100, False, "below the champion's 481"),
        ([500.0] * 99, 475.0, None, False, "99 episodes, at least 100"),
        ([float("nan")] * 100, 475.0, None, False, "below"),
        ([-100.0] * 100, None, None, True, "no threshold"),
        ([-100.0] * 100, None, [-90.0] * 100, False, "below the champion's -90"),
    ],
)
def test_the_gate(
    challenger: list[float], threshold: float | None, champion: list[float] | None, promote: bool, reason: str
) -> None:
    rival = None if champion is None else np.array(champion)
    decision = should_promote(np.array(challenger), threshold, rival)
    assert decision.promote is promote
    assert reason in decision.reason


def test_a_champion_leaves_a_way_back_and_it_is_taken_once(store: MlflowClient) -> None:
    name = "dqn-aliases"
    first, second = registered(store, name, BALANCING), registered(store, name, BALANCING)
    move_champion(store, name, first)
    assert registry.version_of(store, name, CHALLENGER) == second
    move_champion(store, name, second)
    aliases = [registry.version_of(store, name, alias) for alias in (CHAMPION, PREVIOUS, CHALLENGER)]
    assert aliases == [second, first, None]
    move_champion(store, name, second)  # a retry changes nothing
    assert registry.version_of(store, name, PREVIOUS) == first
    assert return_to_previous(store, name) == first
    assert registry.version_of(store, name, CHAMPION) == first
    assert registry.get_version(store, name, second).tags["gate"] == f"rolled back to version {first}"
    with pytest.raises(InputError, match="no previous champion to return to"):
        return_to_previous(store, name)


def test_a_logged_model_is_registered_once(store: MlflowClient) -> None:
    name = "dqn-once"
    version = registry.get_version(store, name, registered(store, name, BALANCING))
    again = registry.register(
        store, name, model_id=registry.model_id_of(version), run_id=str(version.run_id), tags={"git_commit": "unknown"}
    )
    assert str(again) == str(version.version)
    with pytest.raises(RegistryError, match=f"{name} has no version 99; registered are: {again}"):
        registry.get_version(store, name, 99)


@pytest.mark.e2e
def test_flows_promote_what_passes_refuse_what_fails_and_roll_back(store: MlflowClient, prefect_api: str) -> None:
    name = "dqn-CartPole-v1"
    good, bad, better = (registered(store, name, weights) for weights in (BALANCING, FALLING, BALANCING))
    assert promote_policy(good).startswith("passed: mean return 500 over 100 episodes")
    assert promote_policy(bad).startswith("refused: mean return ")
    assert registry.version_of(store, name, CHAMPION) == good
    tags: dict[str, Any] = registry.get_version(store, name, bad).tags
    assert "below the environment's threshold 475" in tags["gate"]
    assert (tags["eval.episodes"], float(tags["eval.mean_return"]) < 50) == ("100", True)
    assert promote_policy(better).startswith("passed")
    assert registry.version_of(store, name, PREVIOUS) == good
    assert rollback_policy() == good
    with pytest.raises(InputError, match="no previous champion"):
        rollback_policy()
    page = registry.get_version(store, name, good)
    assert {"test/mean_return", "test/min_return"} <= registry.metrics_of(store, page)
    assert "mean 500, over 100 episodes" in str(page.description)
