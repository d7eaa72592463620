"""How a server starts and stops. In process."""

import asyncio
from types import SimpleNamespace

import pytest
import uvicorn
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from serving.application import App
from serving.models.follower import Models
from serving.web.server import Server
from tests.support.serving.inprocess import two_versions


def test_a_server_says_where_it_is_and_is_tuned_to_small_answers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def start(*_: object) -> None:
        pass

    monkeypatch.setattr(uvicorn.Server, "startup", start)
    server = Server(App(Models(two_versions(), alias="champion", version=None), show=False), "http://here")
    asyncio.run(server.startup())
    assert capsys.readouterr().out == "http://here  (Ctrl-C stops)\n"
    config = server.config
    assert (config.ws_max_size, config.timeout_graceful_shutdown) == (4096, 2)
    assert [config.ws_per_message_deflate, config.access_log, config.server_header] == [False] * 3


def test_a_connection_that_is_closing_is_aborted_when_the_server_stops() -> None:
    asyncio.run(stop_with_a_connection_that_is_closing())


async def stop_with_a_connection_that_is_closing() -> None:
    app = App(Models(two_versions(), alias="champion", version=None), show=False)
    server = Server(app, "in process")
    server.servers = []
    ended: list[str] = []

    async def end_lifespan() -> None:
        ended.append("lifespan")

    server.lifespan = SimpleNamespace(shutdown=end_lifespan)
    connections = server.server_state.connections

    def leaving(is_closing: bool) -> WebSocketsSansIOProtocol:
        viewer = object.__new__(WebSocketsSansIOProtocol)

        def lost() -> None:
            ended.append("aborted")
            asyncio.get_running_loop().call_soon(connections.discard, viewer)

        def shut_down() -> None:
            if is_closing:
                pytest.fail("it is closing already")
            ended.append("told")
            connections.discard(viewer)

        viewer.transport = SimpleNamespace(is_closing=lambda: is_closing, abort=lost)  # type: ignore[assignment]
        viewer.shutdown = shut_down  # type: ignore[method-assign]
        return viewer

    connections.update((leaving(True), leaving(False)))
    await server.shutdown()
    assert ended == ["aborted", "told", "lifespan"]
