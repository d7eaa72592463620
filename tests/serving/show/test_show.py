"""Episodes of a show, commands, and what its frame and status contain. Stepped by hand."""

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson
import pytest

from serving.episodes.limits import MAX_SEED
from serving.show.commands import Pause, PushCart, Restart, Resume, SingleStep, Speed
from serving.show.pace import RealTime
from serving.show.show import Show
from tests.support.serving.stage import play_to_the_end, show_of


def test_a_step_that_fails_is_logged_and_the_show_goes_on_while_it_has_viewers(
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
    assert show._step == 0, "the step began the episode"


def test_the_greatest_seed_is_followed_by_the_smallest(tmp_path: Path) -> None:
    show, _ = show_of(tmp_path)
    show.command(Restart(MAX_SEED))
    play_to_the_end(show)
    while show.episode == 1:
        show._tick(0.02)
    assert show.status()["seed"] == 0


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


class Clock:
    """An event loop's clock that a test moves; sleeping moves it too."""

    def __init__(self, now: float) -> None:
        self.now = now

    def time(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += max(0.0, seconds)


def test_steps_keep_their_times_and_catch_up_after_a_short_delay_only(
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
    assert wait(pace, working=0) == 0, "the first step has no time to wait for"
    assert wait(pace, working=0.005) == 0.02
    assert wait(pace, working=0.03) == 0.05, "late"
    assert wait(pace, working=0) == 0.06, "and on time again"
    assert wait(pace, working=0.5) == 0.56
    assert wait(pace, working=0) == 0.58, "half a second is not caught up with"
