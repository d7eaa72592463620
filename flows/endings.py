"""How the runs of a population end."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from flows.attempt import Attempt, StaleAttemptError, check, fenced
from flows.flow_run import deployment_id, flow_run_id
from flows.interrupts import ending
from flows.names import make_command
from flows.tracking import TRAINED_TAG, one_line, unless_deleted


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
        with ending():
            _end(client, attempt, checkpoint, error)
        raise


def _end(client: MlflowClient, attempt: Attempt, checkpoint: Path, error: BaseException) -> None:
    status = "FAILED" if isinstance(error, Exception) else "KILLED"
    resumable = checkpoint.exists()
    try:
        check(client, attempt)
        parent = client.get_run(attempt.run_id)
        if parent.info.status == "FINISHED":  # interrupted in the last moment: nothing is left to do
            return
        end_runs(client, attempt, (attempt.run_id, *_running_children(client, parent)), status)
        resumable |= TRAINED_TAG in parent.data.tags
    except (Exception, StaleAttemptError) as second:  # the first error is the one to report
        error.add_note(f"the run could not be marked {status}: {one_line(second)}")
    if resumable:
        error.add_note(f"resume with: {_resuming(attempt, checkpoint.parent)}")


def end_runs(client: MlflowClient, attempt: Attempt, run_ids: tuple[str, ...], status: str) -> None:
    """Set the status runs end with."""
    for run_id in run_ids:
        with unless_deleted(client, run_id):
            fenced(client, attempt).set_terminated(run_id, status)


def _resuming(attempt: Attempt, directory: Path) -> str:
    """The command that goes on with runs; only the worker has the checkpoint of a deployment's."""
    if deployment_id():
        return f"prefect flow-run retry {flow_run_id()}"
    usual = directory == Path("checkpoints").absolute()
    return make_command("train", "--resume", attempt.run_id, *(() if usual else ("--checkpoint-dir", str(directory))))


def _running_children(client: MlflowClient, parent: Run) -> list[str]:
    """Without the configuration, which a run that was interrupted early does not have."""
    query = f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{parent.info.run_id}'"
    children = client.search_runs([parent.info.experiment_id], query, max_results=10_000)
    return [child.info.run_id for child in children if child.info.status == "RUNNING"]
