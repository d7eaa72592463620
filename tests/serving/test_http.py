"""What the API answers. In process, with a show that is stepped by hand."""

import base64
import hashlib
import hmac
import time
import uuid
from pathlib import Path
from typing import Any

import orjson
import pytest
from starlette.exceptions import HTTPException
from starlette.testclient import TestClient, WebSocketTestSession
from starlette.websockets import WebSocketDisconnect

from serving.live.commands import Pause, PushCart, Restart, SingleStep
from serving.live.show import Show
from serving.live.viewers import Viewer
from serving.web.application import App
from serving.web.security import Webhooks
from tests.serving.test_bounds import client_of, infer

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
        assert set(app.live.shows._shows) == {("",)}
    assert 'serving_viewers{kind="state"} 0.0' in client.get("/metrics").text


def test_an_episode_is_kept_as_it_was_seen(app_and_client: tuple[App, TestClient]) -> None:
    """Pushes and changes of the world made live, in the middle of an episode, lead a replay to the same state."""
    app, client = app_and_client
    assert app.live
    show = app.live.shows.main
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
    assert len(webhooks._seen) == 1, "those of ten minutes ago are forgotten, whose timestamp would be refused"
    assert [deliver(name, "2600", 2600.0) for name in ("b", "a")] == [200, 409]
    assert [deliver(name, "2601", 2601.0) for name in ("c", "a")] == [200, 200]
