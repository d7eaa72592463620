"""Drift detection in the show: alarms, findings, and recent episodes. In process."""

import asyncio
import dataclasses
import threading
from typing import Any

import pytest

from dqn.environments.world import World
from serving.episodes.simulation import Step
from serving.loop.closed_loop import CALM_STEPS
from serving.loop.healing import Look
from serving.loop.reports import PlayedEpisode
from serving.show.commands import PushCart
from tests.support.serving.policies import ACROBOT, FALLS, SWINGS
from tests.support.serving.stage import play_to_the_end
from tests.support.serving.stepped import Stepped, reversed_motor, told


def test_a_reversed_motor_is_noticed_and_said(stepped: Stepped) -> None:
    stepped.play(200)
    assert stepped.get("/api/status")["drift"] is None
    changed = stepped.loop.experience.newest
    reversed_motor(stepped)
    drift = stepped.get("/api/status")["drift"]
    assert drift["finding"] == "the motor answers the other way"
    assert drift["version"] == "1"
    assert changed < drift["since"] <= changed + 10, "surely after the change, and not long"
    assert drift["evidence"]["force_ratio"] == pytest.approx(-1.0, abs=1e-3)
    assert 1004 <= drift["noticed_at"] <= 1007
    adaptation = stepped.get("/api/adaptation")
    assert (adaptation["drift"], adaptation["stages"]) == (drift, [])
    assert adaptation["playing"]["text"] == "Playing with the motor's sign undone: rehearsed return 500 of 500"
    metrics = stepped.client.get("/metrics").text
    assert "serving_drift_noticed_total 1.0" in metrics
    assert "serving_drift 1.0" in metrics
    status = stepped.show.status()["loop"]
    assert (status["title"], status["state"]) == ("Noticed: the motor answers the other way", "drift")


def test_a_fall_is_looked_at_before_the_break_that_follows(stepped: Stepped) -> None:
    stepped.play(1)
    stepped.client.put("/api/world", json={"force_mag": -30.0, "gravity": 50.0})
    play_to_the_end(stepped.show)
    assert stepped.loop.experience.newest < 12
    assert stepped.loop.drift


def test_a_drift_is_over_when_steps_are_as_predicted_again(stepped: Stepped) -> None:
    stepped.play(50)
    reversed_motor(stepped)
    stepped.client.put("/api/world", json={})
    stepped.play(CALM_STEPS - 50)
    assert stepped.loop.drift
    stepped.play(100)
    assert stepped.get("/api/status")["drift"] is None
    adaptation = stepped.get("/api/adaptation")
    assert adaptation["drift"]["finding"] == "the motor answers the other way", "what it was can still be read"
    assert [stage["stage"] for stage in adaptation["stages"]] == ["as predicted"]
    assert "serving_drift 0.0" in stepped.client.get("/metrics").text
    first = adaptation["drift"]["id"]
    assert reversed_motor(stepped) != first, "and it is noticed again"
    assert stepped.get("/api/adaptation")["stages"] == []


class Noticing:
    """A test of steps that tells, at its first step, how long a change has lasted, and nothing more after that."""

    def __init__(self, lasted: int) -> None:
        self._told = iter([lasted])

    def update(self, step: Step) -> int:
        return next(self._told, 0)


@pytest.mark.parametrize(("lasted", "calm"), [(10, 250), (84, 252), (100, 300)])
def test_a_drift_that_was_noticed_late_takes_three_times_as_long_to_end(
    stepped: Stepped, lasted: int, calm: int
) -> None:
    stepped.play(120)
    watch: Any = Noticing(lasted)
    stepped.loop._steps = watch
    stepped.play(1)
    assert stepped.loop.drift
    assert stepped.loop.drift.since == stepped.loop.experience.newest
    stepped.play(calm - 1)
    assert stepped.loop.drift
    stepped.play(1)
    assert stepped.loop.drift is None
    assert [(stage.stage, stage.text) for stage in stepped.loop.stages] == [
        ("as predicted", "steps are as predicted again")
    ]


@pytest.mark.parametrize(("lasted", "looks"), [(1, [4, 6, 8, 10, 14, 20]), (7, [7, 8, 10, 14, 20]), (12, [12, 14, 20])])
def test_findings_are_computed_at_growing_intervals_until_one_is_sure(
    stepped: Stepped, lasted: int, looks: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []

    def look(columns: dict[str, Any], policy: object, own: World, world: World, since: int, playing: str) -> Look:
        seen.append((int(columns["id"][0]) - since, int(columns["id"][-1]) - since))
        return told(f"finding {len(seen)}", sure=seen[-1][1] == 20)

    monkeypatch.setattr("serving.loop.closed_loop.look", look)
    stepped.play(200)
    watch: Any = Noticing(lasted)
    stepped.loop._steps = watch
    for _ in range(200):
        stepped.play(1)
        if seen and seen[-1][1] == stepped.loop.experience.newest:
            assert stepped.loop.drift
            assert stepped.loop.drift.finding == f"finding {len(seen)}", "what is told is the latest look's"
    assert seen == [(-31, count) for count in looks]


def test_while_a_drift_lasts_the_breaks_are_short(stepped: Stepped) -> None:
    def break_after_a_fall() -> float:
        while stepped.show._break_left <= 0:
            stepped.show._tick(0.02)
        left = stepped.show._break_left
        while stepped.show._break_left > 0:
            stepped.show._tick(0.02)
        return left

    reversed_motor(stepped)
    lasting = break_after_a_fall()
    stepped.loop._end()
    stepped.loop._steps = None  # nothing is noticed
    assert lasting < break_after_a_fall() / 2


def test_recent_episodes_have_their_version_and_whether_the_cart_was_pushed(stepped: Stepped) -> None:
    play_to_the_end(stepped.show)
    stepped.play(3)
    stepped.show.command(PushCart(10.0))
    stepped.play(2)
    assert stepped.get("/api/status")["episode"] == {"version": "1", "step": 4, "disturbed": True}
    stepped.swap(FALLS, World())
    stepped.play(700)
    episodes = stepped.get("/api/status")["recent_episodes"]
    assert [(each["version"], each["disturbed"]) for each in episodes[:2]] == [("1", False), ("2", False)]
    assert (episodes[0]["episodic_return"], episodes[0]["truncated"]) == (500.0, True)
    assert (episodes[1]["episodic_return"] < 100, episodes[1]["truncated"]) == (True, False)
    assert episodes[0]["ended_at"] < episodes[1]["ended_at"]


def test_returns_that_fall_are_a_drift_in_any_environment(stepped: Stepped, monkeypatch: pytest.MonkeyPatch) -> None:
    stepped.swap(SWINGS, World(), properties=ACROBOT, actions=3)
    stepped.play(1)
    assert stepped.loop._steps is None
    played = iter(
        [-100.0] * 15 + [-500.0] * 12 + [-300.0] + [-500.0] * 2 + [-110.0, -110.0, -111.0, -110.0, -110.0, -110.0]
    )
    template = stepped.show.players[0].last
    served = stepped.show.players[0].served
    assert template

    def end_episode(push: float = 0.0) -> None:
        last = dataclasses.replace(template, index=9, episodic_return=next(played), terminated=True)
        first = dataclasses.replace(template, index=0, push=push, terminated=False, truncated=False)
        stepped.loop.observe(served, 1, first)
        stepped.loop.observe(served, 1, last)

    for _ in range(15):
        end_episode()
    assert stepped.loop.drift is None
    for push in [9.0] * 8 + [0.0] * 4 + [-9.0]:
        end_episode(push)
    assert stepped.loop.drift is None, "a fall after a push is no drift"
    for _ in range(2):
        end_episode()
    assert stepped.loop.drift
    assert stepped.loop.drift.finding == "returns have fallen: -500, -500, -500 lately, -100 is usual"
    assert stepped.loop.drift.evidence == {"usual_return": -100.0}
    assert stepped.loop.drift.since == stepped.loop.experience.newest - 2, "noticed at the fifth of them"
    for _ in range(6):
        assert stepped.loop.drift
        end_episode()
    assert stepped.loop.drift is None
    assert stepped.loop.stages[-1].text == "3 episodes as usual"


def test_a_detector_that_fails_is_reported_and_counted_and_the_show_goes_on(
    stepped: Stepped, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> int:
        raise ArithmeticError("too much")

    stepped.play(1)
    with monkeypatch.context() as patch:
        patch.setattr(stepped.loop._steps, "update", fail)
        step = stepped.show._step
        for _ in range(10):
            stepped.show._tick(0.02)
        assert stepped.show._step == step + 10
        trouble = "Watching for changes failed (too much); it is tried again at the next step."
        assert stepped.show.status()["loop"]["trouble"] == trouble
    assert "serving_drift_errors_total 10.0" in stepped.client.get("/metrics").text
    assert sum("watching for drift failed" in record.message for record in caplog.records) == 1
    stepped.play(1)
    assert stepped.show.status()["loop"]["trouble"] == ""


def test_the_status_before_the_first_drift(stepped: Stepped) -> None:
    status = stepped.loop.status()
    assert (status["state"], status["entries"], status["trouble"]) == ("calm", [], "")
    assert status["now"] == stepped.now


def test_a_failure_without_a_message_is_reported_by_its_class(
    stepped: Stepped, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> int:
        raise ArithmeticError

    monkeypatch.setattr(stepped.loop._steps, "update", fail)
    stepped.play(1)
    assert (
        stepped.loop.status()["trouble"]
        == "Watching for changes failed (ArithmeticError); it is tried again at the next step."
    )


def test_the_last_thirty_two_episodes_are_kept(stepped: Stepped) -> None:
    played = [
        PlayedEpisode(version="1", episodic_return=float(number), disturbed=False, ended_at=0.0, truncated=False)
        for number in range(33)
    ]
    stepped.loop.episodes.extend(played)
    kept = stepped.get("/api/status")["recent_episodes"]
    assert [episode["episodic_return"] for episode in kept] == list(range(1, 33))


def test_a_finding_is_computed_outside_the_event_loop(stepped: Stepped, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    released, begun = threading.Event(), threading.Event()

    def slow(columns: dict[str, Any], *_: object) -> Look:
        assert threading.current_thread() is not threading.main_thread()
        asked.append(len(columns["id"]))
        begun.set()
        assert released.wait(60)
        if len(asked) == 2:
            raise RuntimeError("no explanation")
        return told(f"look {len(asked)}")

    monkeypatch.setattr("serving.loop.closed_loop.look", slow)
    stepped.play(50)
    stepped.client.put("/api/world", json={"force_mag": -10.0})

    async def story() -> None:
        stepped.play(12)
        assert await asyncio.to_thread(begun.wait, 60)
        assert (stepped.loop.drift, stepped.loop.drifting) == (None, True)
        stepped.play(12)
        assert len(asked) == 1, "one look at a time"
        released.set()
        while not stepped.loop.trouble:
            await asyncio.sleep(0)
        assert stepped.loop.drift
        assert stepped.loop.drift.finding == "look 1"
        assert "(no explanation)" in stepped.loop.trouble, "a second search ran, because more transitions had arrived"

    asyncio.run(story())
    assert len(asked) == 2


def test_a_finding_for_a_version_that_was_replaced_is_discarded(stepped: Stepped) -> None:
    async def story() -> None:
        stepped.play(1)
        stepped.client.put("/api/world", json={"force_mag": -10.0})
        play_to_the_end(stepped.show)
        looking = stepped.loop._looking
        assert isinstance(looking, asyncio.Future)
        stepped.swap(FALLS, World(force_mag=-10.0))
        stepped.play(1)
        await looking

    asyncio.run(story())
    assert (stepped.loop.drift, stepped.loop.drifting, stepped.loop.trouble) == (None, False, "")


def test_an_adaptation_of_any_number_of_swaps_keeps_its_latest_stages(stepped: Stepped) -> None:
    stepped.play(50)
    reversed_motor(stepped)
    for _ in range(50):
        stepped.swap(FALLS, World())
        stepped.play(1)
    stages = stepped.get("/api/adaptation")["stages"]
    assert len(stages) == 40
    assert stages[-1]["text"] == "version 51 plays"
