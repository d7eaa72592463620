import dataclasses
from contextlib import suppress
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import onnx
import pytest
from matplotlib.figure import Figure
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR, RESOURCE_DOES_NOT_EXIST
from onnx import TensorProto, helper

from dqn.robustness import StressTest
from dqn.seeding import version_seed
from dqn.world import World
from flows import figures, registry
from flows.attempt import StaleAttemptError
from flows.deployed import promote_policy, rollback_policy
from flows.evaluation import evaluate
from flows.parameters import InputError
from flows.promote import (
    PROMOTION_TAG,
    move_champion,
    play_champion,
    promote,
    remove_challenger,
    return_to_previous,
)
from flows.registry import CHALLENGER, CHAMPION, PREVIOUS, RegistryError
from tests.faults import Breaking
from tests.policies import ACROBOT, FALLS, PROPERTIES, SWINGS, linear_model

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
    model_id = registry.log_model(run_id, controller(weights, run_id))
    version = registry.register(client, name, model_id=model_id, run_id=run_id, tags={"git_commit": "unknown"})
    registry.set_alias(client, name, CHALLENGER, version)
    return version


def test_a_champion_leaves_a_way_back_and_it_is_taken_once(store: MlflowClient) -> None:
    name = "dqn-aliases"
    first, second = registered(store, name, BALANCING), registered(store, name, BALANCING)
    token = began(store, name)
    move_champion(store, name, first, token)
    assert registry.version_of(store, name, CHALLENGER) == second
    move_champion(store, name, second, token)
    assert aliases(store, name) == [second, first, None]
    move_champion(store, name, second, token)  # a retry changes nothing
    assert registry.version_of(store, name, PREVIOUS) == first
    assert return_to_previous(store, name, token, "request") == first
    assert registry.version_of(store, name, CHAMPION) == first
    assert registry.get_version(store, name, second).tags["gate"] == f"rolled back to version {first}"
    assert return_to_previous(store, name, token, "request") == first  # whoever died right after its last write
    with pytest.raises(InputError, match="no previous champion to return to"):
        return_to_previous(store, name, token, "another request")


def began(store: MlflowClient, name: str) -> str:
    store.set_registered_model_tag(name, PROMOTION_TAG, "this")
    return "this"


def aliases(store: MlflowClient, name: str) -> list[int | None]:
    return [registry.version_of(store, name, alias) for alias in (CHAMPION, PREVIOUS, CHALLENGER)]


def test_a_promotion_that_was_overtaken_changes_nothing(store: MlflowClient) -> None:
    name = "dqn-overtaken"
    first, second = registered(store, name, BALANCING), registered(store, name, BALANCING)
    move_champion(store, name, first, began(store, name))
    store.set_registered_model_tag(name, PROMOTION_TAG, "another")
    with pytest.raises(StaleAttemptError, match="promotion this of dqn-overtaken was overtaken by promotion another"):
        move_champion(store, name, second, "this")
    registry.set_alias(store, name, PREVIOUS, second)
    with pytest.raises(StaleAttemptError):
        return_to_previous(store, name, "this", "request")
    with pytest.raises(StaleAttemptError):
        remove_challenger(store, name, second, "this")
    assert aliases(store, name) == [first, second, second]


@pytest.mark.parametrize("nth", range(1, 6))
def test_a_promotion_that_failed_half_way_is_finished_by_the_next(store: MlflowClient, nth: int) -> None:
    name = f"dqn-half-way-{nth}"
    first, second = registered(store, name, BALANCING), registered(store, name, BALANCING)
    token = began(store, name)
    move_champion(store, name, first, token)
    broken: Any = Breaking(store, nth)
    with suppress(MlflowException):
        move_champion(broken, name, second, token)
    move_champion(store, name, second, token)
    assert aliases(store, name) == [second, first, None]
    broken = Breaking(store, nth)
    try:
        return_to_previous(broken, name, token, "request")
    except MlflowException:
        assert return_to_previous(store, name, token, "request") == first
    assert aliases(store, name) == [first, None, None]
    assert registry.get_version(store, name, second).tags["gate"] == f"rolled back to version {first}"


def test_a_logged_model_is_registered_once(store: MlflowClient) -> None:
    name = "dqn-once"
    version = registry.get_version(store, name, registered(store, name, BALANCING))
    again = registry.register(
        store, name, model_id=registry.model_id_of(version), run_id=str(version.run_id), tags={"git_commit": "unknown"}
    )
    assert str(again) == str(version.version)
    with pytest.raises(RegistryError, match=f"{name} has no version 99; registered are: {again}"):
        registry.get_version(store, name, 99)


def damage(client: MlflowClient, name: str, version: int, content: bytes | None) -> None:
    """Overwrite the file of a registered version, or remove it."""
    model = client.get_logged_model(registry.model_id_of(registry.get_version(client, name, version)))
    path = Path(str(model.artifact_location).removeprefix("file://")) / "model.onnx"
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)


def test_a_file_that_is_gone_or_damaged_is_named(store: MlflowClient) -> None:
    name = "dqn-damaged"
    gone, torn = (registered(store, name, BALANCING) for _ in range(2))
    damage(store, name, gone, None)
    damage(store, name, torn, b"garbage")
    for version, complaint in ((gone, "has no model.onnx"), (torn, "is damaged: not a loadable")):
        with pytest.raises(RegistryError, match=complaint) as refused:
            registry.download(name, version)
        assert f"version {version} of {name}" in str(refused.value)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MlflowException("No such artifact", RESOURCE_DOES_NOT_EXIST), RegistryError),
        (FileNotFoundError("model.onnx"), RegistryError),
        (MlflowException("the store is away", INTERNAL_ERROR), MlflowException),
        (ConnectionResetError("by peer"), ConnectionResetError),
    ],
)
def test_a_store_that_is_away_is_not_taken_for_a_broken_version(
    error: Exception, expected: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> str:
        raise error

    monkeypatch.setattr(mlflow.artifacts, "download_artifacts", fail)
    with pytest.raises(expected):
        registry.download("dqn-away", 1)


def test_a_policy_that_cannot_play_the_environment_is_no_champion(store: MlflowClient) -> None:
    name = "dqn-misfit"
    good = registered(store, name, BALANCING)
    challenger = registry.download(name, good).policy.metadata
    for content, fault in (
        (linear_model(SWINGS, actions=3, properties=ACROBOT), "plays Acrobot-v1, not CartPole-v1"),
        (linear_model((0, 0, 1)), "takes 3 numbers and chooses among 2 actions; CartPole-v1 has 4 and 2"),
        (linear_model((0, 0, float("nan"), 0)), "gives Q-values that are not finite"),
        (b"garbage", "is damaged"),
    ):
        damage(store, name, good, content)
        champion = play_champion(name, good, challenger, seed=0)
        assert champion.returns is None
        assert fault in champion.fault


def test_the_champion_plays_in_the_challengers_world(store: MlflowClient) -> None:
    name = "dqn-reversed"
    champion = registered(store, name, BALANCING)
    nominal = registry.download(name, champion).policy.metadata
    reversed_motor = dataclasses.replace(nominal, world=World(force_mag=-10.0))
    for challenger, low, high in ((nominal, 475, 500), (reversed_motor, 8, 30)):
        returns = play_champion(name, champion, challenger, seed=0).returns
        assert returns is not None
        assert low <= returns.mean() <= high


@pytest.fixture
def empty_store(store: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    """A store of its own: a version's number decides on its episodes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    return MlflowClient()


@pytest.mark.e2e
def test_flows_promote_what_is_better_refuse_what_is_not_and_roll_back(
    empty_store: MlflowClient, prefect_api: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = empty_store
    drawn: list[list[str]] = []
    stress_cells = figures.stress_cells

    def drawing(tests: dict[str, StressTest]) -> Figure:
        drawn.append(list(tests))
        return stress_cells(tests)

    monkeypatch.setattr(figures, "stress_cells", drawing)
    name = "dqn-CartPole-v1"
    weak, bad, good, equal = (registered(store, name, w) for w in (DRIFTING, FALLING, BALANCING, BALANCING))
    first = promote_policy(weak)
    assert first.startswith("passed: mean return 4")
    assert first.endswith("no champion before")
    assert promote_policy(weak) == first  # it is champion already
    assert promote_policy(bad).startswith("refused: mean return ")
    assert registry.version_of(store, name, CHAMPION) == weak
    tags: dict[str, Any] = registry.get_version(store, name, bad).tags
    assert "below the environment's threshold 475" in tags["gate"]
    assert (tags["eval.episodes"], float(tags["eval.mean_return"]) < 50) == ("100", True)
    assert (int(tags["eval.seed"]), len(tags["sha256"])) == (version_seed(bad, episodes=100), 64)
    assert promote_policy(good).startswith("passed: better: mean return 500 over 100 episodes")
    assert aliases(store, name)[:2] == [good, weak]
    assert drawn[0] == [f"version {weak}", "LQR", "linear, searched"]
    assert drawn[-1] == [f"version {good}", f"champion, version {weak}", "LQR", "linear, searched"]
    assert promote_policy(weak).startswith("refused: worse, the champion stays")
    assert promote_policy(equal).startswith("refused: tie, the champion stays")
    assert aliases(store, name)[:2] == [good, weak]
    forced = promote_policy(equal, force=True)
    assert forced.startswith("forced: the gate said refused: tie")
    assert registry.get_version(store, name, equal).tags["gate"] == forced
    assert aliases(store, name)[:2] == [equal, good]
    assert rollback_policy() == good
    with pytest.raises(InputError, match="no previous champion"):
        rollback_policy()
    page = registry.get_version(store, name, good)
    assert {"test/mean_return", "test/min_return"} <= registry.metrics_of(store, page)
    assert "mean 500, over 100 episodes" in str(page.description)


@pytest.mark.e2e
def test_a_broken_champion_gives_way_and_a_broken_challenger_does_not_get_in(
    store: MlflowClient, prefect_api: str
) -> None:
    name = "dqn-CartPole-v1"
    champion, challenger, changed = (registered(store, name, BALANCING) for _ in range(3))
    assert promote_policy(champion, force=True).startswith("forced")
    damage(store, name, champion, b"garbage")
    gate = promote_policy(challenger)
    assert gate.startswith("passed: mean return 500")
    assert f"champion version {champion} cannot be played: the file of version {champion} of {name} is damaged" in gate
    assert aliases(store, name)[:2] == [challenger, champion]
    evaluation = evaluate.fn(name, changed)
    damage(store, name, changed, linear_model(FALLS))
    assert promote(name, changed, evaluation) == (
        f"refused: the file of version {changed} of {name} is not the one that was evaluated any more"
    )
    damage(store, name, changed, linear_model(FALLS, properties=PROPERTIES | {"env_id": "this:CartPole-v1"}))
    with pytest.raises(RegistryError, match="plays this:CartPole-v1, whose policies are versions of dqn-this-"):
        promote_policy(changed)
    damage(store, name, changed, b"garbage")
    with pytest.raises(RegistryError, match=f"the file of version {changed} of {name} is damaged"):
        promote_policy(changed)
    assert registry.version_of(store, name, CHAMPION) == challenger
