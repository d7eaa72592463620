import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import orjson
import pytest

from tests.serving.conftest import MODEL, LocalRegistry, RunningServer, running_server, until_ready
from tests.support.serving.inprocess import serving

pytestmark = pytest.mark.slow
INFER = {"inputs": [{"name": "observation", "shape": [1, 4], "datatype": "FP32", "data": [0, 0, 0.1, 0]}]}


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, int]]:
    """A server that waits a third of a second for a body, where the real one waits ten."""
    monkeypatch.setattr("serving.web.bodies.BODY_SECONDS", 0.3)
    with serving() as running:
        yield "127.0.0.1", int(running.url.rsplit(":", 1)[1])


@pytest.mark.parametrize("path", [f"/v2/models/{MODEL}/infer", f"/v2/models/{MODEL}/versions/1/infer", "/api/episodes"])
@pytest.mark.parametrize("framing", ["Content-Length: 999", "Transfer-Encoding: chunked"])
def test_a_body_that_never_ends_is_a_timeout(impatient: tuple[str, int], path: str, framing: str) -> None:
    with socket.create_connection(impatient, timeout=60) as client:
        client.sendall(f"POST {path} HTTP/1.1\r\nHost: localhost\r\n{framing}\r\n\r\n".encode())
        answer = b""
        while received := client.recv(4096):  # until the server closes: the rest must not be taken for a request
            answer += received
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408 ")
    assert b"\r\nconnection: close" in head
    assert "did not end within 0.3 seconds" in orjson.loads(body)["error"]


@contextmanager
def mlflow_server(store: str, port: int) -> Iterator[None]:
    """A real tracking server, which takes seconds to answer; killed at the end."""
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store, "--port", str(port)]
    process = subprocess.Popen(
        [*command, "--workers", "1"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        start_new_session=True,
    )
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)


def until(server: RunningServer, *, reachable: bool, notice: str) -> None:
    """Wait for the registry to be found there or not, and for what the page says about it."""
    deadline = time.monotonic() + 300  # MLflow takes seconds of CPU to start, which others may be using
    while True:
        status = server.get("/api/status").json()
        if status["registry_reachable"] is reachable and notice in status["notice"]:
            return
        assert time.monotonic() < deadline, status
        time.sleep(0.1)


def test_the_last_good_copy_plays_on_without_a_registry_and_at_start(
    registry_store: LocalRegistry, tmp_path: Path, unused_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    infer = f"/v2/models/{MODEL}/infer"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{unused_port}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with running_server(tmp_path, ready=False) as server:
        until(server, reachable=False, notice="nothing to play until it answers")
        with mlflow_server(registry_store.uri, unused_port):
            until(server, reachable=True, notice="")
            until_ready(server)
            assert server.post(infer, json=INFER).json()["model_version"] == "1"
        until(server, reachable=False, notice="the last good copy plays on")
        assert server.post(infer, json=INFER).json()["model_version"] == "1"
    with running_server(tmp_path) as server:
        assert server.post(infer, json=INFER).json()["model_version"] == "1"
        until(server, reachable=False, notice="the last good copy plays on")
        assert server.get("/v2/health/ready").status_code == 200


@pytest.fixture
def unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
