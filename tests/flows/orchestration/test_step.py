"""Steps without Prefect; with it they are tested in test_steps.py and test_retries.py."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from flows.failures.errors import TrackingError
from flows.orchestration.step import RETRY_SECONDS, step

ROOT = Path(__file__).parents[3]
LOADED = "import sys, flows.train; print([name for name in ('prefect', 'matplotlib') if name in sys.modules])"


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    return waited


@pytest.mark.slow
def test_a_training_loads_neither_prefect_nor_what_draws() -> None:
    assert subprocess.check_output([sys.executable, "-c", LOADED], text=True, cwd=ROOT) == "[]\n"


def test_a_server_that_comes_back_is_waited_for(pauses: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    left = [TrackingError("away"), TrackingError("away")]

    @step("reach")
    def reach(what: str) -> str:
        if left:
            raise left.pop()
        return what

    assert reach("there") == "there"
    assert reach.__doc__ is reach.fn.__doc__
    assert pauses == [1, 10]
    lines = capsys.readouterr().err.splitlines()
    assert lines[:3] == ["reach ...", "away; trying again in 1 s", "away; trying again in 10 s"]
    assert lines[3].startswith("reach: ")


def test_a_server_that_stays_away_is_given_up(pauses: list[float]) -> None:
    calls = []

    @step("reach")
    def reach() -> None:
        calls.append(1)
        raise TrackingError("away")

    with pytest.raises(TrackingError, match="away"):
        reach()
    assert pauses == list(RETRY_SECONDS)
    assert len(calls) == len(RETRY_SECONDS) + 1


def test_what_cannot_pass_is_not_tried_again(pauses: list[float]) -> None:
    @step("divide")
    def divide() -> float:
        return 1 / 0

    with pytest.raises(ZeroDivisionError):
        divide()
    assert not pauses
