"""However a flow ends, its run ends, the gate tag of its version says why, and the timeline of an adaptation ends.

An error, an interruption or another promotion comes at every call of the store, one after another.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from flows import train
from flows.registry import champion as promotions
from flows.registry.champion import promote
from flows.registry.gate_tag import PENDING
from flows.registry.lock import PROMOTION_TAG, OvertakenError
from flows.registry.versions import CHAMPION
from flows.tracking.attempt import ATTEMPT_TAG, StaleAttemptError, begin
from tests.support.flows.ends import FINAL, Interfering, connected, error, interrupt, prepare
from tests.support.flows.in_memory import Store
from tests.support.flows.promotion import NAME, evaluated, store

__all__ = ["store"]  # the fixture


def assert_final(store: Any, *, succeeded: bool) -> None:
    status = store.get_run(store.versions[3].run_id).info.status
    assert status in FINAL
    assert (status == "FINISHED") == succeeded
    gate = store.versions[3].tags["gate"]
    assert gate != PENDING
    assert gate.startswith("passed") == (store.aliases[CHAMPION] == 3), gate
    assert gate.startswith(("passed: ", "undecided: ", "not promoted: "))


@pytest.mark.parametrize("happening", [error, interrupt])
def test_at_whatever_call_a_training_is_ended_its_run_and_its_gate_say_so(
    happening: Callable[[], None], store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    nth = 0
    while True:
        nth += 1
        prepare(store, monkeypatch)
        client = Interfering(store, nth, happening)
        connected(client, monkeypatch)
        ended = False
        try:
            train.train_dqn()
        except (ValueError, KeyboardInterrupt):
            ended = True
        assert_final(store, succeeded=not ended)
        if client.left > 0:
            break
    assert nth > 20


def test_at_whatever_call_a_promotion_is_overtaken_its_run_and_its_gate_say_so(
    store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    nth, overtaken = 0, 0
    while True:
        nth += 1
        prepare(store, monkeypatch)
        client = Interfering(store, nth, lambda: store.tags.update({PROMOTION_TAG: "another"}))
        connected(client, monkeypatch)
        ended = False
        try:
            train.train_dqn()
        except OvertakenError:
            ended = True
            overtaken += 1
            gate = store.versions[3].tags["gate"]
            assert gate.startswith("passed") or "was overtaken by promotion another" in gate
        assert_final(store, succeeded=not ended)
        if client.left > 0:
            break
    assert overtaken > 5


def test_a_stale_attempt_leaves_run_and_gate_to_the_newer_one(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    nth, stale = 0, 0
    while True:
        nth += 1
        attempt = prepare(store, monkeypatch)
        tags = store.get_run(attempt.run_id).data.tags
        client = Interfering(store, nth, partial(tags.update, {ATTEMPT_TAG: "newer"}))
        connected(client, monkeypatch)
        try:
            train.train_dqn()
        except StaleAttemptError:
            stale += 1
        else:
            break
        assert store.get_run(attempt.run_id).info.status == "RUNNING"
        assert not store.versions[3].tags["gate"].startswith(("undecided", "not promoted"))
    assert stale > 5


@pytest.mark.parametrize("happening", [error, interrupt])
@pytest.mark.parametrize("step", ["test_agents", "evaluate", "draw_population", "draw_version", "report"])
def test_at_whatever_step_a_training_is_ended_its_run_and_its_gate_say_so(
    step: str, happening: Callable[[], None], store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(store, monkeypatch, step, happening)
    connected(store, monkeypatch)
    with pytest.raises((ValueError, KeyboardInterrupt)):
        train.train_dqn()
    assert_final(store, succeeded=False)


def test_a_verdict_of_before_outlasts_a_promotion_that_comes_to_nothing(
    store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.versions[3].tags["gate"] = "rolled back to version 1"
    monkeypatch.setattr(promotions, "read_played", lambda uri: error())
    with pytest.raises(ValueError, match="injected"):
        promote.fn(NAME, 3, evaluated(store, 3))
    assert store.versions[3].tags["gate"] == "rolled back to version 1"


def test_a_run_has_failed_if_its_attempt_cannot_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store()
    run_id = store.create_run("1", {}).info.run_id
    client: Any = Interfering(store, 1, error)
    with pytest.raises(ValueError, match="injected"):
        begin(client, run_id)
    assert store.get_run(run_id).info.status == "FAILED"
