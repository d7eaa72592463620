"""`python -m flows sweep`: what is asked for, where it runs, and how an error ends it."""

import logging
import signal
import sys
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from mlflow.exceptions import MlflowException

from dqn.config import ConfigError
from dqn.environments.spec import EnvironmentUnsupportedError
from dqn.finite import DivergedError, EnvironmentFaultError
from dqn.training.checkpoint import CheckpointError
from flows.cli import options
from flows.cli import sweep as sweep_cli
from flows.failures.errors import InputError, PrefectError, TrackingError
from flows.orchestration import place
from flows.search.study import ShardError, begin_study
from tests.support.flows.sweeps import keep_in_memory, sweep


def searched(argv: list[str]) -> int:
    return sweep_cli.run(options.parse(sweep_cli.Arguments, argv, prog="", default=sweep_cli.Arguments()))


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a Prefect API."""
    monkeypatch.setattr(sweep_cli, "api_is_named", lambda: False)
    monkeypatch.setattr(place, "api_is_named", lambda: False)


def test_what_a_command_line_asks_for_is_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}
    monkeypatch.setattr("flows.sweep.sweep_dqn", lambda **options: asked.update(options) or "the report")
    numbers = {"trials": 9, "shard_trials": 3, "keep": 0.3, "episodes": 2, "finalists": 5, "seed": 7}
    argv = [word for name, value in numbers.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    assert searched([*argv, "--rungs", "3", "5", "--method", "random", "--promote"]) == 0
    assert asked == {
        **numbers,
        "preset": "cartpole",
        "space": "small",
        "method": "random",
        "rungs": [3, 5],
        "resume": None,
        "spread_to": None,
        "save": None,
        "promote": True,
        "checkpoint_dir": "checkpoints",
    }


def test_a_study_to_go_on_with_is_looked_for_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    keep_in_memory(monkeypatch)
    asked: list[str] = []

    def sweep_dqn(**options: Any) -> str:
        asked.append(options["resume"])
        return "the report"

    monkeypatch.setattr("flows.sweep.sweep_dqn", sweep_dqn)
    begin_study("known", sweep())
    assert searched(["--resume", "known", "--trials", "0"]) == 0  # it keeps its own settings
    assert "the report\n" in capsys.readouterr().out
    assert searched(["--resume", "unknown"]) == 2
    assert asked == ["known"]
    assert "error: there is no study 'unknown'" in capsys.readouterr().err


def test_what_cannot_be_searched_is_refused_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("flows.sweep.sweep_dqn", lambda **_: pytest.fail("it was started"))
    assert searched(["--keep", "2"]) == 2
    assert "error: keep must be a share between 0 and 1, got 2.0\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "done"),
    [
        ("--trials 64 --rungs 3 5", {"trials": 64, "rungs": [3, 5]}),
        ("--promote --spread-to sweep-shard/other", {"promote": True, "spread_to": "sweep-shard/other"}),
        ("--save mine", "--save writes into this directory"),
        ("--space mine.json", "the space is a file of this machine"),
        ("--checkpoint-dir elsewhere", "--checkpoint-dir is a directory of this machine"),
    ],
)
def test_where_an_api_is_named_a_sweep_is_a_run_of_its_deployment_unless_it_needs_this_machine(
    argv: str, done: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def elsewhere(deployment: str, parameters: Any, *, why_here: str) -> Any:
        asked.append((deployment, why_here or parameters))
        return "the last state"

    monkeypatch.setattr(sweep_cli, "run_elsewhere", elsewhere)
    monkeypatch.setattr("flows.sweep.sweep_dqn", lambda **_: pytest.fail("it runs here"))
    assert searched(argv.split()) == 0
    assert asked == [("sweep-dqn/default", done)]


def test_without_the_deployment_a_sweep_is_a_flow_run_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    monkeypatch.setattr(sweep_cli, "api_is_named", lambda: True)
    monkeypatch.setattr(sweep_cli, "run_elsewhere", lambda *_, **__: None)
    deployed = SimpleNamespace(sweep_dqn=lambda **_: done.append("as a flow run"))
    monkeypatch.setitem(sys.modules, "flows.deployed", deployed)
    monkeypatch.setattr("flows.sweep.sweep_dqn", lambda **_: done.append("without Prefect"))
    assert searched([]) == 0
    assert done == ["as a flow run"]


def test_an_api_that_does_not_answer_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def elsewhere(*_: Any, **__: Any) -> Any:
        raise PrefectError("it is away")

    monkeypatch.setattr(sweep_cli, "run_elsewhere", elsewhere)
    assert searched([]) == 1
    assert capsys.readouterr().err == "error: it is away\n"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        *((kind("it is so"), 2) for kind in (ConfigError, EnvironmentUnsupportedError, InputError, MemoryError)),
        (EnvironmentFaultError("it is so"), 2),
        (DivergedError("it is so"), 3),
        *((kind("it is so"), 1) for kind in (TrackingError, CheckpointError, PrefectError, ShardError)),
        (MlflowException("it is so\nand so on"), 1),
        (KeyboardInterrupt(), 128 + signal.SIGINT),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_an_error_is_a_sentence_and_an_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: BaseException, code: int
) -> None:
    error.add_note("go on with: make sweep")

    def fails(**_: Any) -> None:
        raise error

    monkeypatch.setattr("flows.sweep.sweep_dqn", fails)
    assert sweep_cli.main([]) == code
    said = {"MlflowException": "MLflow: it is so", "KeyboardInterrupt": "interrupted"}
    assert f"error: {said.get(type(error).__name__, 'it is so')}\ngo on with: make sweep\n" in capsys.readouterr().err


def test_libraries_say_nothing_of_every_trial_and_retry(monkeypatch: pytest.MonkeyPatch) -> None:
    levels = optuna.logging.get_verbosity(), logging.getLogger("urllib3").level
    monkeypatch.setattr("flows.sweep.sweep_dqn", lambda **_: "the report")
    try:
        optuna.logging.set_verbosity(optuna.logging.INFO)
        logging.getLogger("urllib3").setLevel(logging.INFO)
        assert searched([]) == 0
        assert optuna.logging.get_verbosity() == optuna.logging.WARNING
        assert logging.getLogger("urllib3").level == logging.ERROR
    finally:
        optuna.logging.set_verbosity(levels[0])
        logging.getLogger("urllib3").setLevel(levels[1])
