"""What a crowd, a fuzzer or an attacker sends: every answer is JSON, and nothing leaks. In process."""

import asyncio
import threading
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import orjson
import pytest
import uvicorn
from starlette.testclient import TestClient
from uvicorn.server import ServerState

from serving.episodes import replays as replays_module
from serving.episodes.physics import MAX_PUSHES, MAX_SEED
from serving.episodes.replay import Replay
from serving.episodes.replays import EpisodeRequest
from serving.live.commands import Pause, PushCart, Restart, SingleStep
from serving.live.pace import RealTime
from serving.live.show import Show
from serving.live.viewers import Viewer
from serving.models.follower import Models
from serving.models.registry import FileSource
from serving.policy import FloatArray, OnnxPolicy
from serving.web.application import App
from serving.web.bodies import compress
from serving.web.metrics import Metrics
from serving.web.server import MAX_HEAD, BoundedProtocol
from tests.policies import BALANCES, FALLS, PROPERTIES, linear_model


def models_of(folder: Path, gains: tuple[float, ...] = BALANCES, *, properties: dict[str, str] = PROPERTIES) -> Models:
    path = folder / "p.onnx"
    path.write_bytes(linear_model(gains, properties=properties))
    return Models(FileSource(path), alias=None, version="1")


def client_of(folder: Path, *, properties: dict[str, str] = PROPERTIES, **options: Any) -> tuple[App, TestClient]:
    models = models_of(folder, properties=properties)
    asyncio.run(models.poll())
    app = App(models, **options)
    return app, TestClient(app.asgi, base_url="http://localhost")


@pytest.fixture
def client(tmp_path: Path) -> TestClient:
    return client_of(tmp_path)[1]


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


@pytest.mark.parametrize("depth", [40, 254, 255, 300, 1000, 2000])
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v2/models/p/infer", '{"inputs": %s}'),
        ("/v2/models/p/infer", '{"inputs": [], "parameters": %s}'),
        ("/v2/models/p/infer", '{"id": %s}'),
        ("/api/episodes", '{"pushes": %s}'),
        ("/api/episodes", '{"seed": %s}'),
        ("/api/episodes", '{"version": %s}'),
        ("/api/episodes", '{"world": {"gravity": %s}}'),
        ("/api/episodes", '{"changes": [{"step": %s, "world": {}}]}'),
    ],
)
def test_json_nested_deep_is_a_bad_request(client: TestClient, path: str, body: str, depth: int) -> None:
    answer = client.post(path, content=body % nested(depth))
    assert answer.status_code == 400
    assert answer.json()["error"]


@pytest.mark.parametrize("origin", ["http://[", "http://[::1", "null", "http://evil.example", "localhost"])
def test_an_origin_that_is_another_or_none_is_refused(client: TestClient, origin: str) -> None:
    answer = client.post("/api/episodes", headers={"Origin": origin}, json={})
    assert answer.status_code == 403
    assert "another origin" in answer.json()["error"]


@pytest.mark.parametrize(
    ("given", "status"),
    [
        ("Bearer t", 201),
        ("bearer t", 201),
        ("BEARER  t", 201),
        ("t", 401),
        ("Basic t", 401),
        ("Bearer", 401),
        ("", 401),
    ],
)
def test_a_token_comes_by_the_bearer_scheme(tmp_path: Path, given: str, status: int) -> None:
    _, client = client_of(tmp_path, token="t")
    headers = {"Authorization": given} if given else {}
    assert client.post("/api/episodes", headers=headers, json={"seed": 1}).status_code == status


def test_allow_lists_every_method(client: TestClient) -> None:
    answer = client.delete("/api/episodes")
    assert answer.status_code == 405
    assert set(answer.headers["allow"].split(", ")) == {"GET", "HEAD", "POST"}


def test_openapi_states_what_is_accepted(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    body = document["paths"]["/api/episodes"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body == {"$ref": "#/components/schemas/EpisodeRequest"}
    schemas = document["components"]["schemas"]
    properties = schemas["EpisodeRequest"]["properties"]
    assert properties["pushes"]["maxItems"] == properties["changes"]["maxItems"] == MAX_PUSHES
    assert [kind["type"] for kind in properties["version"]["anyOf"]] == ["string", "integer", "null"]
    assert schemas["Push"]["properties"]["force"] | {"description": ""} == {
        "type": "number",
        "minimum": -200.0,
        "maximum": 200.0,
        "description": "",
    }
    assert client.post("/api/episodes", json={"version": None}).status_code == 201


@pytest.mark.parametrize(
    ("accept", "encoding"),
    [
        (b"gzip;q=0.8", b"gzip"),
        (b"gzip; q=0", b""),
        (b"gzip;q=0.0, deflate", b"deflate"),
        (b"gzip;q=x", b""),
        (b"", b""),
    ],
)
def test_an_encoding_has_a_weight(accept: bytes, encoding: bytes) -> None:
    assert compress(b"0" * 2000, accept)[1] == encoding


def infer(rows: int) -> dict[str, Any]:
    return {"inputs": [{"name": "observation", "shape": [rows, 4], "datatype": "FP32", "data": [0.125] * 4 * rows}]}


@pytest.mark.parametrize("rows", [1, 4096])
def test_batches_of_any_size_are_answered(client: TestClient, rows: int) -> None:
    answer = client.post("/v2/models/p/infer", json=infer(rows))
    assert answer.headers["vary"] == "accept-encoding"
    assert answer.json()["outputs"][1]["shape"] == [rows]


def test_large_requests_that_would_wait_too_long_are_told_when_to_come_back(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.inference.routes._WAITING_LIMIT", 0)
    answer = client.post("/v2/models/p/infer", json=infer(4096))
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert client.post("/v2/models/p/infer", json=infer(1)).status_code == 200


def test_what_takes_long_holds_up_nobody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a large batch nor a picture is computed on the event loop."""
    app, _ = client_of(tmp_path)
    released, begun = threading.Event(), threading.Semaphore(0)
    q_values = OnnxPolicy.q_values

    def wait() -> None:
        begun.release()
        assert released.wait(60)

    def slow(policy: OnnxPolicy, observation: npt.NDArray[np.floating]) -> FloatArray:
        if len(observation) > 1:
            wait()
        return q_values(policy, observation)

    def encode(picture: object, kind: str) -> bytes:
        wait()
        return b"picture"

    monkeypatch.setattr(OnnxPolicy, "q_values", slow)
    monkeypatch.setattr("serving.live.pixels.encode", encode)

    async def story() -> None:
        transport = httpx.ASGITransport(app.asgi)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            assert app.live
            app.live.shows.start()
            waiting = [asyncio.create_task(client.post("/v2/models/p/infer", json=infer(4096)))]
            waiting += [asyncio.create_task(client.get("/api/frame.png")) for _ in range(8)]
            for _ in range(2):
                assert await asyncio.to_thread(begun.acquire, timeout=60)
            assert (await client.get("/v2/health/live")).status_code == 200
            assert (await client.post("/v2/models/p/infer", json=infer(1))).status_code == 200
            released.set()
            assert [(await answer).status_code for answer in waiting] == [200] * 9
            app.close()
        assert not begun.acquire(blocking=False), "eight who ask at once get one picture"

    asyncio.run(story())


def test_a_file_is_rendered_once_however_many_ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app, _ = client_of(tmp_path)
    rendered = []

    def render(replay: Replay) -> bytes:
        rendered.append(replay.id)
        return b"picture"

    monkeypatch.setitem(replays_module.FORMATS, "gif", ("image/gif", render))

    async def story() -> None:
        replay = await app.replays.create(EpisodeRequest(seed=1))
        assert await asyncio.gather(*(app.replays.file(replay, "gif") for _ in range(3))) == [b"picture"] * 3

    asyncio.run(story())
    assert len(rendered) == 1


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


class Wire(asyncio.Transport):
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed = False

    def write(self, data: Any) -> None:
        self.written += data

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


def connected(state: ServerState, **attributes: float) -> tuple[BoundedProtocol, Wire]:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    config = uvicorn.Config(app, lifespan="off", log_config=None)
    config.load()
    protocol, wire = BoundedProtocol(config, state, {}), Wire()
    for name, value in attributes.items():
        setattr(protocol, name, value)
    protocol.connection_made(wire)
    return protocol, wire


def refusal(wire: Wire) -> tuple[int, str]:
    head, _, body = wire.written.partition(b"\r\n\r\n")
    assert wire.closed
    assert b"\r\nconnection: close" in head
    return int(head.split()[1]), orjson.loads(body)["error"]


REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n"


@pytest.mark.parametrize(
    "pieces",
    [
        [REQUEST + b"A: " + b"x" * MAX_HEAD + b"\r\n\r\n"],
        [REQUEST + b"A: " + b"x" * MAX_HEAD],
        [REQUEST, *[b"A%d: " % index + b"x" * 1000 + b"\r\n" for index in range(18)]],
        [b"GET /" + b"x" * MAX_HEAD],
    ],
)
def test_a_head_has_a_bounded_size(pieces: list[bytes]) -> None:
    async def story() -> None:
        protocol, wire = connected(ServerState())
        for piece in pieces:
            protocol.data_received(piece)
        await asyncio.sleep(0)
        assert refusal(wire) == (431, "a request's head may have at most 16384 bytes")

    asyncio.run(story())


def test_a_head_has_a_bounded_time() -> None:
    async def story() -> None:
        protocol, wire = connected(ServerState(), head_seconds=0)
        protocol.data_received(REQUEST)
        await asyncio.sleep(0.01)
        assert refusal(wire)[0] == 408

    asyncio.run(story())


def test_connections_are_bounded_and_a_later_one_is_let_in() -> None:
    async def story() -> None:
        state = ServerState()
        first, one = connected(state, max_connections=1)
        _, two = connected(state, max_connections=1)
        await asyncio.sleep(0)
        assert refusal(two)[0] == 503
        assert b"retry-after: 1\r\n" in two.written
        assert not one.closed
        first.data_received(REQUEST + b"\r\n")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert b" 204 " in one.written
        assert first._head_timer is None

    asyncio.run(story())


def test_what_is_not_http_is_refused_in_json() -> None:
    async def story() -> None:
        protocol, wire = connected(ServerState())
        protocol.data_received(b"nonsense\r\n\r\n")
        await asyncio.sleep(0)
        assert refusal(wire)[0] == 400

    asyncio.run(story())


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


def test_a_command_nested_deep_is_answered(client: TestClient) -> None:
    with client.websocket_connect("ws://localhost/api/show") as socket:
        socket.send_text(f'{{"do": {nested(300)}}}')
        while (message := orjson.loads(socket.receive_text())).get("type") != "error":
            pass
        assert "at `$.do`" in message["error"]
