"""Versions in a show: two side by side, a swap, and the history of each. Stepped by hand."""

import asyncio
import dataclasses
from pathlib import Path

import orjson
import pytest

from serving.metrics.metrics import Metrics
from serving.models.follower import Models
from serving.policy import OnnxPolicy
from serving.show.commands import PushCart, Restart
from serving.show.show import Show
from serving.show.viewer import Viewer
from tests.support.serving.inprocess import two_versions
from tests.support.serving.policies import ACROBOT, SWINGS, linear_model
from tests.support.serving.stage import play_to_the_end, show_of


@pytest.mark.parametrize("disturb", ["push", "world"])
def test_the_history_is_of_undisturbed_episodes(tmp_path: Path, disturb: str) -> None:
    show, _ = show_of(tmp_path)
    show._tick(0.02)
    if disturb == "push":
        show.command(PushCart(1.0))
    else:
        show.real_world.change({"gravity": 12.0}, show.players[0].served.policy.metadata)
        show.enter_world()
    play_to_the_end(show)
    assert not show.players[0].history
    show.command(Restart(1))
    play_to_the_end(show)
    assert len(show.players[0].history) == (disturb == "push"), "the second episode began in the changed world"
    exposed = show._metrics.expose(show.models).decode()
    assert 'serving_episodic_return_count{disturbed="true",version="1"} 1.0' in exposed
    assert 'serving_episodic_return_count{disturbed="false",version="1"} 1.0' in exposed


def pair_of() -> Show:
    """A champion that balances beside a challenger that falls."""
    models = Models(two_versions(), alias="champion", version=None)

    async def load() -> None:
        await models.poll()
        await models.get("2")

    asyncio.run(load())
    show = Show(models, Metrics(), ("champion", "2"))
    show.join(Viewer())
    return show


def test_two_versions_play_one_seed_until_both_have_ended() -> None:
    show = pair_of()
    show.command(Restart(3))
    show._tick(0.02)
    first = orjson.loads(show.frame)
    assert show.players[0].last
    assert show.players[1].last
    assert show.players[0].last.observation == show.players[1].last.observation
    while not show.players[1].simulation.over:
        show._tick(0.02)
    fallen = orjson.loads(show.frame)
    assert (fallen["o"], fallen["r"][1] < 100) == ([False, True], True)
    show.command(PushCart(5.0))
    show._tick(0.02)
    assert orjson.loads(show.frame)["p"] == 5.0, "the push of the player that still plays"
    play_to_the_end(show)
    last = orjson.loads(show.frame)
    assert (first["e"], last["e"], last["o"], last["k"]) == (1, 1, [True, True], 500)
    assert last["r"] == [500.0, fallen["r"][1]]
    assert show.status()["versions"] == ["2", "1"]
    assert [player["reference"] for player in show.status()["players"]] == ["champion", "2"]
    exposed = show._metrics.expose(show.models).decode()
    assert 'serving_episodes_total{kind="show"} 2.0' in exposed
    assert 'serving_seen_rows_total{source="show",version="1"} 500.0' in exposed


def test_a_version_that_takes_over_begins_a_history_of_its_own(tmp_path: Path) -> None:
    show, _ = show_of(tmp_path)
    play_to_the_end(show)
    show.command(Restart(2))
    show._tick(0.02)
    assert show.models.current
    before, (player,) = show.models.current, show.players
    assert len(player.history) == 1
    show.models.current = None
    show._tick(0.02)
    assert player.served is before, "the player keeps a version that left the cache"
    show.models.current = dataclasses.replace(before, version=dataclasses.replace(before.version, number="2"))
    play_to_the_end(show)
    assert (show.episode, list(player.history), show.status()["swapped"]) == (2, [], True)
    show.command(Restart(3))
    play_to_the_end(show)
    assert (len(player.history), show.status()["swapped"]) == (1, False), "two versions played the one before"
    exposed = show._metrics.expose(show.models).decode()
    assert [f'_return_count{{disturbed="false",version="{number}"}} 1.0' in exposed for number in "12"] == [True] * 2
    assert 'serving_episodes_total{kind="show"} 3.0' in exposed


def test_a_version_of_another_environment_begins_a_new_episode_there(tmp_path: Path) -> None:
    show, _ = show_of(tmp_path)
    show._tick(0.02)
    assert show.models.current
    closed, simulation = [], show.players[0].simulation
    simulation.close = lambda: closed.append(True)  # type: ignore[method-assign]
    acrobot = OnnxPolicy.load(linear_model(SWINGS, properties=ACROBOT, actions=3))
    show.models.current = dataclasses.replace(show.models.current, policy=acrobot)
    show._tick(0.02)
    assert (show.episode, show.players[0].simulation.environment.env_id, closed) == (2, "Acrobot-v1", [True])
    with pytest.raises(ValueError, match="only CartPole can be pushed"):
        show.command(PushCart(1.0))


def test_the_history_is_of_the_last_sixty_episodes(tmp_path: Path) -> None:
    show, _ = show_of(tmp_path)
    show._tick(0.02)
    show.players[0].history.extend(range(61))
    assert list(show.status()["players"][0]["history"]) == list(range(1, 61))
