"""A change of the world is undone in the show at once. In process."""

import dataclasses

import pytest

from dqn.environments.world import World
from serving.loop.closed_loop import CALM_STEPS
from serving.loop.healing import SWITCHES_A_MINUTE
from serving.loop.rehearsal import Candidate
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
