"""Recorded transitions of the show, and GET /api/experience. In process."""

import pytest

from serving.loop.experience import CAPACITY, Experience
from serving.show.commands import PushCart
from tests.support.serving.stepped import Stepped
from tests.support.serving.steps import step


def test_experience_is_what_policy_and_world_produced(stepped: Stepped) -> None:
    stepped.play(30)
    stepped.show.command(PushCart(40.0))
    stepped.play(1)
    lived = stepped.get("/api/experience")
    assert (lived["model"], lived["version"], lived["env_id"], lived["world"]) == ("p", "1", "CartPole-v1", {})
    transitions = lived["transitions"]
    assert lived["next"] == transitions["id"][-1] == len(transitions["id"])
    assert transitions["push"][-1] == 40.0
    assert sum(map(bool, transitions["push"])) == 1
    assert transitions["observation"][5] == transitions["next_observation"][4]
    assert transitions["step"] == list(range(len(transitions["id"])))
    assert set(transitions["version"]) == {"1"}
    later = stepped.get(f"/api/experience?since={lived['next'] - 3}")
    assert later["transitions"]["id"] == transitions["id"][-3:]
    for wrong in ("-1", "x", "1.5"):
        assert stepped.client.get(f"/api/experience?since={wrong}").status_code == 400
    assert stepped.client.get("/api/experience?from=1").status_code == 400


def test_no_answer_contains_the_real_world(stepped: Stepped) -> None:
    stepped.client.put("/api/world", json={"gravity": 31.27, "length": 0.1, "push_interval": 777})
    stepped.play(100)
    assert stepped.get("/api/experience")["world"] == {}
    told = [stepped.client.get(path).text for path in ("/api/status", "/api/adaptation")]
    assert "31.3" in told[1], "what the steps tell is told, rounded"
    assert not any(each in text for text in told for each in ("31.27", "push_interval", '"changed"'))


@pytest.mark.slow
def test_experience_is_a_ring_of_transitions_in_order() -> None:
    experience = Experience()
    for number in range(CAPACITY + 10):
        added = experience.add(version=2, episode=1, step=step(number, number % 2, [number] * 4, [number + 1] * 4, 3.5))
        assert added == number + 1
    assert experience.newest == CAPACITY + 10
    kept = experience.since(0)
    assert (kept.id[0], kept.id[-1], len(kept.id)) == (11, CAPACITY + 10, CAPACITY)
    assert kept.observation[0] == [10.0] * 4
    assert kept.next_observation[0] == [11.0] * 4
    latest = experience.since(CAPACITY + 8)
    assert latest.id == [CAPACITY + 9, CAPACITY + 10]
    assert (latest.version, latest.push, latest.action) == (["2", "2"], [3.5, 3.5], [0, 1])
    assert experience.since(CAPACITY + 10).id == []


def test_experience_of_another_environment_begins_anew_and_ids_go_on() -> None:
    experience = Experience()
    experience.add(version=1, episode=1, step=step(0, 0, [0] * 4, [0] * 4))
    experience.add(version=2, episode=2, step=step(0, 0, [7] * 6, [8] * 6))
    kept = experience.since(0)
    assert (kept.id, kept.observation) == ([2], [[7.0] * 6])
