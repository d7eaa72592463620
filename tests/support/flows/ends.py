"""A store at which something happens at a call, and a training that it happens to."""

from collections.abc import Callable
from typing import Any

import pytest

from flows import train
from flows.registry.gate_tag import PENDING
from flows.registry.versions import CHALLENGER, CHAMPION
from flows.tracking.attempt import ATTEMPT_TAG, Attempt
from tests.support.flows.promotion import NAME, evaluated

FINAL = {"FINISHED", "FAILED", "KILLED"}


class Interfering:
    """A store at which something happens once, in its n-th call."""

    def __init__(self, store: Any, nth: int, happening: Callable[[], None]) -> None:
        self._store = store
        self.left = nth
        self._happening = happening

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        if not callable(found):
            return found

        def call(*arguments: Any, **named: Any) -> Any:
            self.left -= 1
            if self.left == 0:
                self._happening()
            return found(*arguments, **named)

        return call


def error() -> None:
    raise ValueError("injected")


def interrupt() -> None:
    raise KeyboardInterrupt


def prepare(store: Any, monkeypatch: pytest.MonkeyPatch, step: str | None = None, happening: Any = None) -> Attempt:
    """A training of version 3 with the real promotion; at one of its other steps something happens."""
    run_id = store.versions[3].run_id
    attempt = Attempt(run_id=run_id, token="mine")
    store.get_run(run_id).data.tags[ATTEMPT_TAG] = "mine"
    store.get_run(run_id).info.status = "RUNNING"
    store.aliases = {CHAMPION: 1, CHALLENGER: 3}
    store.versions[3].tags["gate"] = PENDING
    store.tags.clear()
    evaluation = evaluated(store, 3)
    answers = {
        "start": (attempt, NAME),
        "train": run_id,
        "export": "model",
        "register": 3,
        "test_agents": "agents",
        "evaluate": evaluation,
        **dict.fromkeys(("draw_population", "draw_version"), None),
        "report": "report",
    }

    def stub(name: str) -> Any:
        def call(*_: Any, **__: Any) -> Any:
            if name == step:
                happening()
            return answers[name]

        return call

    for name in answers:
        monkeypatch.setattr(train, name, stub(name))
    return attempt


def connected(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("flows.registry.champion", "flows.training.steps"):
        monkeypatch.setattr(f"{module}.connect", lambda: client)
    for module in ("flows.train", "flows.adapt", "flows.adaptation.retrain", "flows.adaptation.timeline"):
        monkeypatch.setattr(f"{module}.MlflowClient", lambda: client)
