"""Which version is remembered for a world, without a registry; how an adaptation asks is in test_adapt_flow.py."""

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from dqn.environments.world import NOMINAL, World
from dqn.seeding import SELECTION, stream_seed
from flows.adaptation import known_worlds
from flows.adaptation.known_worlds import TRIED, distance, near_versions, passing_version
from flows.failures.errors import RegistryError
from flows.registry import versions
from flows.registry.versions import WORLD_TAG

PASSED = {"gate": "passed", "eval.mean_return": "500"}


class Registered:
    """A registry of versions with these tags, numbered from 1."""

    def __init__(self, *tags: dict[str, str]) -> None:
        self.versions = [SimpleNamespace(version=str(number), tags=each) for number, each in enumerate(tags, start=1)]

    def search_model_versions(self, query: str) -> list[Any]:
        assert query == "name='dqn-CartPole-v1'"
        return self.versions


def of(world: World, **tags: str) -> dict[str, str]:
    return {WORLD_TAG: json.dumps(world.to_dict()), **PASSED, **tags}


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (NOMINAL, 0.0),
        (World(force_mag=-10.0), 2.0),
        (World(length=0.25), 0.5),
        (World(length=(0.4, 0.6), action_delay=(0, 2)), 1.0),
        (World(action_delay=3), 3.0),
        (World(force_mag=40.0, action_delay=4), 5.0),
        (World(wind=2.0, masscart=3.0, gravity=19.6), 3.0),
        (World(sensor_bias=(9.0, 0.0, 0.2, 0.0)), 2.0),
    ],
    ids=str,
)
def test_the_distance_of_two_worlds_is_in_changes_that_matter(other: World, expected: float) -> None:
    assert distance(NOMINAL, other) == distance(other, NOMINAL) == pytest.approx(expected)
    assert distance(other, other) == 0.0


def test_versions_that_passed_are_remembered_the_nearest_and_newest_first(caplog: pytest.LogCaptureFixture) -> None:
    near, far = World(force_mag=-9.0), World(force_mag=-20.0)
    client: Any = Registered(
        of(far),
        of(near),
        {WORLD_TAG: "{}", "gate": "passed"},  # never evaluated
        PASSED,  # of before worlds were kept
        of(near),
        of(near, gate="rolled back to version 5"),
        {**of(near), WORLD_TAG: "{"},
        {**of(near), WORLD_TAG: '{"lenght": 1}'},
        of(NOMINAL),
        of(near, gate="refused: tie"),
        {WORLD_TAG: "{}", "eval.mean_return": "500"},
        of(World(force_mag=-10.0), gate="refused: a member of the bank returns 9", **{versions.BANKED_TAG: "2"}),
        of(World(force_mag=-10.0), **{versions.BANKED_TAG: "2"}),
    )
    assert near_versions(client, "dqn-CartPole-v1", World(force_mag=-10.0)) == [13, 10, 5, 2, 1, 11][:TRIED]
    assert [record.args[0] for record in caplog.records if isinstance(record.args, tuple)] == ["7", "8"]


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> dict[int, int]:
    """Version k, of force k, returns 100 k + 75; version 2 is no policy. Seeds of the versions that have played."""
    seeds: dict[int, int] = {}

    def download(name: str, version: int) -> Any:
        return SimpleNamespace(version=version, policy=SimpleNamespace(metadata=SimpleNamespace(world=version)))

    def require(artifact: Any, env_id: str) -> None:
        if artifact.version == 2:
            raise RegistryError("version 2 is damaged")

    def play(policy: Any, world: World, *, seed: int) -> Any:
        seeds[policy.metadata.world] = seed
        return np.array([0.0, 200.0 * policy.metadata.world + 150.0])

    monkeypatch.setattr(versions, "download", download)
    monkeypatch.setattr(known_worlds, "require_playable", require)
    monkeypatch.setattr(known_worlds, "play", play)
    return seeds


def test_the_nearest_that_holds_the_world_is_taken(played: dict[int, int]) -> None:
    forces = (17.0, 16.0, 15.0, 14.0, 13.0)
    client: Any = Registered(*(of(World(force_mag=force)) for force in forces))
    found = passing_version(client, "dqn-CartPole-v1", "CartPole-v1", World(force_mag=18.0), seed=3)
    assert found == (
        4,
        "version 1 (1) returns 175; version 2 cannot be played; version 3 (3) returns 375; version 4 (4) returns 475",
    )
    assert played == {version: stream_seed(3, SELECTION, version) for version in (1, 3, 4)}


def test_a_version_that_returns_too_little_is_not_taken_and_one_without_a_world_does_not_play(
    played: dict[int, int],
) -> None:
    client: Any = Registered(of(NOMINAL))
    found = passing_version(client, "dqn-CartPole-v1", "CartPole-v1", NOMINAL, seed=0)
    assert found == (None, "version 1 (1) returns 175")
    without_world: Any = Registered(PASSED)
    found = passing_version(without_world, "dqn-CartPole-v1", "CartPole-v1", NOMINAL, seed=0)
    assert found == (None, "no version has a world of its own")
