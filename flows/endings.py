"""How the runs of a population end."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlflow import MlflowClient

from flows.attempt import Attempt, StaleAttemptError, check, in_batch
from flows.flow_run import deployment_id, flow_run_id
from flows.tracking import TRAINED_TAG, PopulationRuns, get_runs, one_line, read_runs, unless_deleted


@contextmanager
def failing(client: MlflowClient, attempt: Attempt, checkpoint: Path) -> Iterator[None]:
    """End the runs of a block that does not succeed: FAILED, or KILLED where it was interrupted from outside.

    The error leaves with a note that says how to go on, where that is possible. A stale attempt ends nothing: the runs
    are another's.
    """
    try:
        yield
    except StaleAttemptError as error:
        print(f"stopped: {error}")
        raise
    except BaseException as error:
        status = "FAILED" if isinstance(error, Exception) else "KILLED"
        resumable = checkpoint.exists()
        try:
            check(client, attempt)
            runs = read_runs(client, attempt)
            end_runs(client, attempt, (runs.parent, *_still_running(client, runs)), status)
            resumable |= TRAINED_TAG in client.get_run(runs.parent).data.tags
        except (Exception, StaleAttemptError) as second:  # the first error is the one to report
            error.add_note(f"the run could not be marked {status}: {one_line(second)}")
        if resumable:
            error.add_note(f"resume with: {_resuming(attempt)}")
        raise


def end_runs(client: MlflowClient, attempt: Attempt, run_ids: tuple[str, ...], status: str) -> None:
    """Set the status runs end with."""
    for run_id in in_batch(client, attempt, run_ids):
        with unless_deleted(client, run_id):
            client.set_terminated(run_id, status)


def _resuming(attempt: Attempt) -> str:
    """The command that goes on with runs; only the worker has the checkpoint of a deployment's."""
    if deployment_id():
        return f"prefect flow-run retry {flow_run_id()}"
    return f'make train ARGS="--resume {attempt.run_id}"'


def _still_running(client: MlflowClient, runs: PopulationRuns) -> tuple[str, ...]:
    found = get_runs(client, runs.children)
    return tuple(child for child in runs.children if found[child].info.status == "RUNNING")
