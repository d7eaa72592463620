from typing import Any

import pytest

from dqn.environments.world import NOMINAL, World
from flows.adaptation.known_worlds import distance
from flows.adaptation.watch import ENOUGH_STEPS, changed_by, mean_return, verdict


def episode(returned: float, *, version: int = 2, at: float = 11.0, disturbed: bool = False) -> dict[str, Any]:
    return {
        "version": str(version),
        "episodic_return": returned,
        "disturbed": disturbed,
        "ended_at": at,
        "truncated": returned == 500,
    }


@pytest.mark.parametrize(
    ("episodes", "present", "expected"),
    [
        ([], None, "unsure"),
        ([episode(500)], None, "recovered"),
        ([episode(ENOUGH_STEPS)], None, "recovered"),
        ([episode(ENOUGH_STEPS - 1)], None, "unsure"),
        ([episode(9), episode(9)], None, "fell"),
        ([episode(9), episode(9), episode(500)], None, "recovered"),
        ([episode(500, version=1)], None, "unsure"),
        ([episode(500, at=10.0)], None, "unsure"),
        ([episode(500, disturbed=True)], None, "unsure"),
        ([episode(9), episode(9, disturbed=True)], None, "unsure"),
        ([], {"version": "2", "step": ENOUGH_STEPS, "disturbed": False}, "recovered"),
        ([], {"version": "2", "step": ENOUGH_STEPS - 1, "disturbed": False}, "unsure"),
        ([], {"version": "1", "step": ENOUGH_STEPS, "disturbed": False}, "unsure"),
        ([], {"version": "2", "step": ENOUGH_STEPS, "disturbed": True}, "unsure"),
    ],
)
def test_a_version_stands_if_an_episode_of_its_own_lasts(
    episodes: list[dict[str, Any]], present: dict[str, Any] | None, expected: str
) -> None:
    assert verdict({"recent_episodes": episodes, "episode": present}, 2, since=10.0) == expected


def test_the_mean_is_of_what_a_version_played_undisturbed() -> None:
    status = {"recent_episodes": [episode(10), episode(20), episode(500, disturbed=True), episode(99, version=1)]}
    assert mean_return(status, 2, since=0.0) == 15
    assert mean_return(status, 3, since=0.0) is None
    assert mean_return(status, 2, since=11.0) is None


def test_what_was_played_across_a_change_is_not_counted() -> None:
    episodes = [episode(500, at=5.0), episode(490, at=11.0), episode(25, at=12.0), episode(27, at=13.0)]
    status = {"recent_episodes": episodes, "drift": {"id": "d", "noticed_at": 10.0}}
    changed = changed_by(status, "d")
    assert changed == 11.0
    assert mean_return(status, 2, changed) == 26
    assert changed_by({**status, "recent_episodes": episodes[:1]}, "d") == 10.0
    assert changed_by(status, "another") is None
    assert changed_by({"drift": None}, "d") is None


def test_worlds_are_as_far_apart_as_their_differences_matter() -> None:
    reversed_motor = World(force_mag=-10.0)
    assert distance(NOMINAL, NOMINAL) == 0
    assert distance(NOMINAL, reversed_motor) == distance(reversed_motor, NOMINAL) == 2
    assert distance(World(action_delay=3), NOMINAL) == 3
    assert distance(World(length=(0.4, 0.6)), NOMINAL) == pytest.approx(0)
    assert distance(World(force_mag=-11.0), reversed_motor) < distance(NOMINAL, reversed_motor)
    assert distance(World(sensor_bias=(0.0, 0.0, 0.1, 0.0)), NOMINAL) == pytest.approx(1)
