"""The show and its viewers, stepped by hand. In process."""

import asyncio
import dataclasses
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson
import pytest

from serving.episodes.limits import MAX_SEED
from serving.metrics.metrics import Metrics
from serving.models.follower import Models
from serving.policy import OnnxPolicy
from serving.show.audience import Audience
from serving.show.commands import Pause, PushCart, Restart, Resume, SingleStep, Speed
from serving.show.pace import RealTime
from serving.show.show import Show
from serving.show.viewer import ShowOverError, Viewer
from tests.support.serving.clients import models_of
from tests.support.serving.inprocess import two_versions
from tests.support.serving.policies import ACROBOT, BALANCES, FALLS, SWINGS, linear_model
from tests.support.serving.stage import play_to_the_end


def show_of(folder: Path, gains: tuple[float, ...] = FALLS) -> tuple[Show, Viewer[str]]:
    models = models_of(folder, gains)
    asyncio.run(models.poll())
    show = Show(models, Metrics())
    viewer: Viewer[str] = Viewer()
    show.join(viewer)
    return show, viewer


def test_what_is_announced_in_a_tick_is_sent_once_at_its_end() -> None:
    statuses = iter("123")
    audience, viewer = Audience(lambda: next(statuses)), Viewer[str]()
    audience.join(viewer, "")
    with audience.one_announcement():
        audience.announce()
        audience.announce()
        assert viewer._status == "1", "nothing is sent inside"
    assert viewer._status == "2"
    assert next(statuses) == "3"


def test_a_step_that_fails_is_logged_and_the_show_goes_on_while_somebody_watches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    show, viewer = show_of(tmp_path)
    tick, failures, waited = Show._tick, iter([True]), []

    def brittle(show: Show, period: float) -> None:
        if next(failures, False):
            raise RuntimeError("once")
        tick(show, period)

    class Pace:
        async def wait(self, period: float) -> None:
            waited.append(period)
            if len(waited) == 4:
                show.leave(viewer)
            await asyncio.sleep(0)

    monkeypatch.setattr(Show, "_tick", brittle)

    async def story() -> None:
        playing = asyncio.create_task(show.run(Pace()))
        async with asyncio.timeout(60):
            while len(waited) < 4:
                await asyncio.sleep(0)
        for _ in range(5):
            await asyncio.sleep(0)
        playing.cancel()

    asyncio.run(story())
    assert waited == [1.0, 0.1, 0.02, 0.02], "a second after a failure, then fifty steps a second, then none"
    assert show.episode == 1
    assert [record.exc_info is not None for record in caplog.records] == [True]


def test_pausing_between_episodes_pauses_and_a_step_goes_on(tmp_path: Path) -> None:
    show, _ = show_of(tmp_path)
    play_to_the_end(show)
    show.command(Pause())
    for _ in range(200):
        show._tick(0.02)
    assert show.episode == 1
    show.command(SingleStep())
    show._tick(0.02)
    assert show.episode == 2
    show._tick(0.02)
    assert show._step == 0, "which is what the step was for"


def test_the_greatest_seed_is_followed_by_the_smallest(tmp_path: Path) -> None:
    show, _ = show_of(tmp_path)
    show.command(Restart(MAX_SEED))
    play_to_the_end(show)
    while show.episode == 1:
        show._tick(0.02)
    assert show.status()["seed"] == 0


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
    assert len(show.players[0].history) == 1, "what the world became is where episodes now begin"
    exposed = show._metrics.expose(show.models).decode()
    assert 'serving_episodic_return_count{disturbed="true",version="1"} 1.0' in exposed
    assert 'serving_episodic_return_count{disturbed="false",version="1"} 1.0' in exposed


def test_joining_writes_the_status_to_the_one_who_joined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    show, viewer = show_of(tmp_path)
    asyncio.run(viewer.take())
    offers = []
    monkeypatch.setattr(Viewer, "offer", lambda self, **news: offers.append(self))
    for _ in range(100):
        show.join(Viewer())
    assert len(offers) == 100
    for _ in range(25):
        show._tick(0.02)
    assert viewer in offers


def test_a_viewer_is_sent_the_newest_of_each_once() -> None:
    async def story() -> None:
        viewer: Viewer[str] = Viewer()
        assert viewer.counted
        viewer.offer(frame="1", status="a")
        viewer.offer(frame="2")
        assert await viewer.take() == ("a", "2")
        viewer.offer(status="b")
        assert await viewer.take() == ("b", None)
        waiting = asyncio.ensure_future(viewer.take())
        await asyncio.sleep(0)
        assert not waiting.done()
        viewer.dismiss()
        with pytest.raises(ShowOverError):
            await waiting

    asyncio.run(story())


def test_who_comes_and_goes_is_counted_in_the_status_every_25_ticks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    show, viewer = show_of(tmp_path)
    other: Viewer[str] = Viewer()
    show.join(Viewer(counted=False))
    show.command(Pause())
    show._tick(0.02)  # begins an episode, and tells
    told: list[tuple[int, int]] = []

    def offer(frame: str | None = None, status: str | None = None) -> None:
        if status:
            told.append((show._ticks, orjson.loads(status)["viewers"]))

    monkeypatch.setattr(viewer, "offer", offer)
    show.join(other)
    for _ in range(60):
        show._tick(0.02)
    show.leave(other)
    for _ in range(60):
        show._tick(0.02)
    assert told == [(25, 2), (75, 1)]


def test_a_show_that_is_closed_lets_go_of_its_viewers_and_of_what_it_followed(tmp_path: Path) -> None:
    models = models_of(tmp_path)
    show, other = (Show(models, Metrics(), references) for references in (("", "4"), ("4",)))
    viewer: Viewer[str] = Viewer()
    show.join(viewer)
    assert models.watched == {"4": 2}
    assert not show.closed
    show.close()
    assert show.closed
    assert models.watched == {"4": 1}
    assert models.listeners == [other.audience.announce]
    with pytest.raises(ShowOverError):
        asyncio.run(viewer.take())


def test_pushes_before_a_step_add_up_to_200_newtons_to_either_side(tmp_path: Path) -> None:
    show, _ = show_of(tmp_path)
    for forces, pushed in (([60.0, -20.0], 40.0), ([150.0, 60.0, -5.0], 195.0), ([-150.0, -60.0], -200.0)):
        show.command(Restart(1))
        show._tick(0.02)
        for force in forces:
            show.command(PushCart(force))
        show._tick(0.02)
        assert show.status()["pushes"] == [{"step": 1, "force": pushed}]
        assert orjson.loads(show.frame)["p"] == pushed
        show._tick(0.02)
        assert orjson.loads(show.frame)["p"] == 0
        show.command(PushCart(1.0))  # which the next episode begins without


@pytest.mark.parametrize(
    ("speed", "steps"), [(0.25, [0, 0, 0, 1, 1]), (0.5, [0, 1, 1, 2, 2]), (1, [1, 2, 3]), (4, [4, 8, 12])]
)
def test_a_speed_is_steps_a_tick(tmp_path: Path, speed: float, steps: list[int]) -> None:
    show, _ = show_of(tmp_path)
    show.command(Speed(speed))
    taken = []
    for _ in steps:
        show._tick(0.02)
        taken.append(show._step)
    assert taken == steps
    assert show.status()["speed"] == speed
    with pytest.raises(ValueError, match=r"speed must be one of 0\.25, 0\.5, 1, 2, 4"):
        show.command(Speed(3.0))
    assert show.status()["speed"] == speed


def test_a_pause_is_not_caught_up_with(tmp_path: Path) -> None:
    show, _ = show_of(tmp_path)
    show._tick(0.02)
    for command, ticks, steps in ((Pause(), 9, 1), (SingleStep(), 9, 2), (Resume(), 3, 5), (SingleStep(), 2, 6)):
        show.command(command)
        for _ in range(ticks):
            show._tick(0.02)
        assert (show._step, show.status()["paused"]) == (steps, not isinstance(command, Resume))


def test_the_same_seed_begins_anew_unless_another_is_given(tmp_path: Path) -> None:
    show, _ = show_of(tmp_path)
    show.command(Pause())
    begun = []
    for seed in (7, None, 0):
        show.command(Restart(seed))
        show._tick(0.02)
        begun.append((show.status()["seed"], show.episode, orjson.loads(show.frame)["r"]))
        show.command(SingleStep())
        show._tick(0.02)
        assert orjson.loads(show.frame)["r"] == [1.0]
    assert begun == [(7, 1, [0.0]), (7, 2, [0.0]), (0, 3, [0.0])]


def test_an_episode_is_followed_by_a_break_and_the_next_seed(tmp_path: Path) -> None:
    show, _ = show_of(tmp_path)
    show.command(Restart(41))
    play_to_the_end(show)
    frame = orjson.loads(show.frame)
    assert (frame["o"], frame["k"]) == ([True], show._step)
    told = []
    for _ in range(3):
        show._tick(0.5)
        told.append((show.episode, show.status()["seed"]))
    assert told == [(1, 41), (1, 41), (2, 42)], "1.2 seconds"


def test_a_frame_is_what_the_page_draws(tmp_path: Path) -> None:
    show, _ = show_of(tmp_path)
    assert show.frame == ""
    show._tick(0.02)
    show._tick(0.02)
    (player,) = show.players
    step = player.last
    assert step
    assert orjson.loads(show.frame) == {
        "e": 1,
        "k": 2,
        "s": [[round(value, 4) for value in player.simulation.state]],
        "b": [None],
        "q": [[round(value, 5) for value in step.q_values]],
        "a": [step.action],
        "r": [2.0],
        "o": [False],
        "p": 0.0,
    }


def test_the_status_of_a_show_that_has_not_begun(tmp_path: Path) -> None:
    show, _ = show_of(tmp_path)
    status = show.status()
    assert {name: status[name] for name in ("model", "ready", "notice", "players", "aliases", "versions")} == {
        "model": "p", "ready": True, "notice": "", "players": [], "aliases": {}, "versions": ["1"],
    }  # fmt: skip
    empty: dict[str, Any] = {}
    assert status["world"] == status["home"] == status["changed"] == status["initial_world"] == empty
    assert [status[name] for name in ("episode", "paused", "speed", "altered", "swapped", "viewers")] == [
        0, False, 1.0, False, False, 1,
    ]  # fmt: skip
    assert not status["looking"]
    show.models.current = None
    assert not show.status()["ready"]
    show.models.reachable = None
    assert show.status()["looking"], "the registry has not been asked yet"
    show.models.reachable = False
    assert not show.status()["looking"]
    assert not show._update_players()


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
    assert orjson.loads(show.frame)["p"] == 5.0, "of who still plays"
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
    assert player.served is before, "a version that left the cache plays on"
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
    assert (show.episode, show.players[0].simulation.env_id, closed) == (2, "Acrobot-v1", [True])
    with pytest.raises(ValueError, match="only CartPole can be pushed"):
        show.command(PushCart(1.0))


def test_the_history_is_of_the_last_sixty_episodes(tmp_path: Path) -> None:
    show, _ = show_of(tmp_path)
    show._tick(0.02)
    show.players[0].history.extend(range(61))
    assert list(show.status()["players"][0]["history"]) == list(range(1, 61))


class Clock:
    """An event loop's clock that a test moves; sleeping moves it too."""

    def __init__(self, now: float) -> None:
        self.now = now

    def time(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += max(0.0, seconds)


def test_steps_come_at_their_times_and_catch_up_with_a_hiccup_not_with_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock(100.0)
    monkeypatch.setattr("asyncio.get_running_loop", lambda: clock)
    monkeypatch.setattr("serving.show.pace.asyncio.sleep", clock.sleep)

    def wait(pace: RealTime, *, working: float) -> float:
        clock.now += working
        with suppress(StopIteration):
            pace.wait(0.02).send(None)
        return round(clock.now - 100, 6)

    pace = RealTime()
    assert wait(pace, working=0) == 0, "the first one has nothing to keep to"
    assert wait(pace, working=0.005) == 0.02
    assert wait(pace, working=0.03) == 0.05, "late"
    assert wait(pace, working=0) == 0.06, "and on time again"
    assert wait(pace, working=0.5) == 0.56
    assert wait(pace, working=0) == 0.58, "half a second is not caught up with"


def test_a_flood_of_commands_is_told_once_a_tick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    show, viewer = show_of(tmp_path)
    show._tick(0.02)
    told: list[bool] = []

    def offer(frame: str | None = None, status: str | None = None) -> None:
        if status:
            told.append(orjson.loads(status)["paused"])

    monkeypatch.setattr(viewer, "offer", offer)
    for _ in range(100):
        show.command(Pause())
        show.command(Resume())
    show.command(Pause())
    assert len(told) <= 1
    show._tick(0.02)
    assert len(told) <= 2
    assert told[-1], "as it is after the last of them"
    for _ in range(20):
        show._tick(0.02)
    assert len(told) <= 2, "and not again"


def test_news_is_told_though_no_tick_comes(tmp_path: Path) -> None:
    show, viewer = show_of(tmp_path)

    async def story() -> None:
        async with asyncio.timeout(60):
            show._tick(0.02)
            show.command(Resume())
            show.command(Pause())
            status = None
            while not (status and orjson.loads(status)["paused"]):
                status, _ = await viewer.take()

    asyncio.run(story())


def test_a_swap_is_told_to_every_viewer_at_once(tmp_path: Path) -> None:
    """Without an episode's end or a command, which would tell of it too."""
    show, viewer = show_of(tmp_path, BALANCES)
    other: Viewer[str] = Viewer()
    show.join(other)
    show._tick(0.02)
    show._tick(0.02)
    asyncio.run(viewer.take())
    asyncio.run(other.take())
    assert show.models.current
    version = dataclasses.replace(show.models.current.version, number="2")
    show.models.current = dataclasses.replace(show.models.current, version=version)
    show._tick(0.02)
    for each in (viewer, other):
        status, _ = asyncio.run(each.take())
        assert status, "it is told"
        assert [player["version"] for player in orjson.loads(status)["players"]] == ["2"]
        assert orjson.loads(status)["swapped"]
