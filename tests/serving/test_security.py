"""Who is let in, what every answer carries, and how it is counted. In process."""

import asyncio
from typing import Any

import pytest
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from serving.web.metrics import Metrics
from serving.web.security import WEBHOOK_PATH, Guard, admits
from tests.serving.test_metrics import samples


async def answer(scope: Any, receive: Any, send: Any) -> None:
    """204, or an accepted WebSocket."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.close", "code": 1000})
        return
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def guarded(*, hosts: tuple[str, ...] = (), token: str | None = None, app: Any = answer) -> tuple[TestClient, Metrics]:
    metrics = Metrics()
    return TestClient(Guard(app, metrics=metrics, hosts=hosts, token=token), base_url="http://localhost"), metrics


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 204),
        ("LOCALHOST:8000", 204),
        ("127.0.0.1:1", 204),
        ("[::1]", 204),
        ("[::1]:8000", 204),
        ("pole.example", 204),
        ("pole.example:80", 204),
        ("localhost.evil.example", 421),
        ("[::2]:8000", 421),
        ("", 421),
    ],
)
def test_a_host_is_one_of_this_machine_or_admitted(host: str, status: int) -> None:
    client, _ = guarded(hosts=("Pole.example",))
    assert client.get("/", headers={"Host": host}).status_code == status


def test_an_unknown_host_is_repeated_in_eighty_characters() -> None:
    error = guarded()[0].get("/", headers={"Host": "x" * 81}).json()["error"]
    assert error == f"unknown Host '{'x' * 80}': start the server with --allowed-hosts to admit it"


@pytest.mark.parametrize(
    ("method", "origin", "status"),
    [
        ("POST", "http://localhost", 204),
        ("POST", "http://LocalHost", 204),
        ("POST", "", 204),
        ("PUT", "http://localhost:81", 403),
        ("DELETE", "null", 403),
        ("GET", "http://evil.example", 204),
        ("HEAD", "http://evil.example", 204),
        ("OPTIONS", "http://evil.example", 204),
    ],
)
def test_what_changes_things_comes_from_our_own_page(method: str, origin: str, status: int) -> None:
    headers = {"Origin": origin} if origin else {}
    assert guarded()[0].request(method, "/", headers=headers).status_code == status


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/api/world", 204),
        ("PUT", "/api/world", 401),
        ("POST", "/v2/models/p/infer", 204),
        ("POST", WEBHOOK_PATH, 204),
        ("POST", WEBHOOK_PATH + "/more", 401),
    ],
)
def test_a_token_guards_what_changes_things_under_api(method: str, path: str, status: int) -> None:
    assert guarded(token="t")[0].request(method, path).status_code == status
    assert guarded()[0].request(method, path).status_code == 204


@pytest.mark.parametrize(
    ("expected", "given", "admitted"),
    [(None, "x", True), (None, 1, True), ("t", "t", True), ("t", "T", False), ("t", None, False), ("é", "é", True)],
)
def test_a_token_is_the_same_text_or_none_is_wanted(expected: str | None, given: object, admitted: bool) -> None:
    assert admits(expected, given) is admitted


def test_every_answer_and_every_refusal_carries_the_headers_of_a_page_of_ones_own() -> None:
    client, _ = guarded()
    expected = {
        "x-content-type-options": "nosniff",
        "x-frame-options": "DENY",
        "referrer-policy": "no-referrer",
        "cross-origin-opener-policy": "same-origin",
        "cross-origin-resource-policy": "same-origin",
    }
    for reply in (client.get("/"), client.get("/", headers={"Host": "x"})):
        assert expected.items() <= dict(reply.headers).items()


def test_a_websocket_of_another_page_is_closed_with_a_reason_that_fits() -> None:
    client, metrics = guarded(token="t")
    with client.websocket_connect("ws://localhost/api/show"):
        pass
    for headers, reason in (
        (
            {"Origin": "http://evil.example"},
            "this request comes from a page of another origin; behind a reverse proxy, pass Host on or start with "
            "--trusted-proxies (",
        ),
        ({"Host": "x" * 90}, f"unknown Host '{'x' * 80}': start the server with --allowed-hosts to admit it"[:120]),
    ):
        with (
            pytest.raises(WebSocketDisconnect) as refused,
            client.websocket_connect("ws://localhost/api/show", headers=headers),
        ):
            pass
        assert (refused.value.code, refused.value.reason) == (1008, reason)
    assert samples(metrics.expose(_nothing()).decode(), "serving_requests") == {}


def _nothing() -> Any:
    class Nothing:
        current = reachable = registry_age = None
        swaps = failed_swaps = errors = 0

    return Nothing()


def test_what_fails_after_its_answer_began_is_not_answered_twice() -> None:
    sent: list[Any] = []

    async def half(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"a", b"b")]})
        raise RuntimeError("half-way")

    async def send(message: Any) -> None:
        sent.append(message)

    guard = Guard(half, metrics=(metrics := Metrics()), hosts=(), token=None)
    scope = {"type": "http", "method": "GET", "path": "/", "headers": [(b"host", b"localhost")]}
    with pytest.raises(RuntimeError, match="half-way"):
        asyncio.run(guard(scope, None, send))  # type: ignore[arg-type]
    assert [message["type"] for message in sent] == ["http.response.start"]
    assert sent[0]["headers"][0] == (b"a", b"b")
    counted = samples(metrics.expose(_nothing()).decode(), "serving_requests")
    assert counted == {
        ("serving_requests_total", ("method", "GET"), ("route", "unknown"), ("status", "200")): 1.0
    }  # fmt: skip
