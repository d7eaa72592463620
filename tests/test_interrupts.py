"""What a terminal or a supervisor does to `make train`, with real processes."""

import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient

from dqn.checkpoint import load_checkpoint
from dqn.config import DQNConfig
from flows import cli
from flows.population import checkpoint_path
from tests.test_train_flow import as_arguments, in_mid_training, process, runs_of


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("signum", "code", "word"),
    [(signal.SIGTERM, cli.TERMINATED, "terminated"), (signal.SIGINT, cli.INTERRUPTED, "interrupted")],
)
def test_a_training_that_is_told_to_stop_says_how_to_resume(
    signum: signal.Signals,
    code: int,
    word: str,
    small_config: Callable[..., DQNConfig],
    store: MlflowClient,
    store_directory: Path,
    tmp_path: Path,
) -> None:
    config = small_config(max_updates=1_000_000, eval_interval=250, checkpoint_interval=0.2)
    known = runs_of(store)
    victim = process([*as_arguments(config), "--checkpoint-dir", str(tmp_path)], store_directory, prefect_api="")
    run_id = in_mid_training(victim, store, known)
    victim.send_signal(signum)
    _, errors = victim.communicate(timeout=60)
    assert victim.returncode == code, errors
    assert f'error: {word}\nresume with: make train ARGS="--resume {run_id} --checkpoint-dir {tmp_path}"\n' in errors
    assert "Traceback" not in errors
    runs = store.search_runs([store.get_run(run_id).info.experiment_id], f"tags.`mlflow.parentRunId` = '{run_id}'")
    assert {run.info.status for run in (store.get_run(run_id), *runs)} == {"KILLED"}
    state, continues = load_checkpoint(checkpoint_path(tmp_path, run_id), config)
    assert continues
    assert state.learner.updates > 0
