"""Runs of deployments that a verb starts: a worker executes them, and the terminal shows their log."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.client.schemas.sorting import LogSort
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL, PREFECT_UI_URL

from flows.failures.errors import FlowError, InputError, PrefectError, one_line
from flows.orchestration.console import note
from flows.uris import redacted

_POLL_SECONDS: Final = 1.0
_LATE_SECONDS: Final = 15.0
_CRASHED_SECONDS: Final = 15.0
"""A crashed run is scheduled again by an automation. One that still is crashed after this time is over."""
_LOG_SECONDS: Final = 3.0
"""Without a new line, after which the log of a run that is over is complete: Prefect sends it every two seconds."""
_UNTOLD: Final = ("Finished in state ", "Encountered exception during execution")
"""How lines begin that are not shown: of tasks, and the traceback of the error that the last state names."""
_PAGE: Final = 200
_RAISED: Final = "Flow run encountered an exception: "
_INPUT: Final = f"{InputError.__name__}: "


class FlowRunError(FlowError):
    """A flow run that a verb has started did not complete; the message says why."""


def run_deployment(name: str, parameters: Mapping[str, Any]) -> State[Any] | None:
    """Start a run of a deployment, and follow it to its end.

    Args:
        name: of the flow and the deployment, with a slash between them.
        parameters: those that differ from the deployment's own.

    Returns:
        The last state; None if there is no such deployment.

    Raises:
        InputError: if the run failed because it was asked for something impossible.
        FlowRunError: if it did not complete.
        PrefectError: if the API refuses or stops answering.
    """
    with _answering(), get_client(sync_client=True) as client:
        try:
            deployment = client.read_deployment_by_name(name)
        except ObjectNotFound:
            return None
        run = client.create_flow_run_from_deployment(deployment.id, parameters=dict(parameters))
        page = f", {PREFECT_UI_URL.value()}/runs/flow-run/{run.id}" if PREFECT_UI_URL.value() else ""
        note(f"Prefect at {redacted(str(PREFECT_API_URL.value()))} runs {name}: {run.name}{page}")
        try:
            return _ended(_followed(client, run), run.name)
        except KeyboardInterrupt as error:
            error.add_note(f"flow run {run.name} goes on: prefect flow-run cancel {run.id} stops it")
            raise


@contextmanager
def _answering() -> Iterator[None]:
    """Calls of Prefect's API, which end in a sentence."""
    try:
        yield
    except httpx.HTTPError as error:
        url = redacted(str(PREFECT_API_URL.value()))
        raise PrefectError(
            f"Prefect's API {url} failed ({one_line(error)}): its pages show what became of the run"
        ) from error


def _followed(client: SyncPrefectClient, run: FlowRun) -> State[Any]:
    """Print the log of a run as it is written. Returns the run's last state."""
    mine = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run.id]))
    began = written = time.monotonic()
    crashed, said, lines = None, False, 0
    while True:
        state, now = client.read_flow_run(run.id).state, time.monotonic()
        while page := client.read_logs(mine, limit=_PAGE, offset=lines, sort=LogSort.TIMESTAMP_ASC):
            for line in page:
                if not line.message.startswith(_UNTOLD):
                    note(line.message)
            lines, written = lines + len(page), now
        crashed = (crashed or now) if state and state.type == StateType.CRASHED else None
        over = now - crashed > _CRASHED_SECONDS if crashed else state and state.is_final()
        if state and over and now - written > _LOG_SECONDS:
            return state
        if state and state.is_scheduled() and now - began > _LATE_SECONDS and not said:
            said = True
            note("no worker has taken the run yet: it waits for one of its work pool")
        time.sleep(_POLL_SECONDS)


def _ended(state: State[Any], name: str) -> State[Any]:
    if state.is_completed():
        return state
    reason = (state.message or "its page in Prefect says more").removeprefix(_RAISED)
    if reason.startswith(_INPUT):
        raise InputError(reason.removeprefix(_INPUT))
    raise FlowRunError(f"flow run {name} is {state.name}: {reason}")
