"""The ends of a population's runs."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from dqn.finite import DivergedError
from flows.failures.errors import one_line
from flows.failures.interrupts import ending
from flows.orchestration.flow_run import deployment_id, flow_run_id
from flows.tracking.attempt import FencedClient, StaleAttemptError
from flows.tracking.runs import TRAINED_TAG, PopulationRuns, unless_deleted
from serving.commands import command

_MOST_CHILDREN: Final = 10_000

DIVERGED_TAG: Final = "diverged"


@contextmanager
def failing(fenced: FencedClient, checkpoint: Path) -> Iterator[None]:
    """End the runs of a block that raises: FAILED, or KILLED if it was interrupted from outside.

    If the run can be resumed, the error leaves with a note that says how. A stale attempt ends nothing: the runs belong
    to a newer attempt.
    """
    try:
        yield
    except StaleAttemptError as error:
        print(f"stopped: {error}")
        raise
    except BaseException as error:
        with ending():
            _end(fenced, checkpoint, error)
        raise


def _end(fenced: FencedClient, checkpoint: Path, error: BaseException) -> None:
    status = "FAILED" if isinstance(error, Exception) else "KILLED"
    resumable = checkpoint.exists()
    try:
        parent = fenced.checked().get_run(fenced.run_id)
        if parent.info.status == "FINISHED":  # interrupted after its last step
            return
        end_runs(fenced, (fenced.run_id,), status)  # first: this needs no configuration
        end_runs(fenced, _running_children(fenced.client, parent), status)
        resumable |= TRAINED_TAG in parent.data.tags
    except (Exception, StaleAttemptError) as second:  # the first error is the one to report
        error.add_note(f"the run could not be marked {status}: {one_line(second)}")
    if resumable and not isinstance(error, DivergedError):  # it would diverge again
        error.add_note(f"resume with: {_resuming(fenced.run_id, checkpoint.parent)}")


def end_diverged(fenced: FencedClient, runs: PopulationRuns, diverged: Mapping[int, tuple[int, str]]) -> None:
    """End the runs of diverged agents as FAILED, with a tag that names the update and the reason."""
    for agent, (update, reason) in diverged.items():
        child = runs.children[agent]
        with unless_deleted(fenced.client, child):
            fenced.checked().set_tag(child, DIVERGED_TAG, f"after update {update:,}: {reason}")
            fenced.checked().set_terminated(child, "FAILED")


def end_runs(fenced: FencedClient, run_ids: tuple[str, ...], status: str) -> None:
    """End runs with a status."""
    for run_id in fenced.in_batch(run_ids):
        with unless_deleted(fenced.client, run_id):
            fenced.client.set_terminated(run_id, status)


def _resuming(run_id: str, directory: Path) -> str:
    """The command that resumes a run. A deployment's checkpoint is on its worker, so Prefect retries its flow run."""
    if deployment_id():
        return f"prefect flow-run retry {flow_run_id()}"
    usual = directory == Path("checkpoints").absolute()
    return command("train", "--resume", run_id, *(() if usual else ("--checkpoint-dir", str(directory))))


def _running_children(client: MlflowClient, parent: Run) -> tuple[str, ...]:
    """Child runs that are still running. After an early end there may be fewer than agents; none is created here."""
    query = f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{parent.info.run_id}'"
    found = client.search_runs([parent.info.experiment_id], query, max_results=_MOST_CHILDREN)
    return tuple(child.info.run_id for child in found if child.info.status == "RUNNING")
