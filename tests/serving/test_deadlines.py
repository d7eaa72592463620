"""Models that never load or never answer are refused, the version before goes on, and the server stops on a signal."""

import asyncio
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from serving import deadlines
from serving.errors import PolicyError, RegistryUnavailableError
from serving.models.follower import Models
from serving.models.served import ServedModel
from serving.models.source import Version
from serving.policy import OnnxPolicy
from tests.serving.conftest import running_server
from tests.support.serving.faulty import GOOD, Registry, following
from tests.support.serving.inprocess import MemoryRegistry, serving
from tests.support.serving.policies import BALANCES, PROPERTIES, linear_model

LATE = r"it did not answer within 0\.25 s"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time limits that a test can wait for."""
    monkeypatch.setattr(deadlines, "RUN_SECONDS", 0.25)
    monkeypatch.setattr("serving.policy.LOAD_SECONDS", 0.25)


def model(nodes: list[Any], constants: dict[str, Any], functions: list[Any] | None = None) -> bytes:
    graph = helper.make_graph(
        nodes,
        "slow",
        [helper.make_tensor_value_info("observation", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("q_values", TensorProto.FLOAT, ["batch", 2])],
        [onnx.numpy_helper.from_array(np.array(value), name) for name, value in constants.items()],
    )
    domains = [helper.make_opsetid("", 20), helper.make_opsetid("own", 1)]
    made = helper.make_model(graph, opset_imports=domains, ir_version=10, functions=functions or [])
    helper.set_model_props(made, PROPERTIES)
    return bytes(made.SerializeToString())


WEIGHT = np.zeros((4, 2), dtype=np.float32)


def looping(trips: int, *, above: float = -np.inf) -> bytes:
    """A policy that goes round a loop so often for observations with an entry above a bound."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["on"], ["still"]), helper.make_node("Add", ["sum", "one"], ["next"])],
        "body",
        [
            helper.make_tensor_value_info("round", TensorProto.INT64, []),
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("sum", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("still", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, None),
        ],
    )
    nodes = [
        helper.make_node("MatMul", ["observation", "weight"], ["plain"]),
        helper.make_node("ReduceMax", ["observation"], ["greatest"], keepdims=0),
        helper.make_node("Greater", ["greatest", "above"], ["begin"]),
        helper.make_node("Loop", ["trips", "begin", "zero"], ["rounds"], body=body),
        helper.make_node("Add", ["plain", "rounds"], ["q_values"]),
    ]
    numbers = {"above": np.float32(above), "one": np.float32(1), "zero": np.float32(0)}
    return model(nodes, {"weight": WEIGHT, "trips": np.int64(trips), **numbers})


def folding() -> bytes:
    """A policy that adds a constant, the product of many large matrices."""
    powers = [helper.make_node("MatMul", [f"p{k}", f"p{k}"], [f"p{k + 1}"]) for k in range(400)]
    nodes = [
        helper.make_node("ConstantOfShape", ["shape"], ["p0"]),
        *powers,
        helper.make_node("ReduceMax", ["p400"], ["constant"], keepdims=0),
        helper.make_node("MatMul", ["observation", "weight"], ["plain"]),
        helper.make_node("Add", ["plain", "constant"], ["q_values"]),
    ]
    return model(nodes, {"weight": WEIGHT, "shape": np.array([700, 700], dtype=np.int64)})


def unfolding(depth: int = 30) -> bytes:
    """A policy of functions, each of which calls the one before it twice."""
    domains = [helper.make_opsetid("", 20), helper.make_opsetid("own", 1)]
    bodies = [[helper.make_node("Neg", ["x"], ["y"])]] + [
        [
            helper.make_node(f"f{k}", ["x"], ["t"], domain="own"),
            helper.make_node(f"f{k}", ["t"], ["y"], domain="own"),
        ]
        for k in range(depth)
    ]
    functions = [helper.make_function("own", f"f{k}", ["x"], ["y"], body, domains) for k, body in enumerate(bodies)]
    nodes = [
        helper.make_node("MatMul", ["observation", "weight"], ["plain"]),
        helper.make_node(f"f{depth}", ["plain"], ["q_values"], domain="own"),
    ]
    return model(nodes, {"weight": WEIGHT}, functions)


def filling() -> bytes:
    """A policy that asks for a gibibyte."""
    nodes = [
        helper.make_node("ConstantOfShape", ["shape"], ["large"]),
        helper.make_node("ReduceMax", ["large"], ["constant"], keepdims=0),
        helper.make_node("MatMul", ["observation", "weight"], ["plain"]),
        helper.make_node("Add", ["plain", "constant"], ["q_values"]),
    ]
    return model(nodes, {"weight": WEIGHT, "shape": np.array([1 << 14, 1 << 14], dtype=np.int64)})


ENDLESS = 1 << 62
SLOW: dict[str, tuple[Callable[[], bytes], str]] = {
    "a loop": (lambda: looping(ENDLESS), LATE),
    "constants": (folding, LATE),
    "functions": (unfolding, r"it did not load within 0\.25 s"),
    "memory": (filling, "it fails on a batch of 64 observations: .* smaller than requested"),
}


@pytest.mark.parametrize("kind", SLOW)
@pytest.mark.usefixtures("quick")
def test_a_model_that_never_ends_is_refused_and_the_old_version_goes_on(kind: str, tmp_path: Path) -> None:
    make, reason = SLOW[kind]
    registry = Registry(GOOD[0], make(), GOOD[1])
    models = following(registry, tmp_path)
    for _ in range(2):
        asyncio.run(models.poll())
        registry.aliases["champion"] = "2"
    assert models.current
    assert models.current.version.number == "1"
    assert models.failed_swaps == 1
    with pytest.raises(PolicyError, match=reason):
        asyncio.run(models.get("2"))
    assert models.notice.startswith("version 2 was refused: ")
    assert models.notice.endswith("version 1 plays on")
    registry.aliases["champion"] = "3"
    asyncio.run(models.poll())
    assert models.current.version.number == "3"


def test_a_policy_too_slow_for_a_show_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.models.served._STEP_SECONDS", 0.0)
    with pytest.raises(PolicyError, match=r"^it takes \d+ ms for an observation, at most 0 ms$"):
        ServedModel.load("dqn", Version(number="1", source="s"), GOOD[0])


@pytest.mark.usefixtures("quick")
def test_a_policy_that_was_late_three_times_is_not_asked_again() -> None:
    policy, much, little = OnnxPolicy.load(looping(ENDLESS, above=9.0)), np.full((1, 4), 10.0), np.zeros((1, 4))
    for overruns in range(3):
        assert policy.q_values(little).tolist() == [[0.0, 0.0]]
        with pytest.raises(PolicyError, match=LATE):
            policy.q_values(much)
        assert policy.overruns == overruns + 1
    with pytest.raises(PolicyError, match="did not answer in time 3 times"):
        policy.q_values(little)


@pytest.mark.usefixtures("quick")
def test_a_request_that_a_model_loops_on_is_refused_and_the_server_goes_on() -> None:
    def infer(value: float) -> httpx.Response:
        given = {"name": "observation", "shape": [1, 4], "datatype": "FP32", "data": [value] * 4}
        return server.post("/v2/models/dqn-CartPole-v1/versions/1/infer", json={"inputs": [given]})

    registry = MemoryRegistry(looping(ENDLESS, above=9.0), GOOD[0], champion="2")
    with serving(registry) as server:
        assert infer(0.0).status_code == 200
        for _ in range(2):  # on the event loop, then in a thread
            late = infer(10.0)
            assert (late.status_code, late.json()) == (503, {"error": "it did not answer within 0.25 s"})
        assert infer(0.0).status_code == 200
        stats = server.get("/v2/models/dqn-CartPole-v1/versions/1/stats").json()["model_stats"][0]["inference_stats"]
        assert (stats["success"]["count"], stats["fail"]["count"]) == (2, 2)


def hung(models: Models, number: str) -> str:
    models.source.aliases["champion"] = number  # type: ignore[attr-defined] # a registry in memory
    asyncio.run(models.poll())
    assert models.current
    return models.current.version.number


def test_a_trial_or_a_download_that_hangs_ends_neither_the_following_nor_the_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Registry(*GOOD)
    models = following(registry, tmp_path)
    asyncio.run(models.poll())
    released, load, fetch = threading.Event(), ServedModel.load, registry.fetch

    def hanging_load(name: str, version: Version, content: bytes, **options: Any) -> ServedModel:
        if version.number == "2":
            released.wait()
        return load(name, version, content, **options)

    def hanging_fetch(version: Version) -> bytes:
        if version.number == "3":
            released.wait()
        return fetch(version)

    monkeypatch.setattr(ServedModel, "load", hanging_load)
    monkeypatch.setattr("serving.models.loader._TRIAL_SECONDS", 0.1)
    assert hung(models, "2") == "1"
    assert models.notice == "version 2 was refused: loading and trying it took more than 0.1 s; version 1 plays on"
    assert models.failed_swaps == 1
    monkeypatch.setattr("serving.models.loader._TRIAL_SECONDS", 20.0)
    monkeypatch.setattr("serving.models.loader._FETCH_SECONDS", 0.1)
    registry.fetch = hanging_fetch  # type: ignore[method-assign]
    for _ in range(2):
        assert hung(models, "3") == "1"
        assert models.notice == "version 3 cannot be fetched (it was not there within 0.1 s); version 1 plays on"
    assert len(models.loader._fetching) == 1, "it is waited for again, and not begun anew"
    monkeypatch.setattr("serving.models.loader._FETCHES_AT_ONCE", 1)
    assert hung(models, "4") == "1"
    assert models.notice == (
        "version 4 cannot be fetched (1 versions are being fetched already: ask again); version 1 plays on"
    )
    monkeypatch.setattr("serving.models.loader._FETCHES_AT_ONCE", 8)
    with pytest.raises(RegistryUnavailableError, match="was not there"):
        asyncio.run(models.get("3"))
    monkeypatch.setattr("serving.models.loader._FETCH_SECONDS", 60.0)
    assert hung(models, "4") == "4"
    released.set()
    assert hung(models, "3") == "3"
    assert not models.loader._fetching


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_signal_ends_a_server_in_which_an_episode_hangs(number: signal.Signals, tmp_path: Path) -> None:
    properties = PROPERTIES | {"env_id": "tests.support.serving.hangs:Hanging-v0"}
    (tmp_path / "p.onnx").write_bytes(linear_model(BALANCES, properties=properties))
    arguments = ("--model", str(tmp_path / "p.onnx"), "--allow-env", "tests.support.serving.hangs:Hanging-v0")
    with running_server(tmp_path, *arguments) as server:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{server.url}/api/episodes", json={}, timeout=1)
        server.process.send_signal(number)
        assert server.process.wait(30) in (128 + number, -number)


def test_one_signal_ends_a_server_that_tries_a_model_without_end(tmp_path: Path) -> None:
    (tmp_path / "p.onnx").write_bytes(looping(ENDLESS))
    with running_server(tmp_path, "--model", str(tmp_path / "p.onnx"), ready=False) as server:
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(30) == 130
    assert "Traceback" not in server.log.read_text()
