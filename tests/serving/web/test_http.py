"""Refusals, headers and tokens of the HTTP API. In process."""

from pathlib import Path

import pytest
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from tests.support.serving.clients import SHOW, client_of, infer, message

MODEL = "p"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", "/v2/models/unknown", 404),
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


def test_a_token_guards_writes(tmp_path: Path) -> None:
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


def test_a_file_that_is_not_there_is_named_in_eighty_characters(client: TestClient) -> None:
    answer = client.get("/static/" + "x" * 81)
    assert (answer.status_code, answer.json()["error"]) == (404, f"there is no file '{'x' * 80}'")
