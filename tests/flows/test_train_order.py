"""What a training does in which order, with its stages replaced."""

from contextlib import nullcontext
from typing import Any

import pytest

from flows import train
from flows.tracking.attempt import Attempt

STAGES = {
    "start": (Attempt(run_id="r", token="t"), "dqn-CartPole-v1"),
    "failing": nullcontext(),
    "train": "r",
    "export": "m",
    "register": 1,
    "test_agents": "agents",
    "evaluate": "evaluation",
    "promote": "passed",
    "report": "the report",
    "draw_population": None,
    "draw_version": None,
    "finish": None,
}


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> list[tuple[str, str]]:
    """The stages that were taken, each with what was printed before it."""
    steps: list[tuple[str, str]] = []

    def stage(name: str) -> Any:
        def call(*_: Any) -> Any:
            steps.append((name, capsys.readouterr().out))
            return STAGES[name]

        return call

    for name in STAGES:
        monkeypatch.setattr(train, name, stage(name))
    return steps


def test_the_report_is_read_while_the_pictures_are_drawn(taken: list[tuple[str, str]]) -> None:
    assert train.train_dqn() == "the report"
    assert [name for name, _ in taken] == list(STAGES)
    assert {name: out for name, out in taken if out} == {"draw_population": "the report\n"}


def test_a_flow_run_returns_its_report_and_prints_it_nowhere_else(
    taken: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "flow_run_id", lambda: "f")
    monkeypatch.setattr(train, "say", lambda _: None)
    assert train.train_dqn() == "the report"
    assert not any(out for _, out in taken)
    assert [name for name, _ in taken][-4:] == ["draw_population", "draw_version", "report", "finish"]
