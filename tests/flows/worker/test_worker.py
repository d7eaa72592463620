import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import FlowRun, State
from prefect.exceptions import ObjectAlreadyExists
from prefect.states import Cancelling

from flows.worker import preloaded
from flows.worker.__main__ import worker_type
from flows.worker.preloaded import PreloadError

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is no fork server on Windows")
ROOT = Path(__file__).parents[3]
POOL = "preloaded"
FLOWS = """
import json, os, signal, sys, time
from pathlib import Path

WAS_IMPORTED = [name for name in ("torch", "mlflow", "onnx", "flows.adapt") if name in sys.modules]

from prefect import flow
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY
from prefect.states import Completed

@flow(name="told")
def tell(path: str):
    found = {
        "imported": WAS_IMPORTED,
        "directory": os.getcwd(),
        "word": os.environ.get("WORD"),
        "heartbeat": PREFECT_FLOWS_HEARTBEAT_FREQUENCY.value(),
        "pid": os.getpid(),
        "group": os.getpgid(0),
        "name": Path("/proc/self/comm").read_text().strip() if sys.platform == "linux" else "prefect.engine",
    }
    Path(path).write_text(json.dumps(found))

@flow(name="killed")
def be_killed(path: str):
    os.kill(os.getpid(), signal.SIGKILL)

@flow(name="stopped")
def wait(path: str):
    Path(path).with_suffix(".part").write_text(json.dumps({"pid": os.getpid()}))
    Path(path).with_suffix(".part").rename(path)
    time.sleep(300)
"""


@pytest.fixture(scope="module")
def worker(prefect_api: str) -> Iterator["subprocess.Popen[bytes]"]:
    """A worker, in a process group of its own."""
    environment = os.environ | {"PREFECT_API_URL": prefect_api, "PREFECT_WORKER_QUERY_SECONDS": "1"}
    with subprocess.Popen(
        (sys.executable, "-m", "flows.worker", "--pool", POOL), cwd=ROOT, env=environment, start_new_session=True
    ) as process:
        yield process
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture
def scheduled(worker: "subprocess.Popen[bytes]", tmp_path: Path) -> Callable[..., FlowRun]:
    """Schedules a run of one of the flows above, which leaves a file."""
    (tmp_path / "told.py").write_text(FLOWS)

    def schedule(function: str, **job_variables: Any) -> FlowRun:
        with get_client(sync_client=True) as client:
            with contextlib.suppress(ObjectAlreadyExists):
                client.create_work_pool(WorkPoolCreate(name=POOL, type="process"))
            deployment = client.create_deployment(
                client.create_flow_from_name(function),
                f"{function}-{tmp_path.name}",
                entrypoint=f"told.py:{function}",
                work_pool_name=POOL,
                pull_steps=[{"prefect.deployments.steps.set_working_directory": {"directory": str(tmp_path)}}],
                parameter_openapi_schema={},
            )
            return client.create_flow_run_from_deployment(
                deployment, parameters={"path": str(tmp_path / "told.json")}, job_variables=job_variables
            )

    return schedule


def read(flow_run_id: UUID) -> FlowRun:
    with get_client(sync_client=True) as client:
        return client.read_flow_run(flow_run_id)


def within(seconds: float, condition: Callable[[], bool]) -> None:
    patience = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < patience, f"not within {seconds:.0f} s"
        time.sleep(0.1)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return not Path(f"/proc/{pid}/stat").exists() or ") Z " not in Path(f"/proc/{pid}/stat").read_text()


def finished(run: FlowRun) -> State[Any]:
    """Wait for a run's end."""
    within(180, lambda: bool((state := read(run.id).state) and state.is_final()))
    state = read(run.id).state
    assert state is not None
    return state


def test_a_run_finds_everything_imported_in_a_process_of_its_own(
    scheduled: Callable[..., FlowRun], tmp_path: Path
) -> None:
    run = scheduled("tell", env={"WORD": "said", "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "47"})
    assert finished(run).is_completed()
    told = json.loads((tmp_path / "told.json").read_text())
    assert told["imported"] == ["torch", "mlflow", "onnx", "flows.adapt"]
    assert told["directory"] == str(tmp_path)
    assert (told["word"], told["heartbeat"]) == ("said", 47)
    assert told["pid"] == told["group"]
    assert told["name"] == "prefect.engine"
    within(60, lambda: not is_alive(told["pid"]))


def test_a_run_that_is_killed_has_crashed(scheduled: Callable[..., FlowRun]) -> None:
    state = finished(scheduled("be_killed"))
    assert state.is_crashed()
    assert "status code: -9" in (state.message or "")


def test_a_run_that_is_cancelled_ends(scheduled: Callable[..., FlowRun], tmp_path: Path) -> None:
    run = scheduled("wait")
    within(180, (tmp_path / "told.json").exists)
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(run.id, Cancelling())
    assert finished(run).is_cancelled()
    pid = json.loads((tmp_path / "told.json").read_text())["pid"]
    within(60, lambda: not is_alive(pid))


def test_a_command_of_its_own_is_run_instead(scheduled: Callable[..., FlowRun], tmp_path: Path) -> None:
    state = finished(scheduled("tell", command="sh -c 'exit 3'"))
    assert "status code: 3" in (state.message or "")
    assert not (tmp_path / "told.json").exists()


@pytest.mark.parametrize("version", ["3.8.7", "3.8.9", "3.9.0"])
def test_another_version_of_prefect_gets_its_own_worker(
    version: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert worker_type() == preloaded.TYPE
    monkeypatch.setattr("prefect.__version__", version)
    monkeypatch.setitem(sys.modules, "flows.worker.preloaded", None)  # it is not even imported
    assert worker_type() == "process"
    assert f"Prefect is {version}, and flow runs are forked with 3.8.8 alone" in capsys.readouterr().err


def test_what_cannot_be_imported_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preloaded, "IMPORTS", "flows.nothing")
    with pytest.raises(PreloadError, match=r"flows\.nothing cannot be imported \(exit code 1\)"):
        preloaded.preload()


def test_runs_end_with_the_group_of_their_worker(
    worker: "subprocess.Popen[bytes]", scheduled: Callable[..., FlowRun], tmp_path: Path
) -> None:
    scheduled("wait")
    within(180, (tmp_path / "told.json").exists)
    pid = json.loads((tmp_path / "told.json").read_text())["pid"]
    os.killpg(worker.pid, signal.SIGTERM)
    assert worker.wait(120) is not None
    within(60, lambda: not is_alive(pid))
