"""`make stack`: the system of compose.yaml as plain processes on this machine, for development.

Prefect and MLflow servers, a worker and serving, on other ports than those of `make up`. All their data is in .stack/.
Ctrl-C stops all of them, and they end when this process ends, even if it is killed.
"""

import base64
import configparser
import fcntl
import os
import secrets
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from engine import StackError
from stack import check_free, parse_port
from tether import Tether, tether

from flows.cli.program import without_proxy

ROOT: Final = Path(__file__).resolve().parent.parent
STATE: Final = ROOT / ".stack"
DEFAULT_PORTS: Final = {"PREFECT_PORT": "4201", "MLFLOW_PORT": "5001", "SERVING_PORT": "8001"}
LOGIN: Final = "prefect.password"
MLFLOW_LOGIN: Final = "mlflow.password"
READER_LOGIN: Final = "mlflow-reader.password"
WORKER_LOGIN: Final = "mlflow-worker.password"
START_SECONDS: Final = 120
STOP_SECONDS: Final = 15


def main() -> int:
    """Start everything, wait for Ctrl-C or for a process to end, stop everything."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # `kill` stops everything too
    os.environ |= without_proxy(os.environ)
    try:
        with ExitStack() as stack:
            stack.enter_context(only_one(STATE))
            run(stack, stack.enter_context(tether()), *free_ports())
    except StackError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped")
    return 0


def run(stack: ExitStack, held: Tether, prefect_port: int, mlflow_port: int, serving_port: int) -> None:
    """Start the processes in the order of their dependencies, and wait until one of them ends."""
    prefect, mlflow, serving = (f"http://127.0.0.1:{port}" for port in (prefect_port, mlflow_port, serving_port))
    secret = secrets.token_hex(24)
    auth_string = f"prefect:{kept_key(STATE / LOGIN)}"
    common = {
        **os.environ,
        "PREFECT_HOME": str(STATE / "prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "1",
    }
    clients = {
        **common,
        "PREFECT_API_URL": f"{prefect}/api",
        "PREFECT_UI_URL": prefect,
        "PREFECT_API_AUTH_STRING": auth_string,
        "PREFECT_LOCAL_STORAGE_PATH": str(STATE / "results"),
        "PREFECT_LOGGING_EXTRA_LOGGERS": "flows",
        "PREFECT_LOGGING_LOG_PRINTS": "true",
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "MLFLOW_TRACKING_URI": mlflow,
        "SERVING_URL": serving,
    }
    admin, worker, reader = (
        {"MLFLOW_TRACKING_USERNAME": user, "MLFLOW_TRACKING_PASSWORD": kept_key(STATE / file)}
        for user, file in (("admin", MLFLOW_LOGIN), ("worker", WORKER_LOGIN), ("reader", READER_LOGIN))
    )
    prefect_server = {
        **common,
        "PREFECT_SERVER_API_AUTH_STRING": auth_string,
        "PREFECT_UI_URL": prefect,  # of links in notifications
        # Without this the pages look for the API on port 4200, and stay blank.
        "PREFECT_SERVER_UI_API_URL": f"{prefect}/api",
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": f"{prefect},{prefect.replace('127.0.0.1', 'localhost')}",
        # As in compose.yaml: leases survive a restart of the server, and clients that wait for one ask often.
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
        "PREFECT_SERVER_CONCURRENCY_MAXIMUM_CONCURRENCY_SLOT_WAIT_SECONDS": "5",
    }
    webhook = {"SERVING_WEBHOOK_URL": f"{serving}/api/webhooks/registry", "SERVING_WEBHOOK_SECRET": secret}

    def start(name: str, *arguments: str, env: Mapping[str, str]) -> subprocess.Popen[bytes]:
        started = stack.enter_context(process(name, arguments, env))
        held.hold(started.pid)
        return started

    processes = [
        start("prefect-server", "prefect", "server", "start", "--port", str(prefect_port), env=prefect_server),
        start("mlflow", *mlflow_command(STATE, mlflow_port), env={**common, **mlflow_environment(STATE)}),
    ]
    wait_for(f"{prefect}/api/ready", processes[0])
    wait_for(f"{mlflow}/health", processes[1])
    processes += [
        start("worker", "flows.worker", "--pool", "dqn", "--limit", "2", env={**clients, **worker}),
        start(
            "serving",
            *("serving", "--port", str(serving_port), "--cache-dir", str(STATE / "models"), "--mlflow-url", mlflow),
            env={**clients, **reader, **webhook},
        ),
    ]
    wait_for(f"{serving}/v2", processes[-1])
    deploying = {
        **clients,
        **admin,
        **webhook,
        "MLFLOW_READER_PASSWORD": reader["MLFLOW_TRACKING_PASSWORD"],
        "MLFLOW_WORKER_PASSWORD": worker["MLFLOW_TRACKING_PASSWORD"],
    }
    with (STATE / "deploy.log").open("wb") as log:
        deployed = subprocess.run((sys.executable, "docker/deploy.py"), cwd=ROOT, env=deploying, stdout=log, stderr=log)
    if deployed.returncode:
        raise StackError(f"deploying failed: {STATE / 'deploy.log'} says why")
    print(
        f"""
Prefect  {prefect}
MLflow   {mlflow}  (user admin, password in {STATE.relative_to(ROOT)}/{MLFLOW_LOGIN})
Serving  {serving}

export PREFECT_API_URL={prefect}/api
export PREFECT_API_AUTH_STRING="prefect:$(cat {STATE.relative_to(ROOT)}/{LOGIN})"  # its page asks for it too
.venv/bin/prefect deployment run train-dqn/cartpole --watch

Logs and data are in {STATE.relative_to(ROOT)}/. Ctrl-C stops everything.""",
        flush=True,
    )
    while all(each.poll() is None for each in processes):
        time.sleep(0.5)
    raise StackError("a process has ended, so the others were stopped: .stack/*.log say why")


def mlflow_command(state: Path, port: int) -> tuple[str, ...]:
    """The command of MLflow's server, with a login and all data in a directory."""
    return (
        *("mlflow", "server", "--app-name", "basic-auth", "--port", str(port), "--workers", "1"),
        *("--backend-store-uri", f"sqlite:///{state / 'mlflow.db'}"),
        *("--artifacts-destination", str(state / "artifacts")),
    )


def mlflow_environment(state: Path) -> dict[str, str]:
    """Variables of that server; also writes its configuration, that of compose.yaml with another database of users."""
    users = configparser.ConfigParser(interpolation=None)
    users.read(ROOT / "docker" / "mlflow.ini")
    users["mlflow"]["database_uri"] = f"sqlite:///{state / 'mlflow-users.db'}".replace("%", "%%")  # MLflow interpolates
    with (state / "mlflow.ini").open("w") as file:
        users.write(file)
    return {
        "MLFLOW_AUTH_CONFIG_PATH": str(state / "mlflow.ini"),
        "MLFLOW_AUTH_ADMIN_PASSWORD": kept_key(state / MLFLOW_LOGIN),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": kept_key(state / "mlflow-form.key"),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http",
        "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true",
        "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": kept_key(state / "webhook.key"),
    }


@contextmanager
def only_one(directory: Path) -> Iterator[None]:
    """Lock a directory: two stacks would write to the same databases, even on different ports.

    Raises:
        StackError: if another process has locked it.
    """
    directory.mkdir(exist_ok=True)
    with (directory / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the kernel releases it when this process ends
        except BlockingIOError as error:
            raise StackError(
                f"a stack runs already in {directory}: use it, or stop it with Ctrl-C where it was started"
            ) from error
        yield


@contextmanager
def process(name: str, arguments: tuple[str, ...], env: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run a Python module in a process group of its own, with its output in .stack/<name>.log."""
    print(f"starting {name}", flush=True)
    with (STATE / f"{name}.log").open("wb") as log:
        started = subprocess.Popen(
            (sys.executable, "-m", *arguments), cwd=ROOT, env=env, stdout=log, stderr=log, start_new_session=True
        )
    try:
        yield started
    finally:
        stop(started)


def stop(running: subprocess.Popen[bytes]) -> None:
    """End a process group by SIGTERM, then by SIGKILL."""
    for signum in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(running.pid, signum)
        except ProcessLookupError:
            break
        try:
            running.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            continue


def kept_key(path: Path) -> str:
    """A Fernet key, also used as a password, that is kept in a file.

    With another key MLflow could not read the webhooks in its database, and clients would have to log in again.
    """
    if not path.exists():
        path.touch(mode=0o600)
        path.write_text(base64.urlsafe_b64encode(secrets.token_bytes(32)).decode())
    return path.read_text()


def wait_for(url: str, running: subprocess.Popen[bytes]) -> None:
    """Wait until a server answers.

    Raises:
        StackError: if its process ends, or it takes too long.
    """
    patience = time.monotonic() + START_SECONDS
    while time.monotonic() < patience:
        if running.poll() is not None:
            break
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise StackError(f"{url} does not answer: the logs in {STATE.relative_to(ROOT)}/ say why")


def free_ports() -> tuple[int, int, int]:
    """Ports of Prefect, MLflow and serving, from the environment or by default.

    Raises:
        StackError: if one is not a port number, or is taken.
    """
    prefect, mlflow, serving = (parse_port(name, os.environ.get(name, port)) for name, port in DEFAULT_PORTS.items())
    for name, port in zip(DEFAULT_PORTS, (prefect, mlflow, serving), strict=True):
        check_free(port, name.removesuffix("_PORT").lower(), name)
    return prefect, mlflow, serving


if __name__ == "__main__":
    sys.exit(main())
