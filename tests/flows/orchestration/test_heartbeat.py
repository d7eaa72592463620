import threading
from typing import Any

import pytest

from flows.orchestration import heartbeat
from flows.orchestration.heartbeat import ALIVE, heartbeats


def test_a_run_gives_signs_of_life_until_it_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[tuple[str, str]] = []
    twice = threading.Event()

    def emit(event: str, resource: dict[str, Any]) -> None:
        events.append((event, resource["prefect.resource.id"]))
        if len(events) == 2:
            twice.set()

    monkeypatch.setattr(heartbeat, "emit_event", emit)
    with heartbeats("0-1", interval=0.001):
        assert twice.wait(10)
    assert set(events) == {(ALIVE, "prefect.flow-run.0-1")}
    assert "heartbeats" not in [thread.name for thread in threading.enumerate()]


def test_a_run_of_no_deployment_gives_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "emit_event", None)
    with heartbeats():
        assert "heartbeats" not in [thread.name for thread in threading.enumerate()]
