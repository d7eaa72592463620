"""Runs of populations, in a store in memory."""

from typing import Any

import pytest

from flows.tracking.attempt import ATTEMPT_TAG
from tests.support.flows.in_memory import Store, in_memory


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Any:
    return in_memory(monkeypatch, "flows.registry.evaluation")


def a_run(store: Store, status: str = "RUNNING", **tags: str) -> str:
    run = store.create_run("1", {"population": "2 agents", ATTEMPT_TAG: "t", **tags})
    run.info.status = status
    return str(run.info.run_id)
