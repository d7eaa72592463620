"""What the API answers. In process, with a show that is stepped by hand."""

import asyncio
import base64
import hashlib
import hmac
import time
import uuid
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import orjson
import pytest
from msgspec import structs
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.testclient import TestClient, WebSocketTestSession
from starlette.websockets import WebSocketDisconnect

from serving.application import App
from serving.episodes import replays as replays_module
from serving.episodes.ranges import ranged
from serving.episodes.replay import Replay
from serving.episodes.replays import FORMATS, EpisodeRequest
from serving.show.commands import Pause, PushCart, Restart, SingleStep
from serving.show.show import Show
from serving.show.viewer import Viewer
from serving.web.webhooks import Webhooks
from tests.support.serving.clients import client_of, infer

SHOW = "ws://localhost/api/show"
MODEL = "p"


@pytest.fixture
def app_and_client(tmp_path: Path) -> tuple[App, TestClient]:
    return client_of(tmp_path)


@pytest.fixture
def client(app_and_client: tuple[App, TestClient]) -> TestClient:
    return app_and_client[1]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", "/v2/models/nobody", 404),
        ("GET", f"/v2/models/{MODEL}/versions/9/ready", 404),
        ("GET", f"/v2/models/{MODEL}/versions/..%2f..%2fetc", 404),
        ("GET", f"/v2/models/{MODEL}/infer", 405),
        ("POST", f"/v2/models/{MODEL}/infer", 400),
        ("GET", "/api/episodes/none.gif", 404),
        ("GET", "/static/..%2fapp.py", 404),
        ("GET", "/api/live.mjpeg?seed=x", 400),
        ("GET", "/api/live.mjpeg?path=x", 400),
        ("POST", "/api/webhooks/registry", 404),
    ],
)
def test_every_refusal_is_json(client: TestClient, method: str, path: str, status: int) -> None:
    response = client.request(method, path)
    assert response.status_code == status
    assert set(response.json()) == {"error"}


def test_a_body_over_one_mebibyte_is_refused_even_in_chunks(client: TestClient) -> None:
    path = f"/v2/models/{MODEL}/infer"
    assert client.post(path, content=b"x" * (2 << 20)).status_code == 413
    assert client.post(path, content=(b"x" * 65536 for _ in range(40))).status_code == 413


def test_other_hosts_and_origins_are_refused(client: TestClient) -> None:
    assert client.get("/api/status", headers={"Host": "evil.example"}).status_code == 421
    evil = {"Origin": "http://evil.example"}
    assert client.post("/api/episodes", json={}, headers=evil).status_code == 403
    with pytest.raises(WebSocketDisconnect) as refused, client.websocket_connect(SHOW, headers=evil):
        pass
    assert refused.value.code == 1008
    assert "another origin" in refused.value.reason


def test_every_answer_carries_the_usual_headers(client: TestClient) -> None:
    page = client.get("/")
    assert "script-src 'self'" in page.headers["content-security-policy"]
    for response in (page, client.get("/nothing")):
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["x-frame-options"] == "DENY"


def test_the_page_is_sent_once_and_then_confirmed(client: TestClient) -> None:
    page = client.get("/static/page.js")
    assert page.headers["content-type"].startswith("text/javascript")
    again = client.get("/static/page.js", headers={"If-None-Match": page.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert client.get("/static/page.css", headers={"If-None-Match": page.headers["etag"]}).status_code == 200


def test_the_same_episode_is_the_same_replay(client: TestClient) -> None:
    request = {"seed": 4, "pushes": [{"step": 20, "force": 150}], "world": {"gravity": 11}}
    first, second = (client.post("/api/episodes", json=request) for _ in range(2))
    assert first.status_code == 201
    assert first.json() == second.json()
    assert client.get("/api/episodes").json() == [first.json()]
    files = first.json()["files"]
    assert client.get(files["json"]).json()["pushes"] == request["pushes"]
    assert client.get(files["gif"]).headers["content-type"] == "image/gif"
    assert "script-src 'sha256-" in client.get(files["html"]).headers["content-security-policy"]
    named = client.get(files["json"] + "?download").headers["content-disposition"]
    assert named == f'attachment; filename="{first.json()["id"]}.json"'
    refused: list[object] = [{"seed": -1}, {"speed": 2}, {"pushes": [1]}, [], {"version": 1.5}]
    for wrong in refused:
        assert client.post("/api/episodes", json=wrong).status_code == 400
    assert client.post("/api/episodes", json={"version": "nine"}).status_code == 404


def message(viewer: WebSocketTestSession, **wanted: object) -> dict[str, Any]:
    """The next message that has these entries; a show that plays on sends others before it."""
    while True:
        received: dict[str, Any] = orjson.loads(viewer.receive_text())
        if wanted.items() <= received.items():
            return received


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


def test_a_version_that_is_not_there_is_said_and_no_show_stays(app_and_client: tuple[App, TestClient]) -> None:
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


def test_an_episode_is_kept_as_it_was_seen(app_and_client: tuple[App, TestClient]) -> None:
    """Pushes and changes of the world made live, in the middle of an episode, lead a replay to the same state."""
    app, client = app_and_client
    assert app.live
    show = app.live.stage.main
    show.join(Viewer())

    def play(steps: int) -> dict[str, Any]:
        for _ in range(steps):
            show._tick(0.02)
        frame: dict[str, Any] = orjson.loads(show.frame)
        return frame

    show.command(Restart(12))
    assert play(6)["k"] == 6
    client.put("/api/world", json={"gravity": 14, "length": 0.9})
    play(3)
    show.command(PushCart(60.0))
    assert play(1)["p"] == 60
    client.put("/api/world", json={"masspole": 0.3})
    play(4)
    show.command(Pause())
    assert play(5)["k"] == 14, "it stands still"
    show.command(SingleStep())
    frame, status = play(3), show.status()
    assert frame["k"] == 15
    assert status["pushes"] == [{"step": 9, "force": 60.0}]
    assert [change["step"] for change in status["changes"]] == [6, 10]
    request = {name: status[name] for name in ("seed", "pushes", "changes")} | {"world": status["initial_world"]}
    files = client.post("/api/episodes", json=request).json()["files"]
    observations = client.get(files["json"]).json()["observations"]
    assert observations[15] == pytest.approx(frame["s"][0], abs=1e-4)


def test_pixels_come_as_a_picture(client: TestClient) -> None:
    with client:
        assert client.get("/api/frame.png").content[:8] == b"\x89PNG\r\n\x1a\n"
    assert 'serving_viewers{kind="pixels"} 0.0' in client.get("/metrics").text


def test_a_token_guards_what_changes_things(tmp_path: Path) -> None:
    _, client = client_of(tmp_path, token="s3cret")
    with client:
        assert client.post("/api/episodes", json={}).status_code == 401
        bearer = {"Authorization": "Bearer s3cret"}
        assert client.post("/api/episodes", json={}, headers=bearer).status_code == 201
        assert client.post("/v2/models/p/infer", json=infer(1)).status_code == 200
        with client.websocket_connect(SHOW) as viewer:
            viewer.send_text('{"do": "pause"}')
            assert "token" in message(viewer, type="error")["error"]
            viewer.send_text('{"do": "authorize", "token": "wrong"}')
            assert "token" in message(viewer, type="error")["error"]
            viewer.send_text('{"do": "authorize", "token": "s3cret"}')
            viewer.send_text('{"do": "pause"}')
            assert message(viewer, paused=True)


def test_a_secret_guards_the_webhook(tmp_path: Path) -> None:
    app, client = client_of(tmp_path, webhook_secret="hush")
    delivery, stamp, payload = str(uuid.uuid4()), str(int(time.time())), b'{"entity": "model_version_alias"}'
    digest = hmac.new(b"hush", f"{delivery}.{stamp}.".encode() + payload, hashlib.sha256).digest()
    headers = {
        "X-MLflow-Delivery-Id": delivery,
        "X-MLflow-Timestamp": stamp,
        "X-MLflow-Signature": "v1," + base64.b64encode(digest).decode(),
    }
    path = "/api/webhooks/registry"
    assert client.post(path, content=payload + b" ", headers=headers).status_code == 401
    assert client.post(path, content=payload, headers=headers | {"X-MLflow-Timestamp": "1"}).status_code == 401
    assert not app.models._refresh.is_set()
    assert client.post(path, content=payload, headers=headers).json() == {"accepted": True}
    assert app.models._refresh.is_set()
    assert client.post(path, content=payload, headers=headers).status_code == 409


def test_a_delivery_is_taken_once_within_five_minutes_of_this_clock() -> None:
    webhooks = Webhooks("hush")

    def deliver(delivery: str, stamp: str, now: float, scheme: str = "v1") -> int:
        digest = hmac.new(b"hush", f"{delivery}.{stamp}.{{}}".encode(), hashlib.sha256).digest()
        headers = {
            "x-mlflow-delivery-id": delivery,
            "x-mlflow-timestamp": stamp,
            "x-mlflow-signature": f"{scheme},{base64.b64encode(digest).decode()}",
        }
        try:
            webhooks.check(headers, b"{}", now)
        except HTTPException as error:
            return error.status_code
        return 200

    assert [deliver(str(now), "1000", now) for now in (699.0, 700.0, 1300.0, 1301.0)] == [401, 200, 200, 401]
    assert deliver("a", "soon", 1000.0) == deliver("a", "-1", 0.0) == deliver("a", "1000", 1000.0, "v2") == 401
    assert [deliver("a", str(int(now)), now) for now in (2000.0, 2000.0, 2300.0)] == [200, 409, 409]
    assert len(webhooks._handled) == 1, "those of ten minutes ago are forgotten, whose timestamp would be refused"
    assert [deliver(name, "2600", 2600.0) for name in ("b", "a")] == [200, 409]
    assert [deliver(name, "2601", 2601.0) for name in ("c", "a")] == [200, 200]


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


def test_a_file_that_is_not_there_is_named_in_eighty_characters(client: TestClient) -> None:
    answer = client.get("/static/" + "x" * 81)
    assert (answer.status_code, answer.json()["error"]) == (404, f"there is no file '{'x' * 80}'")


def test_replays_are_refused_in_a_sentence_and_downloaded_under_their_name(client: TestClient) -> None:
    made = client.post("/api/episodes", json={"seed": 3}).json()
    assert (made["steps"], made["pushes"], made["changes"]) == (int(made["episodic_return"]), 0, 0)
    missing = client.get("/api/episodes/" + "x" * 41 + ".json").json()["error"]
    assert missing == f"there is no replay '{'x' * 40}' (any more): POST /api/episodes plays it again"
    kind = client.get(f"/api/episodes/{made['id']}." + "x" * 41)
    assert (kind.status_code, kind.json()["error"]) == (
        404,
        f"a replay comes as .json, .gif, .mp4, .webm, .html, not '{'x' * 40}'",
    )
    plain = client.get(made["files"]["json"]).headers
    assert "content-disposition" not in plain
    assert "content-security-policy" not in plain
    milestone = client.get("/api/learning/" + "x" * 41).json()["error"]
    assert milestone == f"a milestone is a number from 0, as /api/learning lists them, not '{'x' * 40}'"


def test_fifty_replays_and_24_mebibytes_of_files_are_kept(app_and_client: tuple[App, TestClient]) -> None:
    app, _ = app_and_client
    replays = app.replays

    async def story() -> None:
        first = await replays.play(EpisodeRequest(seed=1))
        assert replays.get(first.id) is None
        with pytest.MonkeyPatch.context() as patch:
            numbers = iter([*range(50), 0, 50])

            async def play(request: object) -> Replay:
                return structs.replace(first, id=str(next(numbers)))

            patch.setattr(replays, "play", play)
            for _ in range(52):
                await replays.create(EpisodeRequest())
            kept = [summary.id for summary in replays.list()]
            assert kept == ["50", "0", *map(str, range(49, 1, -1))], "the one that was asked for least lately left"
            sizes = iter([12 << 20, 12 << 20, 1, 25 << 20])
            patch.setitem(FORMATS, "json", ("", lambda replay: b"x" * next(sizes)))
            files = [structs.replace(first, id=name) for name in "abcd"]
            for replay in files[:2]:
                await replays.file(replay, "json")
            assert [key for key, _ in replays._files] == ["a", "b"], "24 MiB in all"
            await replays.file(files[0], "json")
            await replays.file(files[2], "json")
            assert [key for key, _ in replays._files] == ["a", "c"]
            await replays.file(files[3], "json")
            assert [key for key, _ in replays._files] == ["d"], "the newest stays, however large"

    asyncio.run(story())


FILE = bytes(range(100))


@pytest.mark.parametrize(
    ("asked", "part"),
    [
        ("bytes=0-9", (0, 10)),
        ("bytes=90-", (90, 100)),
        ("bytes=90-1000", (90, 100)),
        ("bytes=99-99", (99, 100)),
        ("bytes=-10", (90, 100)),
        ("bytes=-1000", (0, 100)),
        ("BYTES= 5-6", (5, 7)),
        ("bytes=100-", None),
        ("bytes=100-200", None),
        ("bytes=-0", None),
        ("bytes=0-9,20-29", FILE),
        ("bytes=9-0", FILE),
        ("bytes=-", FILE),
        ("bytes=x-9", FILE),
        ("lines=0-9", FILE),
        ("bytes=0-" + "9" * 5000, FILE),
        ("bytes=\u0663-", FILE),
        ("", FILE),
    ],
)
def test_a_part_of_a_file_is_what_was_asked_for(asked: str, part: tuple[int, int] | bytes | None) -> None:
    headers = [(b"range", asked.encode())] if asked else []
    for method, more in (("GET", []), ("HEAD", []), ("GET", [(b"if-range", b"x")])):
        request = Request({"type": "http", "method": method, "headers": headers + more})
        answer = ranged(request, FILE, "video/mp4", {"a": "b"})
        assert (answer.headers["accept-ranges"], answer.headers["a"]) == ("bytes", "b")
        if part == FILE or method == "HEAD" or more:
            assert (answer.status_code, answer.body) == (200, FILE)
        elif isinstance(part, tuple):
            assert (answer.status_code, answer.body) == (206, FILE[slice(*part)])
            assert answer.headers["content-range"] == f"bytes {part[0]}-{part[1] - 1}/100"
            assert answer.media_type == "video/mp4"
        else:
            assert (answer.status_code, answer.headers["content-range"]) == (416, "bytes */100")
            assert orjson.loads(answer.body)["error"].startswith("the file has 100 bytes")


def test_a_video_comes_in_parts(app_and_client: tuple[App, TestClient], monkeypatch: pytest.MonkeyPatch) -> None:
    _, client = app_and_client
    monkeypatch.setitem(replays_module.FORMATS, "mp4", ("video/mp4", lambda replay: FILE))
    url = client.post("/api/episodes", json={"seed": 1}).json()["files"]["mp4"]
    assert client.get(url).headers["accept-ranges"] == "bytes"
    part = client.get(url, headers={"Range": "bytes=10-19"})
    assert (part.status_code, part.content, part.headers["content-length"]) == (206, FILE[10:20], "10")
    assert client.get(url, headers={"Range": "bytes=100-"}).status_code == 416
