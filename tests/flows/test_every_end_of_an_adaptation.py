"""However an adaptation ends, its run and its timeline end, and so does the training it began."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from flows import adapt
from flows.adaptation import retrain, timeline, watch
from flows.adaptation.timeline import MODEL_TAG, OUTCOME_TAG, TIMELINE, RefusedError
from flows.registry.champion import promote
from flows.registry.gate_tag import PENDING
from flows.registry.lock import OvertakenError
from flows.serving_client import ADAPTATION_TAG
from flows.tracking.attempt import ATTEMPT_TAG, Attempt
from tests.support.flows.adapting import MODEL, REVERSED, Page
from tests.support.flows.ends import FINAL, Interfering, connected, error, interrupt, prepare
from tests.support.flows.promotion import evaluated, store

__all__ = ["store"]  # the fixture


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
        "confirmed": False,
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


UNTRAINED = ("identified", "remembered", "confirmed", "begin_training")
STEPS = (*UNTRAINED, "train", "export", "register", "evaluate", "wait_for_approval")
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
    if step in UNTRAINED:
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
def test_a_training_that_is_no_longer_needed_is_finished_all_the_same(
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
