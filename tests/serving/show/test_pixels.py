"""Gymnasium's pictures of the show, and of private sessions. In process."""

import asyncio
from contextlib import ExitStack
from pathlib import Path

import pytest

from serving.application import App
from serving.episodes.limits import MAX_SEED
from tests.support.serving.clients import client_of, models_of


def test_a_private_session_that_fails_gives_its_place_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app, client = client_of(tmp_path)
    assert app.live

    def fail(*_: object, **__: object) -> None:
        raise ValueError("no such environment")

    monkeypatch.setattr("serving.show.pixels.Simulation", fail)
    for _ in range(6):
        with pytest.raises(ValueError, match="no such environment"):
            client.get("/api/live.mjpeg?seed=1")
    assert app.live.feed._private == 0


def test_there_are_four_places_for_private_sessions(tmp_path: Path) -> None:
    app, client = client_of(tmp_path)
    assert app.live
    with ExitStack() as places:
        for _ in range(4):
            places.enter_context(app.live.feed.private_place())
        answer = client.get("/api/live.mjpeg?seed=1")
        assert answer.status_code == 429
        assert answer.json() == {"error": "4 private sessions are running already: watch the shared one"}
    with app.live.feed.private_place():
        pass


def test_a_viewer_that_joins_while_the_last_one_leaves_gets_pictures(tmp_path: Path) -> None:
    async def story() -> None:
        app = App(models_of(tmp_path))
        assert app.live
        await app.models.poll()
        app.live.stage.start()
        async with asyncio.timeout(60):
            first = app.live.feed.shared()
            await anext(first)
            await first.aclose()
            second = app.live.feed.shared()
            assert b"image/jpeg" in await anext(second)
            await second.aclose()
        app.close()

    asyncio.run(story())


class Falling:
    """A simulation that is over after each of its steps."""

    fps = 50

    def __init__(self, *_: object, **options: object) -> None:
        self.over = True
        self.done: list[object] = [options["render_mode"]]

    def reset(self, seed: int) -> None:
        self.done.append(seed)
        self.over = False

    def step(self, policy: object) -> None:
        self.done.append("step")
        self.over = True

    def render(self) -> str:
        return "picture"

    def close(self) -> None:
        self.done.append("closed")


def test_a_private_session_plays_from_its_seed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app, client = client_of(tmp_path)
    assert app.live
    assert app.models.current
    feed, policy, paces = app.live.feed, app.models.current.policy, []
    simulation = Falling(render_mode="rgb_array")

    async def wait(_: object, period: float) -> None:
        paces.append(period)

    monkeypatch.setattr("serving.show.pixels.Simulation", lambda *_, **__: simulation)
    monkeypatch.setattr("serving.show.pixels.encode", lambda picture, kind: f"{picture} {kind}".encode())
    monkeypatch.setattr("serving.show.pixels.RealTime.wait", wait)

    async def story() -> list[bytes]:
        session = feed.private(policy, MAX_SEED)
        parts = [await anext(session) for _ in range(3)]
        assert 'serving_viewers{kind="pixels"} 1.0' in client.get("/metrics").text
        feed._show.close()
        return parts + [part async for part in session]

    parts = asyncio.run(story())
    assert parts == [b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: 12\r\n\r\npicture JPEG\r\n"] * 3
    assert simulation.done == ["rgb_array", MAX_SEED, "step", 0, "closed"], "the greatest seed is followed by the least"
    assert paces == [1 / 50] * 3
    assert 'serving_viewers{kind="pixels"} 0.0' in client.get("/metrics").text


def test_a_request_for_a_picture_waits_two_seconds_for_a_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, client = client_of(tmp_path)
    app.models.current, app.models.notice = None, "none yet"
    limits, timeout = [], asyncio.timeout

    def at_once(seconds: float) -> asyncio.Timeout:
        limits.append(seconds)
        return timeout(0)

    monkeypatch.setattr("serving.show.pixels.asyncio.timeout", at_once)
    answer = client.get("/api/frame.png")
    assert (answer.status_code, answer.json()["error"], limits) == (503, "nothing plays: none yet", [2])
    assert client.get("/api/live.mjpeg").status_code == 503
    assert app.live
    assert not app.live.stage.main.viewers


def test_a_stream_ends_when_the_server_stops(tmp_path: Path) -> None:
    async def story() -> None:
        app = App(models_of(tmp_path))
        assert app.live
        await app.models.poll()
        app.live.stage.start()
        async with asyncio.timeout(60):
            stream = app.live.feed.shared()
            assert b"image/jpeg" in await anext(stream)
            assert 'kind="pixels"} 1.0' in app.metrics.expose(app.models).decode()
            assert sum(viewer.counted for viewer in app.live.stage.main.viewers) == 0
            app.close()
            assert [part async for part in stream] == []
        assert 'kind="pixels"} 0.0' in app.metrics.expose(app.models).decode()

    asyncio.run(story())
