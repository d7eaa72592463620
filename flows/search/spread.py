"""The shards of a study as runs of a deployment."""

import time
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, Final, cast
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound

from flows.failures.errors import InputError
from flows.search.study import ShardError

_POLL_SECONDS: Final = 2.0
_SCHEDULED_AGAIN_WITHIN: Final = timedelta(minutes=1)


def spread(deployment: str, study: str, shards: Iterable[int], *, checkpoint_dir: str) -> None:
    """Run a deployment for each shard and wait for all runs; Prefect's automations reschedule a run that crashed.

    Raises:
        InputError: if there is no such deployment.
        ShardError: if runs failed or were cancelled.
    """
    with get_client(sync_client=True) as client:
        runs = [_run(deployment, study, shard, checkpoint_dir) for shard in shards]
        ended = _wait(client, [run.id for run in runs])
    bad = [run for run in ended if not (run.state and run.state.is_completed())]
    if bad:
        names = ", ".join(f"{run.name} ({run.state_name})" for run in bad)
        raise ShardError(
            f"{len(bad)} of {len(ended)} shards of study {study} did not end well: {names}. Retry their runs, then "
            f"resume the study with resume={study}; its trials are kept"
        )


def _run(deployment: str, study: str, shard: int, checkpoint_dir: str) -> FlowRun:
    try:
        run: Any = run_deployment(  # its type includes that for async flows
            deployment,
            parameters={"study": study, "shard": shard, "checkpoint_dir": checkpoint_dir},
            timeout=0,
            flow_run_name=f"{study} shard {shard}",
            idempotency_key=f"{study}-{shard}",  # a sweep that is started again finds its runs
        )
    except ObjectNotFound as error:
        raise InputError(
            f"there is no deployment {deployment!r}; `prefect deployment ls` shows those there are"
        ) from error
    return cast("FlowRun", run)


def _wait(client: SyncPrefectClient, run_ids: Iterable[UUID]) -> list[FlowRun]:
    while True:
        runs = [client.read_flow_run(run_id) for run_id in run_ids]
        if all(run.state and run.state.is_final() and not _goes_on(run) for run in runs):
            return runs
        time.sleep(_POLL_SECONDS)


def _goes_on(run: FlowRun) -> bool:
    """Whether a crashed run may still be scheduled again, which takes seconds."""
    return bool(
        run.state and run.state.is_crashed() and datetime.now(UTC) - run.state.timestamp < _SCHEDULED_AGAIN_WITHIN
    )
