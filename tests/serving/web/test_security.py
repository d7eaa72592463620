"""Access to the server, headers of every answer, and counting of requests. In process."""

import asyncio
from typing import Any

import pytest
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from serving.metrics.metrics import Metrics
from serving.web.security import Guard, admits
from serving.web.webhooks import WEBHOOK_PATH
from tests.support.serving.clients import samples


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
    return TestClient(
        Guard(app, count=metrics.requests.count, hosts=hosts, token=token), base_url="http://localhost"
    ), metrics


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
        ("[::1].evil.example", 421),
        ("[::1", 421),
        ("localhost:evil", 421),
        ("", 421),
    ],
)
def test_a_host_is_one_of_this_machine_or_admitted(host: str, status: int) -> None:
    client, _ = guarded(hosts=("Pole.example",))
    assert client.get("/", headers={"Host": host}).status_code == status


@pytest.mark.parametrize(
    ("allowed", "admitted", "others"),
    [
        ("a:8443", ["a:8443", "A:8443"], ["a", "a:80", "b:8443"]),
        ("a", ["a", "a:80", "a:8443"], ["b", "a.b", ""]),
        ("*", ["a", "a.b:80", "[fd00::3]:1", "10.1.2.3", ""], []),
        (
            "*.example.org",
            ["a.example.org", "a.b.EXAMPLE.org:80"],
            ["example.org", ".example.org.evil", "xexample.org"],
        ),
        ("*.example.org:81", ["a.example.org:81"], ["a.example.org", "a.example.org:80"]),
        ("*.svc.cluster.local", ["serving.dqn.svc.cluster.local:8000"], ["svc.cluster.local"]),
        ("10.244.0.0/16", ["10.244.0.5:8000", "10.244.255.1"], ["10.245.0.1", "a.10.244.0.5", "[::1:2]"]),
        ("10.244.0.5/16", ["10.244.9.9"], ["10.1.1.1"]),
        ("fd00::/8", ["[fd00::7]:80", "[fdff::1]"], ["fd00::7", "[fe80::1]", "10.0.0.1"]),
        ("fd00::2", ["[fd00::2]", "[fd00::2]:8000", "[FD00:0:0::2]:8000"], ["[fd00::3]", "fd00::2"]),
        ("[fd00::2]:8443", ["[fd00::2]:8443"], ["[fd00::2]", "[fd00::2]:80"]),
        ("my_service.local", ["my_service.local:1"], ["my-service.local"]),
        (" Pole.Example ", ["pole.example"], ["pole"]),
        ("0.0.0.0", ["0.0.0.0:80"], ["10.0.0.1"]),
    ],
)
def test_a_host_is_a_name_an_address_a_network_or_a_pattern(
    allowed: str, admitted: list[str], others: list[str]
) -> None:
    client, _ = guarded(hosts=(allowed, ""))
    for hosts, status in ((admitted, 204), (others, 421)):
        for host in hosts:
            assert client.get("/", headers={"Host": host}).status_code == status, host


@pytest.mark.parametrize(
    "allowed",
    [
        "http://a",
        "a/b",
        "a b",
        "10.0.0.0/99",
        "a.*",
        "*.",
        "a*b",
        "**.a",
        "a:port",
        "a:",
        "a:99999",
        "[fd00::2",
        "[a]",
        "fd00::2/200",
        ":80",
        "a:80:90",
        "a,b",
        "fd00:::2",
        "10.0.0.0/8:80",
        "*:80",
        "a..b",
        "@",
        "[fd00::2]x",
    ],
)
def test_an_invalid_host_is_refused_at_the_start(allowed: str) -> None:
    with pytest.raises(ValueError, match=r"is no host to answer to \(--allowed-hosts\): give a name"):
        guarded(hosts=(allowed,))


@pytest.mark.parametrize("host", ["10.244.0.5:8000", "evil.example", "", "[::9]"])
def test_probes_and_scrapes_come_by_address(host: str) -> None:
    client, _ = guarded()
    for path in ("/v2/health/live", "/v2/health/ready", "/metrics"):
        for method in ("GET", "HEAD"):
            assert client.request(method, path, headers={"Host": host}).status_code == 204
    for path in ("/v2/health", "/v2/health/live/more", "/metrics/", "/v2", "/"):
        assert client.get(path, headers={"Host": host}).status_code == 421


@pytest.mark.parametrize(
    ("version", "hosts", "status"),
    [
        ("1.1", [b"localhost"], 204),
        ("1.1", [], 400),
        ("1.1", [b"localhost", b"localhost"], 400),
        ("1.0", [b"localhost", b"evil.example"], 400),
        ("1.0", [], 421),
    ],
)
def test_a_request_has_one_host(version: str, hosts: list[bytes], status: int) -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    guard = Guard(answer, count=Metrics().requests.count, hosts=(), token=None)
    for path in ("/", "/metrics"):
        scope = {"type": "http", "method": "GET", "path": path, "http_version": version}
        asyncio.run(guard(scope | {"headers": [(b"host", host) for host in hosts]}, None, send))  # type: ignore[arg-type]
    assert [sent[0]["status"], sent[2]["status"]] == [status, 204 if status == 421 else status]


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
def test_writes_are_accepted_from_the_servers_own_page_alone(method: str, origin: str, status: int) -> None:
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
def test_a_token_guards_writes_under_api(method: str, path: str, status: int) -> None:
    assert guarded(token="t")[0].request(method, path).status_code == status
    assert guarded()[0].request(method, path).status_code == 204


@pytest.mark.parametrize(
    ("expected", "given", "admitted"),
    [(None, "x", True), (None, 1, True), ("t", "t", True), ("t", "T", False), ("t", None, False), ("é", "é", True)],
)
def test_a_token_must_match_if_one_is_set(expected: str | None, given: object, admitted: bool) -> None:
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


def test_a_failure_after_an_answer_began_is_not_answered_twice() -> None:
    sent: list[Any] = []

    async def half(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"a", b"b")]})
        raise RuntimeError("half-way")

    async def send(message: Any) -> None:
        sent.append(message)

    guard = Guard(half, count=(metrics := Metrics()).requests.count, hosts=(), token=None)
    scope = {"type": "http", "http_version": "1.1", "method": "GET", "path": "/", "headers": [(b"host", b"localhost")]}
    with pytest.raises(RuntimeError, match="half-way"):
        asyncio.run(guard(scope, None, send))  # type: ignore[arg-type]
    assert [message["type"] for message in sent] == ["http.response.start"]
    assert sent[0]["headers"][0] == (b"a", b"b")
    counted = samples(metrics.expose(_nothing()).decode(), "serving_requests")
    assert counted == {
        ("serving_requests_total", ("method", "GET"), ("route", "unknown"), ("status", "200")): 1.0
    }  # fmt: skip
