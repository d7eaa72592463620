"""Serving and `mlflow models serve`, started for a benchmark: a registry for both, their memory and their CPU."""

import base64
import hashlib
import hmac
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mlflow
import numpy as np
import onnx
import orjson

from tests.support.serving.policies import BALANCES, linear_model

MODEL = "dqn-CartPole-v1"
SECRET = "benchmark"  # noqa: S105 -- of a server that lives for a minute


def register(folder: Path) -> None:
    """A registry with two versions that differ in their bias."""
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder / 'mlflow.db'}"
    client = mlflow.MlflowClient()
    experiment = client.create_experiment("benchmark", artifact_location=str(folder / "artifacts"))
    client.create_registered_model(MODEL)
    for number in (1, 2):
        model = onnx.load_from_string(linear_model(BALANCES, bias=100 * number))
        with mlflow.start_run(experiment_id=experiment):
            info = mlflow.onnx.log_model(
                model,
                name="policy",
                save_as_external_data=False,
                pip_requirements=["onnxruntime"],
                onnx_execution_providers=["CPUExecutionProvider"],
                signature=mlflow.models.infer_signature({"observation": np.zeros((1, 4), np.float32)}),
            )
        client.create_model_version(MODEL, info.model_uri, info.run_id)
    client.set_registered_model_alias(MODEL, "champion", "1")


@contextmanager
def serving(folder: Path) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    """Our server, ready: its port and its process."""
    environment = os.environ | {"SERVING_WEBHOOK_SECRET": SECRET}
    python = os.environ.get("SERVING_PYTHON", sys.executable)
    command = [python, "-m", "serving", "--port", "0", "--cache-dir", str(folder / "cache")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment)
    assert process.stdout
    try:
        port = int(process.stdout.readline().split()[0].rsplit(":", 1)[1])
        wait_for(f"http://127.0.0.1:{port}/v2/health/ready")
        yield port, process
    finally:
        process.terminate()
        process.wait(10)
        process.stdout.close()


@contextmanager
def mlflow_serving(folder: Path) -> Iterator[tuple[int, int]]:
    """The peer with one worker: its port and the worker's process id."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    mlflow_command = str(Path(sys.executable).parent / "mlflow")
    command = [mlflow_command, "models", "serve", "-m", f"models:/{MODEL}/1", "--env-manager", "local"]
    command += ["-h", "127.0.0.1", "-p", str(port), "-w", "1"]
    began = time.perf_counter()
    with (folder / "peer.log").open("w") as log:
        process = subprocess.Popen(
            command,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env=os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        )
        try:
            wait_for(f"http://127.0.0.1:{port}/ping")
            print(f"mlflow models serve: start to ready {time.perf_counter() - began:.1f} s")
            yield port, process.pid
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(20)


def wait_for(url: str) -> None:
    deadline = time.monotonic() + 90
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5):  # noqa: S310 -- loopback
                return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def refresh(port: int) -> None:
    """What MLflow's webhook does."""
    delivery, stamp = str(uuid.uuid4()), str(int(time.time()))
    digest = hmac.new(SECRET.encode(), f"{delivery}.{stamp}.{{}}".encode(), hashlib.sha256).digest()
    headers = {
        "X-MLflow-Delivery-Id": delivery,
        "X-MLflow-Timestamp": stamp,
        "X-MLflow-Signature": "v1," + base64.b64encode(digest).decode(),
    }
    url = f"http://127.0.0.1:{port}/api/webhooks/registry"
    with urllib.request.urlopen(urllib.request.Request(url, b"{}", headers), timeout=5):
        return


def current(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/status", timeout=5) as answer:
        return str(orjson.loads(answer.read())["current"]["version"])


def family(pid: int) -> list[int]:
    """A process and its children, which `mlflow models serve` does its work in."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(member for child in children for member in family(int(child)))]


def resident(pid: int) -> float:
    """Megabytes of resident memory, of the largest process of a family."""
    sizes = []
    for member in family(pid):
        fields = dict(line.split(":", 1) for line in Path(f"/proc/{member}/status").read_text().splitlines())
        sizes.append(int(fields["VmRSS"].split()[0]) / 1024)
    return max(sizes)


def cpu_seconds(pid: int) -> float:
    """Seconds of CPU a family has spent."""
    ticks = 0
    for member in family(pid):
        fields = Path(f"/proc/{member}/stat").read_text().rsplit(")", 1)[1].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")
