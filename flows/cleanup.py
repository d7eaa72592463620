"""Removes results and checkpoints that no run needs any more from a worker's volumes: the deployment `cleanup`."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.settings import PREFECT_HOME, PREFECT_LOCAL_STORAGE_PATH
from pydantic import Field

from flows.tracking.runs import FLOW_RUN_TAG, TRAINED_TAG
from flows.tracking.store import connect

_PAGE = 200


@dataclass(frozen=True, kw_only=True)
class NeededRun:
    """A flow run that is running, or that can still be retried."""

    id: str
    started: datetime


@flow(name="cleanup")
def cleanup(keep_days: Annotated[int, Field(ge=1, le=3650)] = 30, checkpoint_dir: str = "checkpoints") -> str:
    """Remove the results of steps and the checkpoints that no run needs. Running it again removes nothing more.

    Args:
        keep_days: how long a run that failed or crashed can be retried.
        checkpoint_dir: directory of the training states.

    Returns:
        What was removed.
    """
    now = datetime.now(UTC)
    oldest = now - timedelta(days=keep_days)
    client = connect()
    with get_client(sync_client=True) as prefect:
        needed = needed_runs(prefect, oldest)
    storage = own_storage()
    results = outdated_results(storage, cutoff(needed, oldest)) if storage else []
    checkpoints = unneeded_checkpoints(client, Path(checkpoint_dir), {run.id for run in needed}, oldest)
    removed = f"removed {remove(results)} of results and {remove(checkpoints)} of checkpoints"
    if storage is None:
        removed += "; results stay, as PREFECT_LOCAL_STORAGE_PATH is Prefect's default, which all projects share"
    print(removed)
    return removed


def own_storage() -> Path | None:
    """The directory of this project's results; None for Prefect's default, which all projects share."""
    directory: Path = PREFECT_LOCAL_STORAGE_PATH.value()
    default = PREFECT_HOME.value() / "storage"
    return None if directory.expanduser().resolve() == default.expanduser().resolve() else directory


def needed_runs(client: SyncPrefectClient, oldest: datetime) -> list[NeededRun]:
    """Flow runs that are running, and those that failed or crashed after `oldest`."""
    final = (StateType.COMPLETED, StateType.CANCELLED)
    states = [state for state in StateType if state not in final]
    wanted = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=states)))
    runs: list[FlowRun] = []
    while page := client.read_flow_runs(flow_run_filter=wanted, limit=_PAGE, offset=len(runs)):
        runs.extend(page)
    return [
        NeededRun(id=str(run.id), started=run.start_time)
        for run in runs
        if run.start_time and (run.end_time is None or run.end_time >= oldest)
    ]


def cutoff(needed: Iterable[NeededRun], oldest: datetime) -> datetime:
    """The time before which all results can be removed. A result has a time, but does not name its run."""
    return min([oldest, *(run.started for run in needed)])


def outdated_results(directory: Path, before: datetime) -> list[Path]:
    """Files of a result storage that were written before a time."""
    return [path for path in sorted(directory.glob("*")) if path.is_file() and written(path) < before]


def unneeded_checkpoints(client: MlflowClient, directory: Path, needed: set[str], oldest: datetime) -> list[Path]:
    """Checkpoints of trained or deleted runs, and files written before `oldest`, where no flow run needs them.

    Raises:
        MlflowException: if the tracking server cannot be asked about a run.
    """
    unneeded = []
    for path in sorted(directory.glob("*.ckpt")):
        run_id = path.stem
        try:
            run = client.get_run(run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            if written(path) < oldest:  # it may be a run of another tracking server
                unneeded.append(path)
            continue
        over = TRAINED_TAG in run.data.tags or run.info.lifecycle_stage == "deleted"
        if run.data.tags.get(FLOW_RUN_TAG) not in needed and (over or written(path) < oldest):
            unneeded.append(path)
    leftovers = [path for path in sorted(directory.glob(".*.ckpt.*")) if written(path) < oldest]
    return [*unneeded, *leftovers]


def written(path: Path) -> datetime:
    """When a file was written; the latest possible time if it no longer exists."""
    try:
        return datetime.fromtimestamp(path.stat().st_mtime, UTC)
    except FileNotFoundError:
        return datetime.max.replace(tzinfo=UTC)


def remove(paths: Iterable[Path]) -> str:
    """Remove files. Returns their number and size."""
    count = size = 0
    for path in paths:
        try:
            size += path.stat().st_size
            os.unlink(path)
        except FileNotFoundError:  # its own run has removed it
            continue
        count += 1
    return f"{count} files ({size / 2**20:.1f} MiB)"
