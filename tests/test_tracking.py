import socket
from pathlib import Path

import pytest
from mlflow import MlflowClient

from flows.tracking import PopulationRuns, end_runs, ending


@pytest.fixture
def dead_server(monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        return MlflowClient(f"http://127.0.0.1:{closed.getsockname()[1]}")


def interrupted(client: MlflowClient, runs: PopulationRuns, checkpoint: Path, error: BaseException) -> list[str]:
    """Notes of an error that ends the runs."""
    with pytest.raises(type(error)) as caught, ending(client, runs, checkpoint):
        raise error
    assert caught.value is error
    return getattr(error, "__notes__", [])


@pytest.mark.parametrize(("error", "status"), [(ValueError("broken"), "FAILED"), (KeyboardInterrupt(), "KILLED")])
def test_runs_end_as_their_block_and_say_how_to_go_on(
    store: MlflowClient, tmp_path: Path, error: BaseException, status: str
) -> None:
    experiment = store.create_experiment(f"ending-{status}")
    parent, running, finished = (store.create_run(experiment).info.run_id for _ in range(3))
    end_runs(store, (finished,), "FINISHED")
    checkpoint = tmp_path / "run.ckpt"
    checkpoint.touch()
    notes = interrupted(store, PopulationRuns(parent=parent, children=(running, finished)), checkpoint, error)
    assert notes == [f'resume with: make train ARGS="--resume {parent}"']
    statuses = [store.get_run(run_id).info.status for run_id in (parent, running, finished)]
    assert statuses == [status, status, "FINISHED"]


def test_without_a_checkpoint_there_is_nothing_to_resume(store: MlflowClient, tmp_path: Path) -> None:
    run_id = store.create_run(store.create_experiment("ending-early")).info.run_id
    assert interrupted(store, PopulationRuns(parent=run_id, children=()), tmp_path / "run.ckpt", ValueError()) == []


def test_an_error_outlives_a_server_that_cannot_be_told_of_it(dead_server: MlflowClient, tmp_path: Path) -> None:
    checkpoint = tmp_path / "run.ckpt"
    checkpoint.touch()
    marking, resuming = interrupted(
        dead_server, PopulationRuns(parent="parent", children=("child",)), checkpoint, ValueError("broken")
    )
    assert marking.startswith("the run could not be marked FAILED: API request to http://127.0.0.1:")
    assert marking.endswith("failed")
    assert resuming == 'resume with: make train ARGS="--resume parent"'
