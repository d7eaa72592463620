"""What viewers of a show are sent, and when. Stepped by hand."""

import asyncio
import dataclasses
from pathlib import Path

import orjson
import pytest

from serving.metrics.metrics import Metrics
from serving.show.audience import Audience
from serving.show.commands import Pause, Resume
from serving.show.show import Show
from serving.show.viewer import ShowOverError, Viewer
from tests.support.serving.clients import models_of
from tests.support.serving.policies import BALANCES
from tests.support.serving.stage import show_of


def test_announcements_of_one_tick_are_sent_once_at_its_end() -> None:
    statuses = iter("123")
    audience, viewer = Audience(lambda: next(statuses)), Viewer[str]()
    audience.join(viewer, "")
    with audience.one_announcement():
        audience.announce()
        audience.announce()
        assert viewer._status == "1", "nothing is sent inside"
    assert viewer._status == "2"
    assert next(statuses) == "3"


def test_joining_sends_the_status_to_the_new_viewer_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_the_status_counts_viewers_every_25_ticks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_closed_show_dismisses_its_viewers_and_stops_following_its_versions(tmp_path: Path) -> None:
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


def test_a_flood_of_commands_sends_one_status_a_tick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_status_is_sent_although_no_tick_follows(tmp_path: Path) -> None:
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


def test_a_swap_is_sent_to_every_viewer_at_once(tmp_path: Path) -> None:
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
