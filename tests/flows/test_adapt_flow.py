"""Adaptation from a drift to a version that stands, against a server that plays for it, without Prefect."""

import json
import time
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient
from prefect.exceptions import FlowPauseTimeout

from dqn.environments.world import NOMINAL, World
from dqn.identification.record import Experience
from flows import adapt
from flows.adapt import adapt_policy
from flows.adaptation import known_worlds, retrain, watch
from flows.adaptation import timeline as adaptation
from flows.adaptation.timeline import EXPERIMENT, OUTCOME_TAG, TIMELINE, RefusedError, TakenError
from flows.failures.errors import InputError
from flows.registry import versions as registry
from flows.registry.versions import CHAMPION, PREVIOUS, WORLD_TAG
from flows.serving_client import Show
from flows.tracking.attempt import Attempt
from tests.support.dqn.living import balancing, live
from tests.support.flows.playing import (
    BACKWARDS,
    MODEL,
    REVERSED,
    REVERSING,
    UPRIGHT,
    Playing,
    directory,
    playing,
    store,
)

__all__ = ["directory", "playing", "store"]  # the fixtures


def run(playing: Playing, drift: str, /, **options: Any) -> tuple[str, str]:
    defaults: dict[str, Any] = {
        "model": MODEL,
        "version": "1",
        "since": 7,
        "finding": "the motor answers the other way",
    }
    playing.drift = drift
    return adapt_policy(drift=drift, serving=playing.url, **(defaults | {"most_an_hour": 100} | options))


def stages(playing: Playing) -> list[str]:
    return list(dict.fromkeys(told["stage"] for told in playing.told))


def champion(client: MlflowClient) -> int | None:
    return registry.version_of(client, MODEL, CHAMPION)


def adaptation_run(client: MlflowClient, drift: str) -> Any:
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment
    (found,) = client.search_runs([experiment.experiment_id], f"tags.`adaptation.drift` = '{drift}'")
    return found


@pytest.mark.slow
def test_a_version_for_the_world_is_remembered_and_later_the_one_before_it(
    playing: Playing, store: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVING_TOKEN", "secret")
    versions = len(store.search_model_versions(f"name='{MODEL}'"))
    assert run(playing, "reversed") == ("recovered", f"version {REVERSING} balances")
    assert champion(store) == REVERSING
    assert registry.version_of(store, MODEL, PREVIOUS) == UPRIGHT
    assert stages(playing) == ["started", "experience", "identified", "memory", "gate", "promoted", "recovered"]
    assert {told["drift"] for told in playing.told} == {"reversed"}
    assert {told["token"] for told in playing.told} == {"Bearer secret"}
    assert "force_mag -10" in next(told["text"] for told in playing.told if told["stage"] == "identified")
    expected = {told["stage"]: World.from_dict(told["world"]) for told in playing.told if told["world"] is not None}
    assert set(expected) == {"identified", "recovered"}, "what the server is to expect"
    assert [world.force_mag for world in expected.values()] == [pytest.approx(-10)] * 2
    assert playing.asked == [7]
    gate = registry.get_version(store, MODEL, REVERSING).tags["gate"]
    assert gate.startswith("passed: better: mean return 500")
    assert gate.endswith("(in the world force_mag -10)")
    assert len(store.search_model_versions(f"name='{MODEL}'")) == versions, "nothing was trained"
    kept = adaptation_run(store, "reversed")
    assert kept.info.status == "FINISHED"
    assert kept.data.tags[OUTCOME_TAG] == "recovered"
    files = {file.path for file in store.list_artifacts(kept.info.run_id)}
    assert {"experience", "identification.json", "evaluation", TIMELINE} <= files

    playing.really, playing.home = NOMINAL, REVERSED
    playing.lived = [live(NOMINAL, balancing(BACKWARDS), 100)]
    assert run(playing, "put right", version="2") == ("recovered", f"version {UPRIGHT} balances")
    assert champion(store) == UPRIGHT


def test_an_experience_that_no_world_explains_promotes_no_version(playing: Playing, store: MlflowClient) -> None:
    noise = np.random.default_rng(0).normal(size=(101, 4))
    poison = Experience(
        observation=noise[:-1],
        next_observation=noise[1:],
        action=playing.lived[0].action,
        push=np.zeros(100),
        episode=np.zeros(100, dtype=np.int64),
        step=np.arange(100),
    )
    playing.lived = [poison]
    stage, text = run(playing, "poisoned")
    assert stage == "refused"
    assert "no world explains this" in text
    assert "train by hand" in text
    assert champion(store) == UPRIGHT
    assert playing.asked == [7, 107, 207], "it looked again, at what came later"
    assert stages(playing) == ["started", "experience", "refused"]
    assert adaptation_run(store, "poisoned").data.tags[OUTCOME_TAG] == "refused"


def test_a_world_that_changes_while_it_is_looked_at_is_looked_at_again(playing: Playing, store: MlflowClient) -> None:
    (clear,) = playing.lived
    mixed = Experience(**{name: np.concatenate([getattr(clear, name)] * 2) for name in vars(clear)})
    mixed.action[100:] = 1 - mixed.action[100:]
    playing.lived = [mixed, clear]
    assert run(playing, "changing")[0] == "recovered"
    assert champion(store) == REVERSING


def test_a_version_that_does_not_stand_is_rolled_back(playing: Playing, store: MlflowClient) -> None:
    """A record that is forged well passes every test but this one."""
    playing.really = NOMINAL
    playing.status()  # the episode in which the drift is noticed counts for neither
    stage, text = run(playing, "forged")
    assert stage == "rolled back"
    assert f"version {UPRIGHT} plays again" in text
    assert champion(store) == UPRIGHT
    assert registry.get_version(store, MODEL, REVERSING).tags["gate"] == f"rolled back to version {UPRIGHT}"


def test_a_version_that_does_not_stand_stays_where_the_one_before_was_no_better(
    playing: Playing, store: MlflowClient
) -> None:
    playing.really = World(length=0.05, gravity=60.0, force_mag=1.0)
    for _ in range(3):
        playing.status()
    for episode in playing.episodes:
        episode["episodic_return"] = 1.0
    stage, text = run(playing, "hopeless")
    assert stage == "refused"
    assert "it stays" in text
    assert champion(store) == REVERSING


def test_where_nobody_watches_it_says_so(
    playing: Playing, store: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "WATCHED_SECONDS", 0.2)
    playing.watched = False
    stage, text = run(playing, "unwatched")
    assert (stage, champion(store)) == ("waiting", REVERSING)
    assert "has played no episode" in text


def test_a_champion_that_holds_the_world_stays(playing: Playing, store: MlflowClient) -> None:
    playing.really = NOMINAL
    playing.lived = [live(NOMINAL, balancing(), 100)]
    assert run(playing, "false alarm") == ("recovered", f"version {UPRIGHT} balances")
    assert champion(store) == UPRIGHT
    assert f"version {UPRIGHT} plays already" in [told["text"] for told in playing.told]


def test_it_can_be_turned_off_bounded_and_is_done_once(playing: Playing, store: MlflowClient) -> None:
    assert run(playing, "off", mode="off")[0] == "refused"
    stage, text = run(playing, "too many", most_an_hour=0)
    assert stage == "refused"
    assert "at most 0 may" in text
    assert champion(store) == UPRIGHT
    assert stages(playing) == ["refused"]
    assert run(playing, "once")[0] == "recovered"
    found = adaptation_run(store, "once")
    store.set_tag(found.info.run_id, adaptation.BY_TAG, "another flow run")
    told = len(playing.told)
    assert run(playing, "once") == ("taken", "flow run another flow run is adapting to this drift already")
    assert len(playing.told) == told, "the page is the other's"


def test_so_many_adaptations_begin_within_an_hour_and_each_is_begun_once(
    store: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def begun(drift: str) -> str:
        show = Show(url="http://127.0.0.1:9", drift=drift)
        run_id: str = adaptation.begin_adaptation.fn(show, "dqn-hourly", "", 2).run_id
        return run_id

    first, second = begun("first"), begun("second")
    assert begun("first") == first, "it goes on"
    with pytest.raises(RefusedError, match="2 adaptations of dqn-hourly began within an hour, at most 2 may"):
        begun("third")
    store.set_tag(second, adaptation.BY_TAG, "another flow run")
    with pytest.raises(TakenError, match="flow run another flow run is adapting to this drift already"):
        begun("second")
    now = time.time
    monkeypatch.setattr("flows.adaptation.timeline.time.time", lambda: now() + 3_590)
    with pytest.raises(RefusedError):
        begun("third")
    monkeypatch.setattr("flows.adaptation.timeline.time.time", lambda: now() + 3_660)
    assert begun("third") not in (first, second)
    store.set_terminated(second, "FAILED")
    assert begun("second") not in (first, second), "what another failed at is tried again"


def test_a_timeline_is_told_in_seconds_from_its_first_event() -> None:
    show, attempt = Show(url="http://127.0.0.1:9", drift="d"), Attempt(run_id="r", token="t")
    timeline = adaptation.Adaptation(show=show, attempt=attempt)
    head = "| seconds | stage | what |\n|---:|---|---|"
    assert timeline.markdown() == head
    timeline.events += [
        adaptation.Event(stage="started", text="a | b", at=1000.25),
        adaptation.Event(stage="gate", text="passed", at=1012.75),
    ]
    assert timeline.markdown() == f"{head}\n| 0.0 | started | a / b |\n| 12.5 | gate | passed |"


def test_a_world_that_is_as_it_was_again_needs_no_version(playing: Playing, store: MlflowClient) -> None:
    playing.over = True
    stage, text = run(playing, "over")
    assert (stage, champion(store)) == ("recovered", UPRIGHT)
    assert "nothing is promoted" in text
    assert "gate" not in stages(playing)


def test_a_promotion_waits_for_a_person_where_one_is_to_approve(
    playing: Playing, store: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="mode approve waits for a click on the page of a flow run"):
        run(playing, "by no policy", mode="approve")
    assert champion(store) == UPRIGHT

    def waits(**options: Any) -> None:
        assert champion(store) == UPRIGHT, "nothing is promoted before"
        assert options["timeout"] == adapt.APPROVAL_SECONDS
        if playing.told[-1]["drift"] == "ignored":
            raise FlowPauseTimeout

    monkeypatch.setattr(adapt, "flow_run_id", lambda: "a flow run")
    monkeypatch.setattr("prefect.flow_runs.pause_flow_run", waits)
    stage, text = run(playing, "ignored", mode="approve")
    assert (stage, champion(store)) == ("refused", UPRIGHT)
    assert "version 2 was not approved" in text
    assert run(playing, "approved", mode="approve")[0] == "recovered"
    assert "waiting" in stages(playing)
    assert champion(store) == REVERSING


def test_a_page_that_does_not_listen_stops_nothing(
    playing: Playing, store: MlflowClient, caplog: pytest.LogCaptureFixture
) -> None:
    playing.broken = True
    assert run(playing, "unheard")[0] == "recovered"
    assert "could not be told of 'identified'" in caplog.text


def test_a_failure_is_told_and_kept(playing: Playing, store: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise ValueError("broken\nin detail")

    monkeypatch.setattr(known_worlds, "passing_version", fails)
    with pytest.raises(ValueError, match="broken"):
        run(playing, "failing")
    assert playing.told[-1]["stage"] == "failed"
    assert playing.told[-1]["text"].startswith("broken: ")
    assert adaptation_run(store, "failing").info.status == "FAILED"


def test_an_undone_change_is_confirmed_without_a_training(playing: Playing, store: MlflowClient) -> None:
    bent = World(sensor_bias=(0.0, 0.0, 0.0873, 0.0))
    playing.really, playing.lived, playing.undone = bent, [live(bent, balancing(), 200)], True
    versions = len(store.search_model_versions(f"name='{MODEL}'"))
    undone = "5° of the angle's reading subtracted"
    stage, text = run(playing, "undone", playing=f"Playing with {undone}")
    assert (stage, text) == ("confirmed", f"no training needed: version 1 balances with {undone}")
    assert stages(playing) == ["started", "experience", "identified", "memory", "rehearsed", "confirmed"]
    assert playing.told[0]["text"].endswith(f"the other way. Playing with {undone}")
    assert World.from_dict(playing.told[-1]["world"]).sensor_bias == pytest.approx(bent.sensor_bias, rel=0.01)
    assert (champion(store), len(store.search_model_versions(f"name='{MODEL}'"))) == (UPRIGHT, versions)
    kept = adaptation_run(store, "undone")
    assert (kept.info.status, kept.data.tags[OUTCOME_TAG]) == ("FINISHED", "confirmed")
    assert "rehearsal.json" in {file.path for file in store.list_artifacts(kept.info.run_id)}


@pytest.mark.slow
def test_for_an_unknown_world_a_version_is_trained(
    playing: Playing, store: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrain, "NUM_AGENTS", 3)
    bent = World(sensor_bias=(0.0, 0.0, 0.0873, 0.0))
    playing.really, playing.lived = bent, [live(bent, balancing(), 200)]
    stage, _ = run(playing, "bent", playing="rehearsed return 500 of 500: no training needed")
    version = champion(store)
    assert (stage, version) == ("recovered", 3)
    assert stages(playing)[4:6] == ["rehearsed", "training"]
    assert playing.told[4]["text"].startswith(
        "version 1 with 5° of the angle's reading subtracted: rehearsed return 500"
    )
    assert "does not balance in the show" in playing.told[5]["text"]
    tags = registry.get_version(store, MODEL, 3).tags
    learned = World.from_dict(json.loads(tags[WORLD_TAG]))
    assert learned.sensor_bias == pytest.approx(bent.sensor_bias, rel=0.01)
    training = store.get_run(str(registry.get_version(store, MODEL, 3).run_id))
    assert training.info.status == "FINISHED"
    assert training.data.tags["adaptation.drift"] == "bent"
    assert (training.data.params["acceptance_epsilon"], training.data.params["max_updates"]) == ("0.0", "2000")
    files = {file.path for file in store.list_artifacts(training.info.run_id)}
    assert {"report.md", "learning_curves.png"} <= files
