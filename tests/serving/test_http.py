import base64
import hashlib
import hmac
import os
import signal
import socket
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import open_inference.openapi.client as open_inference
import orjson
import pytest
import requests
import schemathesis
import tritonclient.http as triton
from hypothesis import HealthCheck, given, settings
from open_inference.openapi.core.api_error import ApiError
from open_inference.openapi.types import InferenceRequest
from schemathesis.checks import content_type_conformance, not_a_server_error, status_code_conformance
from tritonclient.utils import InferenceServerException
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from tests.policies import BALANCES, linear_model
from tests.serving.conftest import MODEL, RunningServer, running_server

pytestmark = pytest.mark.e2e
_MESSAGES = 1_000
"""In how many messages, of which there are 50 a second, an answer must have come: a busy machine lets many pile up."""
INFER = {"inputs": [{"name": "observation", "shape": [1, 4], "datatype": "FP32", "data": [0, 0, 0.1, 0]}]}


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
def test_tritonclient_works_unmodified(server: RunningServer, binary: bool, compression: str | None) -> None:
    with triton.InferenceServerClient(server.url.removeprefix("http://")) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready(MODEL)
        assert client.is_model_ready(MODEL, "1")
        assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
        assert client.get_model_metadata(MODEL)["inputs"][0]["shape"] == [-1, 4]
        assert client.get_model_config(MODEL, "1")["max_batch_size"] == 4096
        index = client.get_model_repository_index()
        assert index == [{"name": MODEL, "version": "1", "state": "READY", "reason": ""}]
        observation = triton.InferInput("observation", [300, 4], "FP32")
        rows = np.random.default_rng(0).normal(size=(300, 4)).astype(np.float32)
        observation.set_data_from_numpy(rows, binary_data=binary)
        outputs = [triton.InferRequestedOutput(name, binary_data=binary) for name in ("q_values", "action")]
        result = client.infer(
            MODEL,
            [observation],
            outputs=outputs,
            request_id="7",
            request_compression_algorithm=compression,
            response_compression_algorithm=compression,
        )
        assert result.get_response()["id"] == "7"
        np.testing.assert_array_equal(result.as_numpy("action"), result.as_numpy("q_values").argmax(axis=1))
        (statistics,) = client.get_inference_statistics(MODEL, "1")["model_stats"]
        assert statistics["inference_count"] >= 300
        with pytest.raises(InferenceServerException, match="there is no model 'nobody'"):
            client.get_model_metadata("nobody")
        with pytest.raises(InferenceServerException, match="there is nothing at"):
            client.get_system_shared_memory_status()


def test_open_inference_openapi_works_unmodified(server: RunningServer) -> None:
    client = open_inference.OpenInferenceClient(base_url=server.url, httpx_client=httpx.Client())
    client.check_server_liveness()
    client.check_server_readiness()
    client.check_model_readiness(MODEL)
    client.check_model_version_readiness(MODEL, "1")
    assert client.read_server_metadata().name == "dqn-pipeline"
    assert client.read_model_metadata(MODEL).versions == ["1"]
    tensor = {"name": "observation", "shape": [1, 4], "datatype": "FP32", "data": [0, 0, 0.1, 0]}
    response = client.model_infer(MODEL, request=InferenceRequest.parse_obj({"id": "x", "inputs": [tensor]}))
    assert (response.id, response.model_version) == ("x", "1")
    assert [output.name for output in response.outputs] == ["q_values", "action"]
    with pytest.raises(ApiError, match="there is no model 'nobody'"):
        client.read_model_metadata("nobody")
    client._client_wrapper.httpx_client.close()


@pytest.mark.parametrize("mode", list(schemathesis.GenerationMode))
def test_schemathesis_finds_no_server_error(server: RunningServer, mode: schemathesis.GenerationMode) -> None:
    document = server.get("/openapi.json").json()
    schema = schemathesis.openapi.from_dict(document)
    methods = [(path, name) for path, item in document["paths"].items() for name in item if name != "parameters"]
    operations = [schema[path][name] for path, name in methods]
    assert len(operations) == 28
    tried = 0
    checks: list[schemathesis.CheckFunction] = [
        not_a_server_error,
        status_code_conformance,
        content_type_conformance,
    ]
    with requests.Session() as session:
        for operation in operations:
            # any text is a good path: only a body can be wrong in kind
            if mode is schemathesis.GenerationMode.NEGATIVE and "requestBody" not in operation.definition.raw:
                continue

            @settings(max_examples=8, deadline=None, database=None, suppress_health_check=list(HealthCheck))
            @given(case=operation.as_strategy(generation_mode=mode))
            def check(case: schemathesis.Case[Any]) -> None:
                nonlocal tried
                tried += 1
                case.call_and_validate(server.url, session, checks=checks)

            check()
    assert tried >= 30


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", "/v2/models/nobody", 404),
        ("GET", f"/v2/models/{MODEL}/versions/9/ready", 404),
        ("GET", f"/v2/models/{MODEL}/versions/..%2f..%2fetc", 404),
        ("GET", f"/v2/models/{MODEL}/infer", 405),
        ("POST", f"/v2/models/{MODEL}/infer", 400),
        ("GET", "/api/episodes/none.gif", 404),
        ("GET", "/static/..%2fapp.py", 404),
        ("GET", "/api/live.mjpeg?seed=x", 400),
        ("GET", "/api/live.mjpeg?path=x", 400),
        ("POST", "/api/webhooks/registry", 404),
    ],
)
def test_every_refusal_is_json(server: RunningServer, method: str, path: str, status: int) -> None:
    response = httpx.request(method, server.url + path, timeout=60)
    assert response.status_code == status
    assert set(response.json()) == {"error"}


def test_a_body_over_one_mebibyte_is_refused_even_in_chunks(server: RunningServer) -> None:
    path = f"/v2/models/{MODEL}/infer"
    assert server.post(path, content=b"x" * (2 << 20)).status_code == 413
    assert server.post(path, content=(b"x" * 65536 for _ in range(40))).status_code == 413


def test_other_hosts_and_origins_are_refused(server: RunningServer) -> None:
    assert server.get("/api/status", headers={"Host": "evil.example"}).status_code == 421
    evil = {"Origin": "http://evil.example"}
    assert server.post("/api/episodes", json={}, headers=evil).status_code == 403
    with (
        pytest.raises(InvalidStatus),
        connect(server.url.replace("http", "ws") + "/api/show", additional_headers=evil),
    ):
        pass


def test_every_answer_carries_the_usual_headers(server: RunningServer) -> None:
    page = server.get("/")
    assert "script-src 'self'" in page.headers["content-security-policy"]
    for response in (page, server.get("/nothing")):
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["x-frame-options"] == "DENY"


def test_the_same_episode_is_the_same_replay(server: RunningServer) -> None:
    request = {"seed": 4, "pushes": [{"step": 20, "force": 150}], "world": {"gravity": 11}}
    first, second = (server.post("/api/episodes", json=request) for _ in range(2))
    assert first.status_code == 201
    assert first.json() == second.json()
    files = first.json()["files"]
    assert server.get(files["json"]).json()["pushes"] == request["pushes"]
    kinds = {kind: server.get(path).headers["content-type"] for kind, path in files.items()}
    assert kinds["gif"] == "image/gif"
    assert kinds["mp4"] == "video/mp4"
    assert "script-src 'sha256-" in server.get(files["html"]).headers["content-security-policy"]
    refused: list[object] = [{"seed": -1}, {"speed": 2}, {"pushes": [1]}, [], {"version": 1.5}]
    for wrong in refused:
        assert server.post("/api/episodes", json=wrong).status_code == 400
    assert server.post("/api/episodes", json={"version": "nine"}).status_code == 404


def test_the_show_streams_states_and_takes_commands(server: RunningServer) -> None:
    with connect(server.url.replace("http", "ws") + "/api/show") as viewer:
        viewer.send(orjson.dumps({"do": "reset", "seed": 11}).decode())
        assert any(orjson.loads(viewer.recv(30)).get("seed") == 11 for _ in range(_MESSAGES))
        frame = next(message for _ in range(_MESSAGES) if "k" in (message := orjson.loads(viewer.recv(30))))
        assert len(frame["s"][0]) == 4
        for wrong in (
            "nonsense",
            '{"do": "dance"}',
            '{"do": "push", "force": 1e9}',
            '{"do": "speed", "speed": 3}',
            "7",
        ):
            viewer.send(wrong)
            assert any(orjson.loads(viewer.recv(30)).get("type") == "error" for _ in range(_MESSAGES)), wrong
    with connect(server.url.replace("http", "ws") + "/api/show?versions=1,nine") as viewer:
        assert "no version or alias 'nine'" in orjson.loads(viewer.recv(30))["error"]


def test_an_episode_is_kept_as_it_was_seen(server: RunningServer) -> None:
    """Pushes and changes of the world made live, in the middle of an episode, lead a replay to the same state."""
    with connect(server.url.replace("http", "ws") + "/api/show") as viewer:

        def until(wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
            for _ in range(_MESSAGES):
                message: dict[str, Any] = orjson.loads(viewer.recv(30))
                if wanted(message):
                    return message
            raise AssertionError("it did not come")

        episode = until(lambda message: "episode" in message)["episode"]
        viewer.send('{"do": "reset", "seed": 12}')
        until(lambda message: message.get("e", 0) > episode and message["k"] > 5)
        server.put("/api/world", json={"gravity": 14, "length": 0.9})
        until(lambda message: len(message.get("changes", [])) == 1)
        viewer.send('{"do": "push", "force": 60}')
        until(lambda message: message.get("p") == 60)
        server.put("/api/world", json={"masspole": 0.3})
        viewer.send('{"do": "pause"}')
        status = until(lambda message: bool(message.get("paused")))
        viewer.send('{"do": "step"}')
        frame = until(lambda message: "k" in message)
        server.put("/api/world", json={})
        viewer.send('{"do": "resume"}')
    assert (len(status["pushes"]), len(status["changes"])) == (1, 2)
    request = {name: status[name] for name in ("seed", "pushes", "changes")} | {"world": status["initial_world"]}
    files = server.post("/api/episodes", json=request).json()["files"]
    observations = server.get(files["json"]).json()["observations"]
    assert observations[frame["k"]] == pytest.approx(frame["s"][0], abs=1e-4)


def test_pixels_come_as_a_picture_and_as_a_stream(server: RunningServer) -> None:
    assert server.get("/api/frame.png").content[:8] == b"\x89PNG\r\n\x1a\n"
    for path in ("/api/live.mjpeg", "/api/live.mjpeg?seed=3"):
        with httpx.stream("GET", server.url + path, timeout=60) as stream:
            received = b""
            for chunk in stream.iter_raw():
                received += chunk
                if received.count(b"Content-Type: image/jpeg") >= 5:
                    break
    assert 'serving_viewers{kind="pixels"}' in server.get("/metrics").text


def test_a_token_guards_what_changes_things_and_a_secret_the_webhook(tmp_path: Path) -> None:
    (tmp_path / "p.onnx").write_bytes(linear_model(BALANCES))
    options = ("--model", str(tmp_path / "p.onnx"), "--token", "s3cret")
    with running_server(tmp_path, *options, SERVING_WEBHOOK_SECRET="hush") as server:
        assert server.post("/api/episodes", json={}).status_code == 401
        bearer = {"Authorization": "Bearer s3cret"}
        assert server.post("/api/episodes", json={}, headers=bearer).status_code == 201
        assert server.post("/v2/models/p/infer", json=INFER).status_code == 200
        with connect(server.url.replace("http", "ws") + "/api/show") as viewer:
            viewer.send('{"do": "pause"}')
            assert any("token" in orjson.loads(viewer.recv(30)).get("error", "") for _ in range(_MESSAGES))
            viewer.send('{"do": "authorize", "token": "s3cret"}')
            viewer.send('{"do": "pause"}')
            assert any(orjson.loads(viewer.recv(30)).get("paused") for _ in range(_MESSAGES))

        delivery, stamp, payload = str(uuid.uuid4()), str(int(time.time())), b'{"entity": "model_version_alias"}'
        digest = hmac.new(b"hush", f"{delivery}.{stamp}.".encode() + payload, hashlib.sha256).digest()
        headers = {
            "X-MLflow-Delivery-Id": delivery,
            "X-MLflow-Timestamp": stamp,
            "X-MLflow-Signature": "v1," + base64.b64encode(digest).decode(),
        }
        path = "/api/webhooks/registry"
        assert server.post(path, content=payload + b" ", headers=headers).status_code == 401
        assert server.post(path, content=payload, headers=headers | {"X-MLflow-Timestamp": "1"}).status_code == 401
        assert server.post(path, content=payload, headers=headers).status_code == 202
        assert server.post(path, content=payload, headers=headers).status_code == 409


def test_sigterm_drains_with_streams_open(tmp_path: Path) -> None:
    (tmp_path / "p.onnx").write_bytes(linear_model(BALANCES))
    with running_server(tmp_path, "--model", str(tmp_path / "p.onnx")) as server:
        address = ("127.0.0.1", int(server.url.rsplit(":", 1)[1]))
        streams = [socket.create_connection(address) for _ in range(3)]
        for stream, path in zip(streams, ("/api/live.mjpeg", "/api/live.mjpeg?seed=1", "/metrics"), strict=True):
            stream.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            assert stream.recv(64).startswith(b"HTTP/1.1 200")
        with connect(server.url.replace("http", "ws") + "/api/show") as viewer:
            viewer.recv(30)
            os.kill(server.process.pid, signal.SIGTERM)
            server.process.wait(30)  # how long it takes is measured in benchmarks/serving.py
        for stream in streams:
            stream.close()
    log = server.log.read_text()
    assert "Finished server process" in log, "it was killed, it did not drain"
    assert "Traceback" not in log
