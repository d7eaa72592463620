"""Whether the champion with a change undone makes a training superfluous, and what a forged event may do."""

import math
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient

from dqn.bank import to_bank
from dqn.environments.world import NOMINAL, World
from flows import adapt
from flows.adapt import MOST_TEXT, adapt_policy
from flows.adaptation import confirm, watch
from flows.adaptation.confirm import LOST, Rehearsed, around, confirmed, rehearsal, rehearsed
from flows.registry.versions import CHAMPION, version_of
from flows.tracking.attempt import Attempt
from serving.policy import OnnxPolicy
from tests.support.dqn.living import balancing, live
from tests.support.flows.adapting import MODEL, REVERSED, Page, adapting
from tests.support.flows.in_memory import in_memory
from tests.support.flows.playing import UPRIGHT, Playing, directory, playing, store
from tests.support.serving.policies import BALANCES, FALLS, linear_model, member

__all__ = ["directory", "playing", "store"]  # the fixtures

ENOUGH = {"name": "the motor's sign undone", "balanced": 1.0, "around": 0.97, "home": 1.0}


@pytest.mark.parametrize(
    ("balanced", "around", "home", "gain"),
    [
        (1.0, 1.0, 1.0, ""),
        (0.95, 0.5, 0.55, ""),
        (0.94, 1.0, 1.0, "returns"),
        (1.0, 1.0 - LOST, 1.0, ""),
        (1.0, 0.89, 1.0, "robustness"),
        (math.nan, 1.0, 1.0, "returns"),
        (1.0, math.nan, 1.0, "robustness"),
        (1.0, 1.0, math.nan, "robustness"),
    ],
)
def test_a_training_is_to_gain_in_returns_or_robustness(balanced: float, around: float, home: float, gain: str) -> None:
    assert Rehearsed(name="", balanced=balanced, around=around, home=home).gain == gain


def linear(observation: Any) -> Any:
    right = observation @ np.array(BALANCES)
    return np.stack([-right, right], axis=1)


@pytest.mark.parametrize(
    ("world", "own", "name", "gain"),
    [
        (World(force_mag=-10.0), NOMINAL, "the motor's sign undone", ""),
        (World(force_mag=-10.0, action_delay=2), World(action_delay=2), "the motor's sign undone", ""),
        (NOMINAL, NOMINAL, "", ""),
        (World(length=0.06, force_mag=40.0), NOMINAL, "", "returns"),
        (World(force_mag=1.0, wind=0.9), NOMINAL, "", "returns"),
        (World(action_delay=9), NOMINAL, "", "returns"),
    ],
    ids=str,
)
def test_the_policy_is_rehearsed_with_the_changes_undone(world: World, own: World, name: str, gain: str) -> None:
    found = rehearsal(linear, world, own)
    assert (found.name, found.gain) == (name, gain)
    assert 0 <= min(found.balanced, found.around, found.home) <= max(found.balanced, found.around, found.home) <= 1
    assert found.home == rehearsal(linear, own, own).around, "as it is, around its own world"


def test_a_member_of_the_champions_bank_is_rehearsed_too(monkeypatch: pytest.MonkeyPatch) -> None:
    bank = OnnxPolicy.load(to_bank(linear_model(FALLS), [member(FALLS, {}), member(BALANCES, {})], run_id="r"))
    monkeypatch.setattr("flows.registry.versions.download", lambda *_: SimpleNamespace(policy=bank))
    store = in_memory(monkeypatch, "flows.adaptation.confirm")
    attempt = Attempt(run_id=store.create_run("1", {"attempt": "t"}).info.run_id, token="t")
    found = rehearsed.fn(MODEL, 1, {"gravity": 11.0}, attempt)
    assert (found["name"], found["balanced"]) == ("member 2 of the bank (nominal)", 1.0)


def test_the_worlds_around_one_differ_from_it_a_little() -> None:
    near = around(World(length=(0.4, 0.6), action_delay=3, sensor_bias=(0.0, 0.0, 0.1, 0.0)))
    assert len(set(map(str, near))) == len(near) == 12
    assert [world.length for world in near[:2]] == pytest.approx([0.4, 0.625])
    assert [world.sensor_bias[2] for world in near[8:10]] == pytest.approx([0.07, 0.13])
    assert [world.action_delay for world in near[-2:]] == [4, 3]


def episodes(*returns: float) -> dict[str, Any]:
    return {
        "drift": {"id": "d"},
        "episode": None,
        "recent_episodes": [
            {"version": "1", "episodic_return": each, "disturbed": False, "ended_at": 9e9, "truncated": each == 500}
            for each in returns
        ],
    }


@pytest.mark.parametrize(
    ("found", "status", "told", "ended"),
    [
        (ENOUGH, episodes(500), ["rehearsed", "confirmed"], True),
        (ENOUGH, episodes(500) | {"drift": None}, ["rehearsed", "recovered"], True),
        (ENOUGH, episodes(9, 9), ["rehearsed", "rehearsed"], False),
        (ENOUGH, episodes(9), ["rehearsed", "rehearsed"], False),
        (ENOUGH | {"around": 0.5}, episodes(500), ["rehearsed"], False),
    ],
)
def test_it_is_confirmed_where_the_show_balances_too(
    found: dict[str, Any], status: Any, told: list[str], ended: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "WATCHED_SECONDS", 0.0 if status["recent_episodes"][0]["episodic_return"] == 9 else 1.0)
    monkeypatch.setattr(watch, "POLL_SECONDS", 0.0)
    monkeypatch.setattr(confirm, "champion_of", lambda *_: 1)
    monkeypatch.setattr(confirm, "rehearsed", lambda *_: found)
    page = Page(status)
    adaptation = adapting(page)
    assert confirmed(adaptation, MODEL, REVERSED) is ended
    assert [stage for stage, _ in page.told] == told
    assert ended == (adaptation.outcome[0] != "rehearsed")


def test_without_a_champion_there_is_nothing_to_rehearse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confirm, "champion_of", lambda *_: None)
    page = Page()
    assert not confirmed(adapting(page), MODEL, REVERSED)
    assert page.told == []


WILD: list[dict[str, Any]] = [
    {"finding": "x" * 10**6, "playing": "rehearsed return nan of 500 " * 10**5},
    {"playing": "Playing with nothing undone: rehearsed return 1e308 of 500"},
    {"version": "nan"},
    {"version": "9" * 10**5},
    {"since": -(10**30)},
    {"drift": "d" * 10**4},
    {"model": "dqn-CartPole-v1' OR name LIKE '%"},
    {"model": "dqn-" + "m" * 10**4},
    {"model": "dqn-Acrobot-v1"},
    {"model": "dqn-imported_by_an_event~2Forged-v0"},
]


@pytest.mark.parametrize("forged", WILD, ids=[" ".join(each) for each in WILD])
def test_a_forged_event_promotes_nothing_but_what_the_gate_lets_through(
    forged: dict[str, Any], playing: Playing, store: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The champion balances here, and the event says otherwise or nonsense."""
    trained: list[Any] = []
    monkeypatch.setattr(adapt, "trained", lambda *given: trained.append(given))
    playing.really = NOMINAL
    playing.lived = [live(NOMINAL, balancing(), 100)]
    event: dict[str, Any] = {
        "drift": "forged",
        "model": MODEL,
        "version": "1",
        "since": 7,
        "serving": playing.url,
    } | forged
    playing.drift = event["drift"]
    versions = len(store.search_model_versions(f"name='{MODEL}'"))
    try:
        outcome = adapt_policy(**event)[0]
    except Exception:
        outcome = "failed"
    assert outcome in ("recovered", "refused", "failed")
    assert (trained, version_of(store, MODEL, CHAMPION)) == ([], UPRIGHT)
    assert len(store.search_model_versions(f"name='{MODEL}'")) == versions
    assert all(len(told["text"]) <= 2 * MOST_TEXT for told in playing.told)


@pytest.mark.parametrize("model", ["dqn-Acrobot-v1", "CartPole-v1", "dqn-chosen_by_an_event~2Any-v0"])
def test_an_event_chooses_neither_a_module_nor_another_environments_model(
    model: str, playing: Playing, store: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "chosen_by_an_event.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(adapt, "trained", lambda *_: pytest.fail("it was trained"))
    stage, text = adapt_policy(drift=model, model=model, version="1", since=7, serving=f"{playing.url}/")
    assert (stage, text.partition(". ")[0]) == (
        "refused",
        f"the server plays CartPole-v1, and the event is of the model {model!r}",
    )
    assert "chosen_by_an_event" not in sys.modules
