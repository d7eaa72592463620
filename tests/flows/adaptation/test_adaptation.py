"""The steps of an adaptation in their order, its guards, and what is left of it: no server, no store, no training."""

import dataclasses
import time
from types import SimpleNamespace
from typing import Any

import pytest

from flows import adapt
from flows.adapt import adapt_policy
from flows.adaptation import timeline
from flows.adaptation.timeline import (
    BY_TAG,
    EXPERIMENT,
    MODEL_TAG,
    OUTCOME_TAG,
    TIMELINE,
    Adaptation,
    RefusedError,
    TakenError,
    begin_adaptation,
    end_adaptation,
    links,
)
from flows.serving_client import ADAPTATION_TAG, Show
from flows.tracking.attempt import ATTEMPT_TAG, Attempt
from tests.support.flows.adapting import MODEL, REVERSED, Page
from tests.support.flows.in_memory import Store, in_memory


@dataclasses.dataclass
class Steps:
    """What `adapt_policy` does, one after another, each step as it is told to end."""

    chosen: int | None = 2
    over: bool = False
    before: int | None = 1
    gate: str = "passed: better"
    enough: bool = False
    taken: list[str] = dataclasses.field(default_factory=list)

    def install(self, monkeypatch: pytest.MonkeyPatch, page: Page) -> None:
        training = Attempt(run_id="training", token="t")
        answers: dict[str, Any] = {
            "begin_adaptation": Attempt(run_id="r", token="t"),
            "identified": REVERSED,
            "remembered": self.chosen,
            "confirmed": self.enough,
            "trained": (4, "evaluation", training),
            "evaluate_elsewhere": "evaluation elsewhere",
            "wait_for_approval": None,
            "is_over": self.over,
            "champion_of": self.before,
            "promote": self.gate,
            "watched": ("recovered", "it stands"),
            "elsewhere": "as good",
            "test_agents": "agents",
            **dict.fromkeys(("draw_population", "draw_version", "report", "finish", "end_adaptation")),
        }

        def step(name: str) -> Any:
            def call(*_: Any, **__: Any) -> Any:
                self.taken.append(name)
                return answers[name]

            return call

        monkeypatch.setattr(adapt, "Show", lambda url, drift: page)
        for name in answers:
            monkeypatch.setattr(adapt, name, step(name))


def adapted(page: Page, **options: Any) -> tuple[str, str]:
    return adapt_policy("d", MODEL, "1", 7, page.url, finding="odd", playing="Playing on", **options)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("steps", "mode", "outcome", "taken"),
    [
        (Steps(), "automatic", "recovered", "evaluate_elsewhere is_over champion_of promote watched elsewhere"),
        (Steps(), "approve", "recovered", "evaluate_elsewhere wait_for_approval is_over champion_of promote watched"),
        (Steps(over=True), "automatic", "recovered", "evaluate_elsewhere is_over end_adaptation"),
        (Steps(before=2, gate="refused: tie"), "automatic", "recovered", "evaluate_elsewhere is_over champion_of"),
        (
            Steps(gate="refused: tie"),
            "automatic",
            "refused",
            "evaluate_elsewhere is_over champion_of promote end_adaptation",
        ),
        (
            Steps(chosen=None),
            "automatic",
            "recovered",
            "confirmed trained is_over champion_of promote watched test_agents draw_population draw_version report",
        ),
        (Steps(chosen=None, enough=True), "automatic", "started", "confirmed end_adaptation"),
    ],
)
def test_the_steps_of_an_adaptation(
    steps: Steps, mode: Any, outcome: str, taken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = Page()
    steps.install(monkeypatch, page)
    assert adapted(page, mode=mode)[0] == outcome
    first = ["begin_adaptation", "identified", "remembered"]
    assert steps.taken[: len(first) + len(taken.split())] == [*first, *taken.split()]
    assert steps.taken[-1] == "end_adaptation"
    assert ("test_agents" in steps.taken) == (steps.chosen is None and not steps.enough)
    assert page.told[0] == ("started", "version 1: odd. Playing on")
    promoted = [text for stage, text in page.told if stage == "promoted"]
    chosen = steps.chosen or 4
    expected = f"version {chosen} plays already" if steps.before == chosen else f"version {chosen}"
    assert promoted == ([expected] if "watched" in steps.taken else [])


def test_an_adaptation_that_may_not_begin_takes_no_step(monkeypatch: pytest.MonkeyPatch) -> None:
    page, steps = Page(), Steps()
    steps.install(monkeypatch, page)
    assert adapted(page, mode="off")[0] == "refused"
    assert (steps.taken, page.told[0][0]) == ([], "refused")

    def taken(*_: Any) -> None:
        raise TakenError("another is at it")

    monkeypatch.setattr(adapt, "begin_adaptation", taken)
    assert adapted(page) == ("taken", "another is at it")
    assert (steps.taken, len(page.told)) == ([], 1), "the page is the other's"


@pytest.mark.parametrize(
    ("own", "asked"), [("http://127.0.0.1:9/", True), ("http://127.0.0.1:9", True), ("http://serving:8000", False)]
)
def test_no_other_server_than_the_workers_is_asked_or_told(
    own: str, asked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVING_URL", own)
    page, steps = Page(), Steps()
    steps.install(monkeypatch, page)
    stage, text = adapted(page)
    assert (stage == "refused", bool(steps.taken), bool(page.told)) == (not asked, asked, asked)
    assert ("'http://127.0.0.1:9', and SERVING_URL is http://serving:8000" in text) == (not asked)


def test_twenty_adaptations_may_begin_within_an_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    most: list[int] = []

    def begin(show: Any, model: str, finding: str, most_an_hour: int) -> None:
        most.append(most_an_hour)
        raise RefusedError("too many")

    monkeypatch.setattr(adapt, "Show", lambda url, drift: Page())
    monkeypatch.setattr(adapt, "begin_adaptation", begin)
    assert adapted(Page()) == ("refused", "too many")
    assert most == [20]


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Store:
    store = in_memory(monkeypatch, "flows.adaptation.timeline")
    monkeypatch.setattr(timeline, "MlflowClient", lambda: store)
    return store


def begun(drift: str, *, most: int = 2, finding: str = "odd") -> Attempt:
    attempt: Attempt = begin_adaptation.fn(Show(url="u", drift=drift), MODEL, finding, most)
    return attempt


def test_an_adaptation_is_begun_once_and_by_one(store: Store) -> None:
    first = begun("first")
    tags = store.get_run(first.run_id).data.tags
    assert (tags[ADAPTATION_TAG], tags[MODEL_TAG], tags[BY_TAG]) == ("first", MODEL, "first")
    assert (tags[ATTEMPT_TAG], tags["mlflow.note.content"]) == (first.token, "odd")
    assert store.get_run(first.run_id).info.run_name == f"{MODEL} first"
    store.get_run(first.run_id).info.status = "FAILED"
    again = begun("first")
    assert (again.run_id, again.token == first.token) == (first.run_id, False)
    assert store.get_run(first.run_id).info.status == "RUNNING"
    tags[BY_TAG] = "another"
    with pytest.raises(TakenError, match="flow run another is adapting to this drift already"):
        begun("first")
    store.get_run(first.run_id).info.status = "FAILED"
    assert begun("first", finding="").run_id != first.run_id, "what another failed at is tried again"
    assert store.get_run(begun("first").run_id).data.tags["mlflow.note.content"] == "a drift was noticed"
    assert list(store.experiments) == [EXPERIMENT]


@pytest.mark.parametrize(("seconds_ago", "refused"), [(3_590, True), (3_610, False)])
def test_so_many_begin_within_an_hour(seconds_ago: float, refused: bool, store: Store) -> None:
    for drift in ("first", "second"):
        store.get_run(begun(drift).run_id).info.start_time = 1_000 * (time.time() - seconds_ago)
    assert begun("first")
    if refused:
        with pytest.raises(RefusedError, match=r"2 adaptations of .* began within an hour, at most 2 may"):
            begun("third")
    assert begun("third", most=3)


def of(store: Store, outcome: str, *, token: str = "t") -> Adaptation:
    run_id = store.create_run("1", {ATTEMPT_TAG: token, MODEL_TAG: MODEL}).info.run_id
    mine = Adaptation(show=Show(url="u", drift="d"), attempt=Attempt(run_id=run_id, token="t"))
    mine.note("started", "odd")
    mine.outcome = (outcome, "x" * 300)
    return mine


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What Prefect was told in a flow run."""
    told: list[dict[str, Any]] = []
    monkeypatch.setattr("prefect.artifacts.create_markdown_artifact", lambda **given: told.append(given))
    monkeypatch.setattr("prefect.events.emit_event", lambda event, **given: told.append({"event": event, **given}))
    return told


@pytest.mark.parametrize("outcome", ["recovered", "refused"])
def test_how_it_ended_is_kept_and_shown_and_only_a_recovery_is_an_event(
    outcome: str, store: Store, told: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = of(store, outcome)
    end_adaptation(alone, "FINISHED")
    run = store.get_run(alone.attempt.run_id)
    assert (run.info.status, run.data.tags[OUTCOME_TAG]) == ("FINISHED", outcome)
    (stage,) = store.files[alone.attempt.run_id][TIMELINE]["stages"]
    assert (stage["stage"], stage["text"]) == ("started", "odd")
    assert told == []
    monkeypatch.setattr(timeline, "flow_run_id", lambda: "a flow run")
    monkeypatch.setattr(timeline, "links", lambda run_id, version: {"run": "u/r"})
    end_adaptation(of(store, outcome), "FINISHED")
    page, *events = told
    assert (page["key"], page["description"]) == ("adaptation", f"{outcome}: {'x' * 300}"[:200])
    assert page["markdown"].startswith(f"# {outcome}\n\n{'x' * 300}\n\n| seconds | stage | what |")
    assert page["markdown"].endswith("| started | odd |\n\n[run](u/r)")
    assert [event["event"] for event in events] == ["dqn.policy.recovered"] * (outcome == "recovered")
    for event in events:
        assert event["resource"]["prefect.resource.id"] == f"dqn.policy.{MODEL}"
        assert event["payload"]["drift"] == "d"


def test_a_stale_attempt_leaves_the_end_to_the_newer_one(
    store: Store, told: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timeline, "flow_run_id", lambda: "a flow run")
    stale = of(store, "recovered", token="another")
    end_adaptation(stale, "FINISHED")
    assert (store.written, told) == ([], [])


@pytest.mark.parametrize(
    ("tracking", "ui", "in_flow_run", "expected"),
    [
        ("sqlite:///m.db", "http://prefect", False, {}),
        ("sqlite:///m.db", "http://prefect", True, {"flow run": "http://prefect/runs/1"}),
        ("sqlite:///m.db", None, True, {}),
        ("http://m", None, False, {"run": "http://m/#/experiments/1/runs/R", "version": "http://m/#/models/n/versions/2"}),
    ],
)  # fmt: skip
def test_pages_are_linked_where_a_server_has_them(
    tracking: str,
    ui: str | None,
    in_flow_run: bool,
    expected: dict[str, str],
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run_id = store.create_run("1", {}).info.run_id
    monkeypatch.setattr(timeline, "flow_run_id", lambda: "a flow run" if in_flow_run else None)
    monkeypatch.setattr("prefect.runtime.flow_run", SimpleNamespace(ui_url="http://prefect/runs/1"))
    monkeypatch.setattr("prefect.settings.PREFECT_UI_URL", SimpleNamespace(value=lambda: ui))
    monkeypatch.setattr("mlflow.get_tracking_uri", lambda: tracking)
    expected = {name: url.replace("/R", f"/{run_id}") for name, url in expected.items()}
    assert links(run_id, ("n", 2)) == expected
    expected.pop("version", None)
    assert links(run_id, None) == expected


def test_what_is_told_is_kept_with_its_time(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    page: Any = Page()
    mine = Adaptation(show=page, attempt=Attempt(run_id="r", token="t"))
    monkeypatch.setattr(timeline, "links", lambda run_id, version: {run_id: str(version)})
    sent: list[Any] = []
    page.tell = lambda stage, text, **more: sent.append((stage, text, more))
    mine.tell("training", "agents", progress=0.5, run="other", version=("n", 2), world=REVERSED)
    more = {"progress": 0.5, "links": {"other": "('n', 2)"}, "world": REVERSED}
    assert sent[0] == ("training", "agents", more)
    assert mine.end("recovered", "stands") == ("recovered", "stands") == mine.outcome
    assert sent[1] == ("recovered", "stands", {"progress": None, "links": {"r": "None"}, "world": None})
    assert [(event.stage, event.text) for event in mine.events] == [("training", "agents"), ("recovered", "stands")]
    assert abs(mine.events[0].at - time.time()) < 60
