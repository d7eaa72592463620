"""What an adaptation decides, one decision at a time: no server, no store, no clock.

In which order it does so is in test_adaptation.py, and with all of them in test_adapt_flow.py.
"""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from prefect.exceptions import FlowPauseTimeout

from dqn.environments.world import NOMINAL, World
from dqn.identification.record import UnexplainedError
from dqn.presets import PRESETS
from flows import adapt
from flows.adaptation import identify, known_worlds, retrain
from flows.adaptation.identify import identified, identify_world
from flows.adaptation.known_worlds import remembered
from flows.adaptation.retrain import begin_training, trained
from flows.adaptation.timeline import RefusedError
from flows.adaptation.watch import champion_of
from flows.failures.errors import InputError
from flows.registry.versions import CHAMPION
from flows.tracking.attempt import Attempt, FencedClient, StaleAttemptError
from flows.tracking.runs import read_config
from tests.support.flows.adapting import MODEL, REVERSED, Page, adapting
from tests.support.flows.in_memory import Store, in_memory


@pytest.mark.parametrize("explained", [0, 1, 2, 3])
def test_an_experience_is_looked_at_three_times_each_time_at_what_came_later(
    explained: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def fetched(url: str, since: int, attempt: Attempt) -> tuple[str, int, int]:
        asked.append(since)
        return f"after {since}", 100, since + 100

    def found(lived: str, model: str, attempt: Attempt) -> dict[str, Any]:
        clear = lived == f"after {7 + 100 * explained}"
        return {"refusal": "" if clear else f"nothing explains {lived}", "world": REVERSED, "text": "reversed"}

    monkeypatch.setattr(identify, "fetch", fetched)
    monkeypatch.setattr(identify, "identify_world", found)
    page = Page()
    if explained < 3:
        assert identified(adapting(page), MODEL, 7) == REVERSED
        assert page.told[-1] == ("identified", "reversed")
    else:
        with pytest.raises(RefusedError, match=r"nothing explains after 207\. Nothing was trained or promoted"):
            identified(adapting(page), MODEL, 7)
    assert asked == [7, 107, 207][: explained + 1]
    assert page.told.count(("experience", "100 transitions")) == len(asked)


def test_what_explains_an_experience_is_kept_and_what_cannot_be_explained_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = in_memory(monkeypatch, "flows.adaptation.identify")
    attempt = Attempt(run_id=store.create_run("1", {"attempt": "t"}).info.run_id, token="t")
    files = store.files[attempt.run_id]
    files["lived"] = {"env_id": "LunarLander-v3", "transitions": {}, "world": {}}
    lived = f"memory:/{attempt.run_id}/lived"
    said = identify_world.fn(lived, "dqn-LunarLander-v3", attempt)["refusal"]
    assert "the worlds of LunarLander-v3 cannot be identified" in said
    said = identify_world.fn(lived, "dqn-Acrobot-v1", attempt)["refusal"]
    assert said == "the server plays LunarLander-v3, and the event is of the model 'dqn-Acrobot-v1'"

    def unexplained(*_: Any) -> None:
        raise UnexplainedError("too little")

    files["lived"]["env_id"] = "CartPole-v1"
    monkeypatch.setattr(identify, "as_experience", lambda transitions, newest: newest)
    monkeypatch.setattr(identify, "identify", unexplained)
    assert identify_world.fn(lived, MODEL, attempt) == {"refusal": "too little"}
    assert files.keys() == {"lived"}

    class Found(SimpleNamespace):
        def __str__(self) -> str:
            return "explains 99%"

    world = World(force_mag=-10.0)
    monkeypatch.setattr(
        identify, "identify", lambda newest, home: Found(world=world, changed={}, explained=newest, noise=home)
    )
    result = {"refusal": "", "world": REVERSED, "text": "force_mag -10: explains 99%"}
    assert identify_world.fn(lived, MODEL, attempt) == result
    assert files["identification.json"] == {**result, "changed": {}, "explained": 300, "noise": NOMINAL}


def test_training_takes_half_the_presets_updates_and_no_random_actions(monkeypatch: pytest.MonkeyPatch) -> None:
    store = in_memory(monkeypatch, "flows.adaptation.retrain")
    attempt = begin_training.fn("CartPole-v1", 5, REVERSED, "http://serving", "d")
    client: Any = store
    assert read_config(client, attempt.run_id) == dataclasses.replace(
        PRESETS["cartpole"],
        seed=5,
        num_agents=8,
        max_updates=2_000,
        acceptance_epsilon=0.0,
        world=World.from_dict(REVERSED),
    )
    tags = store.get_run(attempt.run_id).data.tags
    assert (tags["adaptation.drift"], tags["adaptation.serving"]) == ("d", "http://serving")


def test_a_version_that_is_trained_is_told_and_not_put_under_stress(monkeypatch: pytest.MonkeyPatch) -> None:
    training = Attempt(run_id="training", token="t")

    @contextmanager
    def failing(fenced: FencedClient, checkpoint: Any) -> Iterator[None]:
        assert (fenced.attempt, checkpoint.name) == (training, "training.ckpt")
        yield

    def evaluate(model: str, version: int, attempt: Attempt, *, stressed: bool) -> str:
        assert not stressed
        return f"evaluation of {model} {version}"

    for name, answer in (("train", "run"), ("export", "model"), ("register", 4), ("begin_training", training)):
        monkeypatch.setattr(retrain, name, lambda *_, answer=answer: answer)
    monkeypatch.setattr(retrain, "failing", failing)
    monkeypatch.setattr(retrain, "evaluate", evaluate)
    monkeypatch.setattr(retrain, "MlflowClient", lambda: None)
    page = Page()
    found = trained(adapting(page), "CartPole-v1", 1, REVERSED, "checkpoints")
    assert found == (4, f"evaluation of {MODEL} 4", training)
    assert (page.told, page.progress) == ([("training", "8 agents")], [0.0])


def test_what_is_remembered_depends_on_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    in_memory(monkeypatch, "flows.adaptation.known_worlds")
    monkeypatch.setattr(known_worlds, "passing_version", lambda *_, seed: (seed, "tried"))
    page = Page()
    assert remembered(adapting(page), MODEL, "CartPole-v1", REVERSED) == 26
    monkeypatch.setattr(known_worlds, "passing_version", lambda *_, seed: (None, "none"))
    assert remembered(adapting(page), MODEL, "CartPole-v1", REVERSED) is None
    assert page.told == [("memory", "version 26 solves this world: tried"), ("memory", "none")]


def test_an_approval_is_waited_for_an_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    page, asked = Page(), []
    with pytest.raises(InputError, match="mode approve waits for a click"):
        adapt.wait_for_approval(adapting(page), MODEL, 2)
    assert page.told == []

    def pause(**options: Any) -> None:
        asked.append(options)
        if len(asked) == 2:
            raise FlowPauseTimeout

    monkeypatch.setattr(adapt, "flow_run_id", lambda: "a flow run")
    monkeypatch.setattr("prefect.flow_runs.pause_flow_run", pause)
    adapt.wait_for_approval(adapting(page), MODEL, 2)
    assert asked == [{"timeout": 3600, "poll_interval": 2, "key": "promote-2"}]
    with pytest.raises(RefusedError, match="version 2 was not approved within an hour: promote it by hand"):
        adapt.wait_for_approval(adapting(page), MODEL, 2)
    assert [stage for stage, _ in page.told] == ["waiting", "waiting"]


@pytest.mark.parametrize(
    ("error", "told", "status"),
    [
        (None, [], "FINISHED"),
        (RefusedError("by the policy that plays"), [("refused", "by the policy that plays")], "FINISHED"),
        (ValueError("odd\nindeed"), [("failed", "odd: the log of the flow run says more")], "FAILED"),
        (KeyboardInterrupt(), [("failed", "KeyboardInterrupt: the log of the flow run says more")], "KILLED"),
        (StaleAttemptError("replaced"), [], None),
    ],
)
def test_however_it_ends_page_and_run_say_how(
    error: BaseException | None, told: list[Any], status: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[str] = []
    monkeypatch.setattr(adapt, "end_adaptation", lambda adaptation, status: ended.append(status))
    page = Page()
    raised = None
    try:
        with adapt.ending(adapting(page)):
            if error:
                raise error
    except BaseException as leaving:
        raised = leaving
    assert raised is (None if isinstance(error, RefusedError) else error)
    assert (page.told, ended) == (told, [status] if status else [])


def test_the_previous_champion_is_read_from_the_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    store: Store = in_memory(monkeypatch, "flows.adaptation.watch")
    store.version({})
    attempt = Attempt(run_id="r", token="t")
    assert champion_of.fn(MODEL, attempt) is None
    store.aliases[CHAMPION] = 1
    assert champion_of.fn(MODEL, attempt) == 1
