"""What a terminal or a supervisor does to `make train`, with real processes."""

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from dqn.config import DQNConfig
from dqn.training.checkpoint import load_checkpoint
from flows.failures import interrupts
from flows.tracking.attempt import FencedClient, begin
from flows.tracking.endings import failing
from flows.training.population import checkpoint_path
from tests.support.flows.processes import as_arguments, in_mid_training, process, runs_of


@pytest.mark.slow
@pytest.mark.parametrize(
    ("signum", "code", "word"),
    [(signal.SIGTERM, interrupts.TERMINATED, "terminated"), (signal.SIGINT, interrupts.INTERRUPTED, "interrupted")],
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
    assert (
        f"error: {word}\nresume with: python -m flows train --resume {run_id} --checkpoint-dir {tmp_path}\n" in errors
    )
    assert "Traceback" not in errors
    runs = store.search_runs([store.get_run(run_id).info.experiment_id], f"tags.`mlflow.parentRunId` = '{run_id}'")
    assert {run.info.status for run in (store.get_run(run_id), *runs)} == {"KILLED"}
    state, continues = load_checkpoint(checkpoint_path(tmp_path, run_id), config)
    assert continues
    assert state.learner.updates > 0


def interrupted(body: str, *, signals: int = 1) -> "subprocess.CompletedProcess[str]":
    """A program that interrupts itself, as many times in a row, where its body says `now()`."""
    program = f"""
        import os, signal, threading, time
        from flows.failures import interrupts
        from flows.cli.terminal import attended
        interrupts._LOST_SECONDS = interrupts._LEAVE_SECONDS = 0.3
        interrupts._RAISE_AGAIN_SECONDS = 0.2

        def now():
            for _ in range({signals}):
                os.kill(os.getpid(), signal.SIGTERM)

        def work():
{textwrap.indent(textwrap.dedent(body), " " * 12)}
            return 0

        interrupts.end_at_once()
        interrupts.leave(attended(work))
        """
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"PYTHONPATH": "."},
    )


ANYWHERE = """
now()
time.sleep(50)
"""
SWALLOWED = """
class Swallows:
    def __del__(self):
        now()

Swallows()
time.sleep(50)
"""
HELD = """
with interrupts.held():
    now()
    print("begun", flush=True)
    with interrupts.released():
        print("released", flush=True)
"""
ENDING = """
try:
    now()
    time.sleep(50)
except KeyboardInterrupt:
    with interrupts.ending():
        now()
        print("ended", flush=True)
    raise
"""
THREAD = """
threading.Thread(target=lambda: threading.Event().wait()).start()
now()
time.sleep(50)
"""
STUCK_WHILE_ENDING = """
try:
    now()
finally:
    with interrupts.ending():
        threading.Event().wait()
"""


@pytest.mark.parametrize("signals", [1, 3])
@pytest.mark.parametrize(
    ("body", "printed"),
    [(ANYWHERE, ""), (SWALLOWED, ""), (HELD, "begun\n"), (ENDING, "ended\n"), (THREAD, "")],
    ids=["anywhere", "in a destructor", "held", "while runs are ended", "with a thread that has no end"],
)
def test_a_program_ends_wherever_it_is_interrupted_and_however_often(body: str, printed: str, signals: int) -> None:
    done = interrupted(body, signals=signals)
    assert done.returncode == interrupts.TERMINATED, done.stderr
    assert done.stdout == printed
    assert done.stderr.endswith("error: terminated\n")


def test_a_program_that_is_stuck_while_it_ends_is_ended() -> None:
    done = interrupted(STUCK_WHILE_ENDING)
    assert done.returncode == interrupts.TERMINATED
    assert "its runs could not be ended in time" in done.stderr


def test_a_run_that_was_interrupted_before_it_had_a_configuration_is_ended(store: MlflowClient, tmp_path: Path) -> None:
    experiment = store.create_experiment("interrupted early")
    parent, child = (store.create_run(experiment).info.run_id for _ in range(2))
    store.set_tag(child, MLFLOW_PARENT_RUN_ID, parent)
    fenced = FencedClient(client=store, attempt=begin(store, parent))
    with pytest.raises(KeyboardInterrupt) as caught, failing(fenced, tmp_path / "run.ckpt"):
        raise KeyboardInterrupt
    assert not getattr(caught.value, "__notes__", [])
    assert {store.get_run(run_id).info.status for run_id in (parent, child)} == {"KILLED"}


def test_a_run_that_is_finished_stays_so(store: MlflowClient, tmp_path: Path) -> None:
    run_id = store.create_run(store.create_experiment("interrupted late")).info.run_id
    fenced = FencedClient(client=store, attempt=begin(store, run_id))
    store.set_terminated(run_id, "FINISHED")
    with pytest.raises(KeyboardInterrupt), failing(fenced, tmp_path / "run.ckpt"):
        raise KeyboardInterrupt
    assert store.get_run(run_id).info.status == "FINISHED"
