"""Foreign clients, unmodified, over real sockets; and a process that is told to end."""

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import open_inference.openapi.client as open_inference
import pytest
import requests
import schemathesis
import tritonclient.http as triton
from hypothesis import HealthCheck, given, settings
from open_inference.openapi.core.api_error import ApiError
from open_inference.openapi.types import InferenceRequest
from schemathesis.checks import content_type_conformance, not_a_server_error, status_code_conformance
from tritonclient.utils import InferenceServerException
from websockets.sync.client import connect

from tests.serving.conftest import running_server
from tests.support.serving.inprocess import MODEL, MemoryRegistry, Serving, serving
from tests.support.serving.policies import BALANCES, linear_model

pytestmark = pytest.mark.slow


@pytest.fixture
def server() -> Iterator[Serving]:
    with serving(MemoryRegistry(linear_model(BALANCES, bias=95), champion="1")) as running:
        yield running


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
def test_tritonclient_works_unmodified(server: Serving, binary: bool, compression: str | None) -> None:
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
        with pytest.raises(InferenceServerException, match="there is no model 'unknown'"):
            client.get_model_metadata("unknown")
        with pytest.raises(InferenceServerException, match="there is nothing at"):
            client.get_system_shared_memory_status()


def test_open_inference_openapi_works_unmodified(server: Serving) -> None:
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
    with pytest.raises(ApiError, match="there is no model 'unknown'"):
        client.read_model_metadata("unknown")
    client._client_wrapper.httpx_client.close()


@pytest.mark.parametrize("mode", list(schemathesis.GenerationMode))
def test_schemathesis_finds_no_server_error(server: Serving, mode: schemathesis.GenerationMode) -> None:
    document = server.get("/openapi.json").json()
    schema = schemathesis.openapi.from_dict(document)
    methods = [(path, name) for path, item in document["paths"].items() for name in item if name != "parameters"]
    operations = [schema[path][name] for path, name in methods]
    assert len(operations) == 33
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
