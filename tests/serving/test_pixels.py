"""Gymnasium's pictures of the show, and of private sessions. In process."""

import asyncio
from contextlib import ExitStack
from pathlib import Path

import pytest

from serving.web.application import App
from tests.serving.test_bounds import client_of, models_of


def test_a_private_session_that_fails_gives_its_place_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app, client = client_of(tmp_path)
    assert app.live

    def fail(*_: object, **__: object) -> None:
        raise ValueError("no such environment")

    monkeypatch.setattr("serving.live.pixels.Simulation", fail)
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


def test_who_joins_as_the_last_one_leaves_gets_pictures(tmp_path: Path) -> None:
    async def story() -> None:
        app = App(models_of(tmp_path))
        assert app.live
        await app.models.poll()
        app.live.shows.start()
        async with asyncio.timeout(60):
            first = app.live.feed.shared()
            await anext(first)
            await first.aclose()  # type: ignore[attr-defined]
            second = app.live.feed.shared()
            assert b"image/jpeg" in await anext(second)
            await second.aclose()  # type: ignore[attr-defined]
        app.close()

    asyncio.run(story())
