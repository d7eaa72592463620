import errno
import sqlite3
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import TEMPORARILY_UNAVAILABLE
from sqlalchemy.exc import OperationalError

from dqn.config import ConfigError, DQNConfig
from dqn.environments.spec import Environment, EnvironmentUnsupportedError
from dqn.experience.vector import VectorEnvironment
from dqn.finite import DivergedError
from dqn.training import loop
from dqn.training.state import TrainingState
from flows.cli.exits import reported
from flows.cli.refusals import require_environment
from flows.cli.terminal import BAD_INPUT, DIVERGED
from flows.failures.environments import of_environment
from flows.failures.errors import InputError, TrackingError, one_line
from flows.failures.outages import is_transient
from flows.registry.lock import OvertakenError
from flows.request.parameters import check_trainable
from flows.tracking.attempt import StaleAttemptError
from flows.tracking.metric_writer import MetricWriter
from flows.tracking.store import connect
from tests.support.dqn.probes import Probe


class Odd(Probe):
    """What users of other versions of Gym, and of none, write."""

    def __init__(self, fault: str) -> None:
        self.fault = fault
        if fault == "constructor":
            raise FileNotFoundError(errno.ENOENT, "no such map", "level-1.txt")

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        observation, info = super().reset(seed=seed)
        if self.fault == "reset":
            raise ConnectionError("the simulator\nis away")
        return observation if self.fault == "old reset" else (observation, info)

    def step(self, action: np.int64) -> Any:
        observation, reward = self._observe(0.0), 1.0
        match self.fault:
            case "step":
                raise MemoryError("odd")
            case "assertion":
                raise AssertionError
            case "old step":
                return observation, reward, False, {}
            case "array":
                return observation, np.array([reward, reward]), False, False, {}
            case "text":
                return observation, "much", False, False, {}
            case "none":
                return None
            case "wide":
                return np.zeros(3, np.float32), reward, False, False, {}
        return observation, reward, False, False, {}


FAULTS = {
    "constructor": "constructor",
    "reset": "reset",
    "old reset": "reset",
    "step": "step",
    "assertion": "step",
    "old step": "step",
    "array": "step",
    "text": "step",
    "none": "step",
    "wide": "step",
}
for name in FAULTS:
    gym.register(
        f"Odd-{name.replace(' ', '-')}-v0",
        "tests.flows.failures.test_faults:Odd",
        max_episode_steps=9,
        kwargs={"fault": name},
        disable_env_checker=True,
    )


@pytest.mark.parametrize(("fault", "method"), FAULTS.items())
def test_whatever_an_environment_raises_or_returns_is_one_sentence_that_names_it(
    fault: str, method: str, capsys: pytest.CaptureFixture[str]
) -> None:
    env_id = f"Odd-{fault.replace(' ', '-')}-v0"

    def train() -> None:
        with of_environment(env_id):
            VectorEnvironment(env_id, num_agents=1, num_envs=2, seed=0).step(torch.zeros(1, 2, dtype=torch.long))

    assert reported(train) == BAD_INPUT
    said = capsys.readouterr().err
    assert said.startswith(f"error: environment {env_id!r} failed in its {method} (")
    assert said.count("\n") == 1


@pytest.mark.parametrize("fault", ["step", "old step", "array", "none"])
def test_of_an_environment_that_never_works_nothing_is_saved_and_no_copy_is_blamed(fault: str) -> None:
    env_id, saved = f"Odd-{fault.replace(' ', '-')}-v0", list[TrainingState]()
    assert VectorEnvironment(env_id, num_agents=1, num_envs=1, seed=0).not_capturable is None
    with pytest.raises(EnvironmentUnsupportedError, match="failed in its step"), of_environment(env_id):
        loop.train(DQNConfig(env_id=env_id, num_agents=1, num_envs=1), on_checkpoint=saved.append)
    assert not saved, "from which the run could be resumed"


def test_a_constructor_that_raises_is_refused_before_training() -> None:
    with pytest.raises(EnvironmentUnsupportedError, match=r"constructor .*no such map"):
        check_trainable(DQNConfig(env_id="Odd-constructor-v0"))


@pytest.mark.parametrize("error", [ValueError("ours"), TrackingError("ours"), ConfigError("ours"), KeyboardInterrupt()])
def test_what_no_environment_raised_is_left_alone(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, of_environment("CartPole-v1"):
        raise error
    assert caught.value is error


@pytest.mark.parametrize("content", ["raise RuntimeError('no licence')", "import = 1", "1 / 0", "raise SystemError"])
def test_a_module_that_cannot_be_imported_is_named(
    content: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = f"odd_{abs(hash(content))}"
    (tmp_path / f"{module}.py").write_text(content)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(EnvironmentUnsupportedError, match=f"module '{module}', which is to register"):
        require_environment(Environment(env_id=f"{module}:Odd-v0"))


@pytest.mark.parametrize(
    "cause",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EROFS, "Read-only file system"),
        OperationalError("INSERT", {}, sqlite3.OperationalError("database or disk is full")),
        OperationalError("INSERT", {}, sqlite3.OperationalError("attempt to write a readonly database")),
    ],
)
def test_a_full_disk_is_not_tried_again(cause: Exception) -> None:
    stuck = MlflowException("the store", TEMPORARILY_UNAVAILABLE)
    stuck.__cause__ = cause
    assert not is_transient(stuck)
    assert is_transient(MlflowException("the store", TEMPORARILY_UNAVAILABLE))

    def check() -> None:
        raise stuck

    writer = MetricWriter(None, {}, {}, check=check)  # type: ignore[arg-type] # it comes no further than the check
    with pytest.raises(TrackingError, match="could not be logged"):
        writer.close(patience=100_000.0)
    with pytest.raises(TrackingError, match="could not be logged"):
        writer.write([])  # and the training does not go on for hours


def test_what_sqlalchemy_says_first_is_not_what_is_wrong() -> None:
    cause = "(raised as a result of Query-invoked autoflush)\n(sqlite3.OperationalError) disk is full\n[SQL"
    assert one_line(MlflowException(cause)) == "(sqlite3.OperationalError) disk is full"


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/x/run.ckpt"), 1, "/x/run.ckpt: No space left on device"),
        (sqlite3.OperationalError("disk I/O error"), 1, "the database: disk I/O error"),
        (InputError("no"), BAD_INPUT, "no"),
        (StaleAttemptError("another"), 1, "another"),
        (OvertakenError("overtaken"), 1, "overtaken"),
        (ConfigError("no such value"), BAD_INPUT, "no such value"),
        (DivergedError("all diverged", {}), DIVERGED, "all diverged"),
        (MlflowException("one\ntwo"), 1, "MLflow: one"),
    ],
)
def test_an_error_is_a_sentence_and_a_code(
    error: BaseException, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def work() -> None:
        raise error

    assert reported(work) == code
    assert capsys.readouterr().err == f"error: {said}\n"


def test_a_mistake_of_our_own_keeps_its_traceback() -> None:
    def work() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        reported(work)


@pytest.mark.parametrize(
    ("uri", "kind", "said"),
    [
        ("postgresql://u:secret@127.0.0.1:1/db", TrackingError, r"postgresql://u:\*\*\*@127.0.0.1:1/db cannot be used"),
        ("mysql://u:secret@127.0.0.1/db", InputError, "needs a driver that is not installed"),
    ],
)
def test_a_database_that_cannot_be_used_is_a_sentence_at_once(
    uri: str, kind: type[Exception], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(kind, match=said) as caught:
        connect()
    assert "secret" not in str(caught.value)
