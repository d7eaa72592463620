"""A change of the world is undone in the show at once. In process."""

import asyncio
import dataclasses
import threading
from typing import Any

import pytest

from dqn.environments.world import NOMINAL, World
from serving.loop.closed_loop import CALM_STEPS
from serving.loop.healing import SWITCHES_A_MINUTE, Look
from serving.loop.rehearsal import Candidate, candidates
from serving.metrics.metrics import Metrics
from serving.show.commands import PushCart
from serving.show.show import Show
from serving.show.viewer import Viewer
from tests.support.serving.policies import BALANCES
from tests.support.serving.stepped import Stepped, reversed_motor, told


def test_a_change_is_undone_until_it_is_put_right(stepped: Stepped) -> None:
    stepped.play(100)
    stepped.client.put("/api/world", json={"force_mag": -10.0})
    stepped.play(1300)
    fallen = sum(not each.truncated for each in stepped.loop.episodes)
    assert fallen <= 1
    playing = stepped.get("/api/adaptation")["playing"]
    assert (playing["name"], playing["rehearsed_return"], playing["holds"]) == ("the motor's sign undone", 500, True)
    assert 1002 <= playing["at"] <= 1003
    observation = stepped.loop.experience.columns(0)["observation"][-1:]
    served = stepped.show.players[0].served
    tensor = {"name": "observation", "shape": [1, 4], "datatype": "FP32", "data": observation[0].tolist()}
    answer = stepped.client.post("/v2/models/p/infer", json={"inputs": [tensor]}).json()
    q_values = next(each["data"] for each in answer["outputs"] if each["name"] == "q_values")
    assert q_values == pytest.approx(served.policy.q_values(observation)[0].tolist()), "clients get the champion"
    stepped.client.put("/api/world", json={})
    stepped.play(100)
    assert stepped.loop.policy(served) is served.policy
    playing = stepped.get("/api/adaptation")["playing"]
    assert playing["text"].startswith("Playing with nothing undone: rehearsed return")
    stepped.play(CALM_STEPS)
    assert stepped.get("/api/adaptation")["playing"] is None
    assert [stage.stage for stage in stepped.loop.stages] == ["as predicted"]
    assert sum(not each.truncated for each in stepped.loop.episodes) <= fallen + 1


def test_a_version_that_is_swapped_in_plays_without_anything_undone(stepped: Stepped) -> None:
    reversed_motor(stepped)
    assert stepped.loop.healing.undone
    stepped.swap(BALANCES, World(force_mag=-10.0))
    stepped.play(1)
    assert stepped.loop.healing.undone is None
    assert stepped.get("/api/adaptation")["playing"] is None
    assert [stage.stage for stage in stepped.loop.stages] == ["swapped"]


def test_a_world_that_nothing_balances_is_said_to_be_one(stepped: Stepped) -> None:
    stepped.play(100)
    stepped.client.put("/api/world", json={"force_mag": 0.0})
    stepped.play(60)
    playing = stepped.get("/api/adaptation")["playing"]
    assert (playing["name"], playing["holds"]) == ("", False)
    assert "no rehearsed candidate balances this world" in playing["text"]


def test_falls_in_a_world_that_nothing_balances_are_looked_at_ever_less_often(
    stepped: Stepped, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[int] = []

    def look(*_: object) -> Look:
        looks.append(stepped.loop.experience.newest)
        return dataclasses.replace(told("nothing"), world=None)

    monkeypatch.setattr("serving.loop.closed_loop.look", look)
    stepped.play(20)
    stepped.client.put("/api/world", json={"force_mag": 0.0, "wind": 20.0})
    stepped.play(4000)
    assert sum(number < 200 for number in looks) > 15
    assert 0 < sum(2000 < number < 4000 for number in looks) < 10


def test_an_explanation_that_steps_refute_no_longer_plays(stepped: Stepped, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = World(force_mag=-10.0)
    looks: list[int] = []

    def look(_: object, policy: Any, *__: object) -> Look:
        looks.append(stepped.loop.experience.newest)
        if len(looks) > 1:
            return dataclasses.replace(told("nothing explains it"), world=None)
        return dataclasses.replace(told("reversed"), world=wrong, chosen=candidates(policy, wrong, NOMINAL)[1])

    monkeypatch.setattr("serving.loop.closed_loop.look", look)
    stepped.play(20)
    stepped.client.put("/api/world", json={"wind": 4.0})
    while not looks:
        stepped.play(1)
    served = stepped.show.players[0].served
    assert stepped.loop.policy(served) is not served.policy
    stepped.play(60)
    assert stepped.loop.policy(served) is served.policy
    assert stepped.get("/api/adaptation")["playing"] is None


def test_only_so_many_times_a_minute_another_candidate_begins_to_play(stepped: Stepped) -> None:
    stepped.play(1)
    healing = stepped.loop.healing
    names = []
    for number in range(2 * SWITCHES_A_MINUTE):
        candidate = Candidate(name=str(number), begin=None)
        healing.take(dataclasses.replace(told(""), chosen=candidate), ())
        names.append(healing.playing.name if healing.playing else "")
    assert names == [str(min(number, SWITCHES_A_MINUTE - 1)) for number in range(2 * SWITCHES_A_MINUTE)]
    stepped.now += 60
    healing.take(dataclasses.replace(told(""), chosen=Candidate(name="later", begin=None)), ())
    assert healing.playing
    assert healing.playing.name == "later"


def test_pushes_undo_nothing(stepped: Stepped, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[object] = []
    monkeypatch.setattr(stepped.loop, "_look", looks.append)
    stepped.play(20)
    for number in range(300):
        stepped.show.command(PushCart((-40.0, 30.0, 60.0)[number % 3]))
        stepped.play(1 + number % 4)
    assert any(each.disturbed and not each.truncated for each in stepped.loop.episodes), "the pole has fallen"
    assert (looks, stepped.loop.latest, stepped.loop.healing.playing) == ([], None, None)


def test_pushes_into_a_changed_world_change_nothing_of_what_is_undone(stepped: Stepped) -> None:
    stepped.play(20)
    stepped.client.put("/api/world", json={"force_mag": -10.0})
    for number in range(100):
        stepped.show.command(PushCart((-30.0, 20.0)[number % 2]))
        stepped.play(6)
    assert stepped.get("/api/status")["drift"]["finding"] == "the motor answers the other way"
    assert stepped.get("/api/adaptation")["playing"]["name"] == "the motor's sign undone"


@pytest.mark.parametrize(("stage", "world"), [("recovered", None), ("confirmed", {"force_mag": -10.2})])
def test_a_version_that_recovered_with_a_change_undone_goes_on_with_it(
    stepped: Stepped, stage: str, world: dict[str, Any] | None
) -> None:
    drift = reversed_motor(stepped)
    stepped.play(100)
    fallen = sum(not each.truncated for each in stepped.loop.episodes)
    playing = stepped.get("/api/adaptation")["playing"]
    report = {"drift": drift, "stage": stage, "text": "balances", "world": world}
    told = stepped.client.post("/api/adaptation", json=report).json()
    assert (told["playing"], told["stages"][-1]["stage"]) == (playing, stage)
    stepped.play(1200)
    assert (stepped.loop.drift, stepped.get("/api/adaptation")["playing"]) == (None, playing)
    assert sum(not each.truncated for each in stepped.loop.episodes) == fallen
    stepped.client.put("/api/world", json={"force_mag": -10.0, "action_delay": 3})
    stepped.play(200)
    later = stepped.get("/api/status")["drift"]
    assert later["id"] != drift, "another change is another drift"
    assert "3 steps late" in later["finding"]
    assert "the motor's sign undone, 3 steps of delay" in stepped.get("/api/adaptation")["playing"]["name"]
    stepped.client.put("/api/world", json={"force_mag": -10.0})
    stepped.play(900)
    assert (stepped.loop.drift, stepped.loop.stages[-1].stage) == (None, "as predicted")
    assert stepped.get("/api/adaptation")["playing"]["name"] == "the motor's sign undone"
    stepped.play(500)
    assert stepped.loop.episodes[-1].truncated
    stepped.client.put("/api/world", json={})
    stepped.play(800)
    assert stepped.loop.episodes[-1].truncated
    assert stepped.get("/api/adaptation")["playing"]["name"] == ""


def test_a_drift_is_noticed_even_if_it_cannot_be_looked_at(
    stepped: Stepped, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> Look:
        raise ArithmeticError("singular")

    with monkeypatch.context() as patch:
        patch.setattr("serving.loop.closed_loop.look", fail)
        stepped.play(20)
        stepped.client.put("/api/world", json={"force_mag": -10.0})

        async def story() -> None:
            for _ in range(100):
                stepped.play(1)
                await asyncio.sleep(0.001)

        asyncio.run(story())
        assert stepped.loop.drift
        assert stepped.loop.drift.finding == "the cart moves unlike predicted; no single cause explains it"
        assert stepped.loop.untold.is_set()
        assert "singular" in stepped.loop.trouble
    assert sum("watching for drift failed" in record.message for record in caplog.records) == 1
    stepped.play(100)
    assert stepped.loop.trouble == ""
    assert stepped.loop.drift.finding == "the motor answers the other way"


def test_a_look_that_is_taken_when_the_server_stops_is_discarded(
    stepped: Stepped, monkeypatch: pytest.MonkeyPatch
) -> None:
    released, begun = threading.Event(), threading.Event()

    def slow(*_: object) -> Look:
        begun.set()
        assert released.wait(60)
        return told("too late")

    monkeypatch.setattr("serving.loop.closed_loop.look", slow)
    stepped.play(20)
    stepped.client.put("/api/world", json={"force_mag": -10.0})

    async def story() -> None:
        stepped.play(40)
        assert await asyncio.to_thread(begun.wait, 60)
        assert stepped.app.live
        stepped.app.live.stage.close()
        await asyncio.sleep(0)

    asyncio.run(story())
    threads = [each for each in threading.enumerate() if each.name == "serving-aside"]
    assert all(each.daemon for each in threads)
    released.set()
    for each in threads:
        each.join(60)
    assert (stepped.loop.latest, stepped.loop.drifting) == (None, False)


def test_a_show_that_compares_versions_plays_them_as_they_are(stepped: Stepped) -> None:
    reversed_motor(stepped)
    stepped.play(50)
    assert stepped.loop.healing.undone
    stage = stepped.app.live.stage if stepped.app.live else None
    assert stage
    compared = Show(stepped.app.models, Metrics(), ("", ""), real_world=stage.real_world)
    compared.join(Viewer())
    while not compared.players or not all(player.simulation.over for player in compared.players):
        compared._tick(0.02)
    assert max(player.episodic_return for player in compared.players) < 100
    compared.close()


@pytest.mark.parametrize(
    ("own", "change", "name"),
    [
        ({"action_delay": 2}, {"action_delay": 2, "force_mag": -10.0}, "the motor's sign undone"),
        ({"length": [0.4, 0.6], "wind": [-1.0, 1.0]}, {"force_mag": -10.0}, "the motor's sign undone"),
    ],
    ids=str,
)
def test_what_is_undone_is_relative_to_the_versions_own_world(
    stepped: Stepped, own: dict[str, Any], change: dict[str, Any], name: str
) -> None:
    stepped.swap(BALANCES, World.from_dict(own))
    stepped.client.put("/api/world", json=own)
    stepped.play(100)
    assert stepped.loop.latest is None
    stepped.client.put("/api/world", json=own | change)
    stepped.play(700)
    playing = stepped.get("/api/adaptation")["playing"]
    assert (playing["name"], playing["holds"]) == (name, True)
