"""The show and its viewers, stepped by hand. In process."""

import asyncio
from contextlib import suppress
from pathlib import Path

import pytest

from serving.episodes.physics import MAX_SEED
from serving.live.commands import Pause, PushCart, Restart, SingleStep
from serving.live.pace import RealTime
from serving.live.show import Show
from serving.live.viewers import Viewer
from serving.web.metrics import Metrics
from tests.policies import FALLS
from tests.serving.test_bounds import models_of


def show_of(folder: Path, gains: tuple[float, ...] = FALLS) -> tuple[Show, Viewer[str]]:
    models = models_of(folder, gains)
    asyncio.run(models.poll())
    show = Show(models, Metrics())
    viewer: Viewer[str] = Viewer()
    show.join(viewer)
    return show, viewer


def play_to_the_end(show: Show) -> None:
    show._tick(0.02)
    while not show._break_left:
        show._tick(0.02)


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
    monkeypatch.setattr("serving.live.pace.asyncio.sleep", clock.sleep)

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
