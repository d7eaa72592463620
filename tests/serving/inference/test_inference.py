"""The Open Inference Protocol's endpoints, in process."""

import asyncio
import threading
from types import SimpleNamespace

import httpx
import msgspec
import numpy as np
import numpy.typing as npt
import orjson
import pytest
from starlette.testclient import TestClient

from dqn.environments.masks import Mask
from serving.application import App
from serving.models.follower import Models
from serving.policy import FloatArray, OnnxPolicy
from tests.support.serving.clients import infer
from tests.support.serving.faulty import BAD, GOOD, Registry

INFER = "/v2/models/dqn/infer"


@pytest.fixture
def models() -> Models:
    """Versions 1, the champion, 2, 3, which is refused, and 10."""
    registry = Registry(GOOD[0], GOOD[1], BAD["garbage"])
    registry.add("10", GOOD[2])
    models = Models(registry, alias="champion", version=None)
    asyncio.run(models.poll())
    return models


@pytest.fixture
def client(models: Models) -> TestClient:
    return TestClient(App(models, show=False).asgi, base_url="http://localhost")


@pytest.mark.parametrize("rows", [1, 4096])
@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("accepted", ["", "gzip"])
def test_an_answer_has_the_headers_of_its_format_and_compression(
    client: TestClient, rows: int, binary: bool, accepted: str
) -> None:
    request = infer(rows) | {"parameters": {"binary_data_output": binary}}
    answer = client.post(INFER, json=request, headers={"Accept-Encoding": accepted})
    assert answer.status_code == 200
    headers = dict(answer.headers)
    length = int(headers.pop("inference-header-content-length", len(answer.content)))
    assert headers.pop("vary") == "accept-encoding"
    assert headers.pop("content-type") == ("application/octet-stream" if binary else "application/json")
    packed = headers.pop("content-encoding", "")
    assert packed == (accepted if rows > 1 else "")
    assert (int(headers.pop("content-length")) < len(answer.content)) is bool(packed)
    said = orjson.loads(answer.content[:length])
    assert [output["shape"] for output in said["outputs"]] == [[rows, 2], [rows]]
    assert len(answer.content) - length == (16 * rows if binary else 0)


def test_short_requests_are_computed_at_once_and_longer_ones_wait_if_there_is_room(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.inference.routes._WAITING_LIMIT", 0)
    body = orjson.dumps(infer(1))
    assert client.post(INFER, content=body.ljust(16_384)).status_code == 200
    answer = client.post(INFER, content=body.ljust(16_385))
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert answer.json() == {"error": "0 large requests wait already: ask again in a second"}


def test_large_requests_are_computed_one_by_one_and_at_most_32_wait(
    models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.inference.routes._INLINE_BYTES", 0)
    q_values, released, computing = OnnxPolicy.q_values, threading.Event(), threading.Lock()

    def slow(policy: OnnxPolicy, observation: npt.NDArray[np.floating], mask: Mask | None) -> FloatArray:
        assert released.wait(60)
        assert computing.acquire(blocking=False), "two at once"
        try:
            return q_values(policy, observation, mask)
        finally:
            computing.release()

    monkeypatch.setattr(OnnxPolicy, "q_values", slow)

    async def story() -> None:
        transport = httpx.ASGITransport(App(models, show=False).asgi)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            for _ in range(2):  # a client that left frees its place
                asking = [asyncio.create_task(client.post(INFER, json=infer(1))) for _ in range(33)]
                done, _ = await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)
                (refused,) = done
                assert refused.result().json()["error"].startswith("32 large requests wait already")
                released.set()
                statuses = [answer.status_code for answer in await asyncio.gather(*asking)]
                assert sorted(statuses) == [200] * 32 + [503]
                released.clear()

    asyncio.run(story())


def test_statistics_tell_apart_the_parts_of_a_request(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([1_000, 1_002, 1_006, 1_014, 1_030, 2_000, 2_003, 2_010])
    monkeypatch.setattr("serving.inference.routes.time", SimpleNamespace(perf_counter_ns=lambda: next(times)))
    assert client.post(INFER, json=infer(3)).status_code == 200
    assert client.post(INFER, json={}).status_code == 400
    (statistics,) = client.get("/v2/models/dqn/versions/1/stats").json()["model_stats"]
    assert statistics.pop("last_inference") > 0
    assert statistics == {
        "name": "dqn",
        "version": "1",
        "inference_count": 3,
        "execution_count": 1,
        "inference_stats": {
            "success": {"count": 1, "ns": 30},
            "fail": {"count": 1, "ns": 10},
            "queue": {"count": 1, "ns": 2},
            "compute_input": {"count": 1, "ns": 4},
            "compute_infer": {"count": 1, "ns": 8},
            "compute_output": {"count": 1, "ns": 16},
        },
        "batch_stats": [],
    }


def test_statistics_are_of_a_version_or_of_all_that_were_asked(client: TestClient) -> None:
    for number in ("10", "2"):
        assert client.post(f"/v2/models/dqn/versions/{number}/infer", json=infer(1)).json()["model_version"] == number

    def versions(path: str) -> list[str]:
        return [each["version"] for each in client.get(path).json()["model_stats"]]

    assert versions("/v2/models/stats") == versions("/v2/models/dqn/stats") == ["2", "10"]
    assert versions("/v2/models/dqn/versions/champion/stats") == ["1"]


def test_the_index_lists_versions_by_number_and_loads_none(client: TestClient) -> None:
    def index(**wanted: bool) -> list[tuple[str, ...]]:
        return [tuple(each.values()) for each in client.post("/v2/repository/index", json=wanted).json()]

    waiting = ("UNAVAILABLE", "loaded when it is first called")
    ready = ("dqn", "1", "READY", "")
    assert index() == [ready, ("dqn", "2", *waiting), ("dqn", "3", *waiting), ("dqn", "10", *waiting)]
    assert index(ready=True) == [ready]
    assert client.get("/v2/models/dqn/versions/10/ready").status_code == 200
    assert index(ready=True) == [ready, ("dqn", "10", "READY", "")]
    assert client.post("/v2/repository/index", json={"ready": 1}).status_code == 400
    assert client.post("/v2/repository/index", json={"all": True}).status_code == 200, (
        "a field of an extension is ignored"
    )


def test_the_server_and_its_model_are_described(client: TestClient) -> None:
    extensions = ["binary_tensor_data", "statistics", "model_configuration"]
    server = {"name": "dqn-pipeline", "version": "0.1.0", "extensions": extensions}
    assert client.get("/v2").json() == client.get("/v2/").json() == server
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}
    assert client.get("/v2/models/dqn").json()["versions"] == ["1", "2", "3", "10"]
    assert client.get("/v2/models/dqn/versions/2").json()["name"] == "dqn"
    assert client.get("/v2/models/dqn/config").json()["max_batch_size"] == 4096
    assert client.get("/v2/models/dqn/ready").json() == {"name": "dqn", "version": "1", "ready": True}
    assert client.get("/v2/models/dqn/versions/2/ready").json() == {"name": "dqn", "version": "2", "ready": True}


@pytest.mark.parametrize("what", ["", "/ready", "/config", "/stats"])
@pytest.mark.parametrize(
    ("path", "status", "sentence"),
    [
        ("/v2/models/unknown", 404, "there is no model 'unknown'; this server has 'dqn'"),
        (f"/v2/models/{'x' * 81}", 404, f"there is no model '{'x' * 80}'; this server has 'dqn'"),
        ("/v2/models/unknown/versions/1", 404, "there is no model 'unknown'; this server has 'dqn'"),
        ("/v2/models/dqn/versions/9", 404, "model dqn has no version or alias '9' but 1 @champion, 2, 3, 10"),
        ("/v2/models/dqn/versions/3", 503, "not a loadable ONNX model"),
    ],
)
def test_an_unknown_model_or_version_is_not_found(
    client: TestClient, what: str, path: str, status: int, sentence: str
) -> None:
    answer = client.get(path + what)
    assert answer.status_code == status
    assert answer.json()["error"].startswith(sentence)


def test_a_server_that_waits_for_its_model_lives_and_is_not_ready() -> None:
    client = TestClient(App(Models(Registry(), alias="champion", version=None), show=False).asgi)
    client.base_url = httpx.URL("http://localhost")
    assert client.get("/v2/health/live").status_code == 200
    refused = [client.get(path) for path in ("/v2/health/ready", "/v2/models/dqn", "/v2/models/dqn/ready")]
    refused.append(client.post(INFER, json=infer(1)))
    for answer in refused:
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert answer.json() == {"error": "not ready: looking for a model"}
    assert client.get("/v2/models/stats").json() == {"model_stats": []}


def test_openapi_states_every_status(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    stated = {
        (method, path.removeprefix("/v2")): sorted(map(int, operation["responses"]))
        for path, item in paths.items()
        if path.startswith("/v2")
        for method, operation in item.items()
        if method != "parameters"
    }
    of_model: dict[tuple[str, str], list[int]] = {}
    for model in ("/models/{model}", "/models/{model}/versions/{version}"):
        of_model["post", f"{model}/infer"] = [200, 400, 404, 408, 413, 415, 503]
        of_model |= {("get", f"{model}{what}"): [200, 404, 503] for what in ("", "/ready", "/config", "/stats")}
    assert stated == of_model | {
        ("get", ""): [200],
        ("get", "/"): [200],
        ("get", "/health/live"): [200],
        ("get", "/health/ready"): [200, 503],
        ("get", "/models/stats"): [200],
        ("post", "/repository/index"): [200, 400, 408, 413, 415],
    }


def test_the_length_of_the_json_comes_in_a_header(client: TestClient) -> None:
    tensor = {"name": "observation", "shape": [1, 4], "datatype": "FP32", "parameters": {"binary_data_size": 16}}
    header = msgspec.json.encode({"inputs": [tensor]})
    answer = client.post(
        INFER,
        content=header + np.zeros(4, "<f4").tobytes(),
        headers={"Inference-Header-Content-Length": str(len(header))},
    )
    assert answer.json()["outputs"][0]["data"] == [0, 0]
    answer = client.post(INFER, json=infer(1), headers={"Inference-Header-Content-Length": "x"})
    assert answer.json()["error"] == "Inference-Header-Content-Length must be a whole number, got 'x'"
