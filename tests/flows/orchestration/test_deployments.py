"""A verb that starts a run of a deployment: which, what it shows of it, and how it ends."""

import datetime
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import httpx
import pytest
from prefect.client.schemas.objects import State, StateType
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelled, Completed, Crashed, Failed, Pending, Running, Scheduled

from flows.failures.errors import InputError, PrefectError
from flows.orchestration import deployments, place
from flows.orchestration.deployments import FlowRunError, run_deployment

RUN = UUID(int=7)


class Server:
    """Prefect's API with one deployment, whose run goes through these states and writes a line in each."""

    def __init__(self, *states: Any) -> None:
        self.states = list(states)
        self.lines: list[str] = []
        self.asked: list[Any] = []
        self.late: list[str] = []
        self.now = 0.0

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def read_deployment_by_name(self, name: str) -> Any:
        if name != "flow/there":
            raise ObjectNotFound(http_exc=Exception())
        return SimpleNamespace(id=UUID(int=1))

    def create_flow_run_from_deployment(self, deployment: UUID, *, parameters: Any) -> Any:
        self.asked.append(parameters)
        return SimpleNamespace(id=RUN, name="quick-fox")

    def read_flow_run(self, flow_run: UUID) -> Any:
        assert flow_run == RUN
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        if isinstance(state, BaseException):
            raise state
        if f"line of {state.name}" not in self.lines:
            self.lines.append(f"line of {state.name}")
        if state.is_final() and self.late:  # as Prefect sends a log: seconds after it was written
            self.lines.append(self.late.pop(0))
        return SimpleNamespace(state=state)

    def read_logs(self, mine: Any, *, limit: int, offset: int, sort: Any) -> Any:
        assert mine.flow_run_id.any_ == [RUN]
        return [SimpleNamespace(message=line) for line in self.lines[offset : offset + min(limit, 2)]]

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Any:
    def install(*states: Any) -> Server:
        server = Server(*states)
        monkeypatch.setattr(deployments, "get_client", lambda **_: server)
        monkeypatch.setattr(deployments, "time", SimpleNamespace(sleep=server.sleep, monotonic=lambda: server.now))
        return server

    return install


def late() -> State[Any]:
    return Scheduled(scheduled_time=datetime.datetime.now(datetime.UTC))


def test_a_run_is_followed_to_its_end_with_every_line_of_its_log(
    serve: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    server = serve(late(), Pending(), Running(), Completed(name="Promoted", message="passed"))
    state = run_deployment("flow/there", {"version": 3})
    assert state
    assert (state.name, state.message) == ("Promoted", "passed")
    assert server.asked == [{"version": 3}]
    first, *lines = capsys.readouterr().err.splitlines()
    assert "runs flow/there: quick-fox" in first
    assert lines == [f"line of {name}" for name in ("Scheduled", "Pending", "Running", "Promoted")]


def test_the_end_of_the_log_that_comes_late_is_shown_and_no_traceback(
    serve: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    server = serve(Running(), Completed())
    server.late = ["the report", "Finished in state Completed()", "Encountered exception during execution: x", "end"]
    run_deployment("flow/there", {})
    assert capsys.readouterr().err.splitlines()[1:] == ["line of Running", "line of Completed", "the report", "end"]


def test_without_the_deployment_nothing_is_started(serve: Any) -> None:
    server = serve(Completed())
    assert run_deployment("flow/elsewhere", {}) is None
    assert server.asked == []


@pytest.mark.parametrize(
    ("state", "error", "said"),
    [
        (Failed(message="Flow run encountered an exception: InputError: there is no x"), InputError, "there is no x"),
        (Failed(message="Flow run encountered an exception: OSError: full"), FlowRunError, "is Failed: OSError: full"),
        (Cancelled(), FlowRunError, "flow run quick-fox is Cancelled: its page in Prefect says more"),
        (Crashed(message="it died"), FlowRunError, "flow run quick-fox is Crashed: it died"),
        (httpx.ConnectError("gone"), PrefectError, r"failed \(gone\): its pages show"),
    ],
)
def test_a_run_that_does_not_complete_is_a_sentence(serve: Any, state: Any, error: type, said: str) -> None:
    serve(Running(), state)
    with pytest.raises(error, match=said):
        run_deployment("flow/there", {})


def test_a_crashed_run_that_goes_on_elsewhere_is_followed(serve: Any) -> None:
    serve(Running(), Crashed(), Crashed(), late(), Running(), Completed())
    state = run_deployment("flow/there", {})
    assert state
    assert state.type == StateType.COMPLETED


def test_it_is_said_once_that_no_worker_takes_the_run(serve: Any, capsys: pytest.CaptureFixture[str]) -> None:
    serve(*[late()] * 40, Completed())
    run_deployment("flow/there", {})
    assert capsys.readouterr().err.count("no worker has taken the run yet") == 1


def test_an_interruption_leaves_the_run_and_says_how_to_stop_it(serve: Any) -> None:
    serve(Running(), KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt) as interrupted:
        run_deployment("flow/there", {})
    assert interrupted.value.__notes__ == [f"flow run quick-fox goes on: prefect flow-run cancel {RUN} stops it"]


@pytest.mark.parametrize(
    ("named", "why_here", "deployment", "line", "elsewhere"),
    [
        (False, "", "flow/there", "runs here, without Prefect", False),
        (True, "", "flow/there", "runs flow/there: quick-fox", True),
        (True, "the file is here", "flow/there", "runs here: the file is here", False),
        (True, "", "flow/none", "runs here: Prefect has no deployment flow/none", False),
    ],
)
def test_one_line_says_where_a_verb_runs(
    named: bool,
    why_here: str,
    deployment: str,
    line: str,
    elsewhere: bool,
    serve: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    serve(Completed())
    monkeypatch.setattr(place, "api_is_named", lambda: named)
    monkeypatch.setattr("flows.orchestration.api.require_api", lambda: None)
    assert bool(place.run_elsewhere(deployment, {}, why_here=why_here)) is elsewhere
    said = [each for each in capsys.readouterr().err.splitlines() if "connect" not in each and "line of" not in each]
    assert len(said) == 1
    assert line in said[0]
