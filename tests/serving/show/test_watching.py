"""Watching the show over a WebSocket. In process."""

import asyncio
from contextlib import AsyncExitStack

import orjson
import pytest
from starlette.testclient import TestClient

from serving.application import App
from serving.show.show import Show
from serving.show.viewer import Viewer
from tests.support.serving.clients import SHOW, message


def test_the_show_streams_states_and_takes_commands(client: TestClient) -> None:
    with client, client.websocket_connect(SHOW) as viewer:
        viewer.send_text('{"do": "reset", "seed": 11}')
        assert message(viewer, type="status", seed=11)["players"][0]["version"] == "1"
        assert len(message(viewer, k=3)["s"][0]) == 4
        for wrong in (
            "nonsense",
            '{"do": "dance"}',
            '{"do": "push", "force": 1e9}',
            '{"do": "speed", "speed": 3}',
            "7",
        ):
            viewer.send_text(wrong)
            assert message(viewer, type="error")["error"], wrong
        viewer.send_text('{"do": "speed", "speed": 4}')
        message(viewer, speed=4.0)


def test_an_unknown_version_is_reported_and_leaves_no_show(app_and_client: tuple[App, TestClient]) -> None:
    app, client = app_and_client
    assert app.live
    with client:
        for _ in range(9):  # one more than there may be shows
            with client.websocket_connect(SHOW + "?versions=1,nine") as viewer:
                assert "no version or alias 'nine'" in orjson.loads(viewer.receive_text())["error"]
            with client.websocket_connect(SHOW + "?versions=1") as viewer:
                assert message(viewer, type="status")
        with client.websocket_connect(SHOW + "?versions=1,1,1") as viewer:
            assert "one or two versions" in orjson.loads(viewer.receive_text())["error"]
    assert 'serving_viewers{kind="state"} 0.0' in client.get("/metrics").text


def test_a_show_that_cannot_be_joined_leaves_nothing_behind(
    app_and_client: tuple[App, TestClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    app, client = app_and_client
    assert app.live

    def fail(*_: object) -> None:
        raise ValueError("no status")

    with client:
        monkeypatch.setattr(Show, "join", fail)
        for _ in range(9):
            with client.websocket_connect(SHOW + "?versions=1") as viewer:
                assert orjson.loads(viewer.receive_text())["error"] == "no status"
        assert set(app.live.stage._shows) == {("",)}
    assert 'serving_viewers{kind="state"} 0.0' in client.get("/metrics").text


def test_pixels_come_as_a_picture(client: TestClient) -> None:
    with client:
        assert client.get("/api/frame.png").content[:8] == b"\x89PNG\r\n\x1a\n"
    assert 'serving_viewers{kind="pixels"} 0.0' in client.get("/metrics").text


@pytest.mark.parametrize("stopping", [False, True])
def test_a_socket_is_closed_with_the_reason_for_it(app_and_client: tuple[App, TestClient], stopping: bool) -> None:
    app, client = app_and_client
    assert app.live
    query = "" if stopping else "?versions=nine"
    with client, client.websocket_connect(SHOW + query) as viewer:
        if stopping:
            client.portal.call(app.close)  # type: ignore[union-attr] # inside the block it has one
        while (received := viewer.receive())["type"] != "websocket.close":
            pass
        expected = (1012, "the server is stopping") if stopping else (1008, "")
        assert (received["code"], received["reason"] or "") == expected


def test_a_viewer_is_told_to_come_again_while_the_registry_has_not_answered(
    app_and_client: tuple[App, TestClient],
) -> None:
    """A page that compares versions must outlive a restart of the server: it connects before the registry answers."""
    app, client = app_and_client
    app.models.reachable = None
    with client.websocket_connect(SHOW + "?versions=nine") as viewer:
        assert orjson.loads(viewer.receive_text())["error"] == "the registry has not yet answered what 'nine' is"
        assert viewer.receive()["code"] == 1013


def test_eight_shows_run_at_once_and_one_without_viewers_ends(app_and_client: tuple[App, TestClient]) -> None:
    app, _ = app_and_client

    async def story() -> None:
        assert app.live
        stage = app.live.stage
        stage.start()
        async with AsyncExitStack() as stack:
            for number in range(7):
                show = Show(app.models, app.metrics, (f"show {number}",))
                stage._shows[show.references] = (show, asyncio.create_task(asyncio.sleep(0)))
            with pytest.raises(ValueError, match="8 different shows are running already: join one of them or wait"):
                await stack.enter_async_context(stage.watching(("1",), Viewer()))
            await stack.enter_async_context(stage.watching(("",), Viewer()))
            del stage._shows["show 0",]
            for references in ((), ("1", "1", "1")):
                with pytest.raises(ValueError, match="one or two versions"):
                    await stack.enter_async_context(stage.watching(references, Viewer()))
            first = await stack.enter_async_context(stage.watching(("1",), Viewer()))
            async with stage.watching(("1",), Viewer()) as second:
                assert first is second
                assert 'kind="state"} 3.0' in app.metrics.expose(app.models).decode()
            assert not first.closed
        assert first.closed
        assert ("1",) not in stage._shows
        assert ("",) in stage._shows
        stage.close()
        assert stage.main.closed
        assert stage._shows == {}

    asyncio.run(story())
