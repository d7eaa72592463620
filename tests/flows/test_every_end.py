"""However a flow ends, its run ends, the gate tag of its version says why, and the timeline of an adaptation ends.

An error, an interruption or another promotion comes at every call of the store, one after another.
"""

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import pytest

from flows import adapt, train
from flows.adaptation import retrain, timeline, watch
from flows.adaptation.timeline import MODEL_TAG, OUTCOME_TAG, TIMELINE, RefusedError
from flows.registry import champion as promotions
from flows.registry.champion import promote
from flows.registry.gate_tag import PENDING
from flows.registry.lock import PROMOTION_TAG, OvertakenError
from flows.registry.versions import CHALLENGER, CHAMPION
from flows.serving_client import ADAPTATION_TAG
from flows.tracking.attempt import ATTEMPT_TAG, Attempt, StaleAttemptError, begin
from tests.support.flows.adapting import MODEL, REVERSED, Page
from tests.support.flows.in_memory import Store
from tests.support.flows.promotion import NAME, evaluated, store

__all__ = ["store"]  # the fixture

FINAL = {"FINISHED", "FAILED", "KILLED"}


class Interfering:
    """A store at whose n-th call something happens, once."""

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
    monkeypatch.setattr(promotions, "read_returns", lambda uri: error())
    with pytest.raises(ValueError, match="injected"):
        promote.fn(NAME, 3, evaluated(store, 3))
    assert store.versions[3].tags["gate"] == "rolled back to version 1"


def adaptation_steps(
    store: Any, monkeypatch: pytest.MonkeyPatch, step: str, happening: Callable[[], None], **given: Any
) -> str:
    """An adaptation that trains version 3; at one step something happens. Returns the id of its run."""
    training = prepare(store, monkeypatch)
    run_id = str(store.create_run("1", {ATTEMPT_TAG: "t", MODEL_TAG: MODEL, ADAPTATION_TAG: "d"}).info.run_id)
    evaluation = evaluated(store, 3)
    answers: dict[str, Any] = {
        "begin_adaptation": Attempt(run_id=run_id, token="t"),
        "identified": REVERSED,
        "remembered": None,
        "begin_training": training,
        "train": training.run_id,
        "export": "model",
        "register": 3,
        "evaluate": evaluation,
        "wait_for_approval": None,
        "is_over": False,
        "champion_of": 1,
        "promote": None,
        "watched": ("recovered", "it stands"),
        "elsewhere": "as good",
        "test_agents": "agents",
        **dict.fromkeys(("draw_population", "draw_version", "report")),
    } | given

    def stub(name: str) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            if name == step:
                happening()
            if name == "promote" and answers[name] is None:
                return promote.fn(*arguments, **named)
            return answers[name]

        return call

    monkeypatch.setattr(adapt, "Show", lambda url, drift: Page())
    for module in (adapt, retrain, watch):
        for name in answers.keys() & vars(module).keys():
            monkeypatch.setattr(module, name, stub(name))
    connected(store, monkeypatch)
    return run_id


def refuse() -> None:
    raise RefusedError("by a person")


def overtake() -> None:
    raise OvertakenError("by another promotion")


STEPS = ("identified", "remembered", "begin_training", "train", "export", "register", "evaluate", "wait_for_approval")
LATER = ("champion_of", "promote", "watched", "test_agents", "draw_population", "draw_version", "report", "elsewhere")


@pytest.mark.parametrize("happening", [error, interrupt, refuse, overtake])
@pytest.mark.parametrize("step", [*STEPS, *LATER])
def test_at_whatever_step_an_adaptation_is_ended_all_that_it_began_ends(
    step: str, happening: Callable[[], None], store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = adaptation_steps(store, monkeypatch, step, happening)
    with suppress(ValueError, KeyboardInterrupt, OvertakenError):
        adapt.adapt_policy("d", MODEL, "1", 7, "u", mode="approve")
    run = store.get_run(run_id)
    assert run.info.status in FINAL
    assert run.data.tags[OUTCOME_TAG] in ("failed", "refused")
    assert store.files[run_id][TIMELINE]["stages"][-1]["stage"] == run.data.tags[OUTCOME_TAG]
    if step in ("identified", "remembered", "begin_training"):
        return  # no training has begun
    assert store.get_run(store.versions[3].run_id).info.status in FINAL
    if step not in ("train", "export", "register"):  # there is a version
        assert store.versions[3].tags["gate"] != PENDING


@pytest.mark.parametrize(
    ("given", "gate", "outcome"),
    [
        ({"is_over": True}, "undecided: the world is as version 1 expects it again: nothing is promoted", "recovered"),
        ({"promote": "refused: worse"}, "undecided: version 3 was not promoted, refused: worse", "refused"),
        ({}, "passed: ", "recovered"),
    ],
)
def test_a_training_that_nobody_needs_any_more_is_finished_all_the_same(
    given: dict[str, Any], gate: str, outcome: str, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = adaptation_steps(store, monkeypatch, "", error, **given)
    monkeypatch.setattr(adapt, "watched", lambda adaptation, *_: adaptation.end("recovered", "it stands"))
    assert adapt.adapt_policy("d", MODEL, "1", 7, "u")[0] == outcome
    assert store.get_run(store.versions[3].run_id).info.status == "FINISHED"
    assert store.versions[3].tags["gate"].startswith(gate)
    assert (store.get_run(run_id).info.status, store.get_run(run_id).data.tags[OUTCOME_TAG]) == ("FINISHED", outcome)


@pytest.mark.parametrize("nth", range(1, 8))
def test_an_adaptation_ends_whichever_call_of_its_end_fails(
    nth: int, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = store.create_run("1", {ATTEMPT_TAG: "t", MODEL_TAG: MODEL}).info.run_id
    mine = timeline.Adaptation(show=Page(), attempt=Attempt(run_id=run_id, token="t"))  # type: ignore[arg-type]
    client = Interfering(store, nth, error)
    monkeypatch.setattr(timeline, "MlflowClient", lambda: client)
    monkeypatch.setattr("mlflow.get_tracking_uri", lambda: "http://127.0.0.1:9")  # pages are linked to
    with pytest.raises(ZeroDivisionError) as raised, adapt.ending(mine):
        raise ZeroDivisionError("of the flow")
    # the last write, and the look before it, may be the very call that fails: it is said then
    assert store.get_run(run_id).info.status == "FAILED" or "injected" in str(getattr(raised.value, "__notes__", ()))
    assert (store.get_run(run_id).info.status == "FAILED") == (nth not in (6, 7))


def test_a_run_whose_attempt_cannot_begin_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store()
    run_id = store.create_run("1", {}).info.run_id
    client: Any = Interfering(store, 1, error)
    with pytest.raises(ValueError, match="injected"):
        begin(client, run_id)
    assert store.get_run(run_id).info.status == "FAILED"
