"""Hostile and concurrent requests: every answer is JSON, and nothing leaks. In process."""

import asyncio
import threading
from pathlib import Path

import httpx
import numpy as np
import numpy.typing as npt
import orjson
import pytest
from starlette.testclient import TestClient

from dqn.environments.masks import Mask
from serving.episodes import replays as replays_module
from serving.episodes.limits import MAX_PUSHES
from serving.episodes.replay import Replay
from serving.episodes.replays import EpisodeRequest
from serving.policy import FloatArray, OnnxPolicy
from tests.support.serving.clients import client_of, infer


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


def test_slow_work_does_not_delay_other_requests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a large batch nor a picture is computed on the event loop."""
    app, _ = client_of(tmp_path)
    released, begun = threading.Event(), threading.Semaphore(0)
    q_values = OnnxPolicy.q_values

    def wait() -> None:
        begun.release()
        assert released.wait(60)

    def slow(policy: OnnxPolicy, observation: npt.NDArray[np.floating], mask: Mask | None = None) -> FloatArray:
        if len(observation) > 1:
            wait()
        return q_values(policy, observation, mask)

    def encode(picture: object, kind: str) -> bytes:
        wait()
        return b"picture"

    monkeypatch.setattr(OnnxPolicy, "q_values", slow)
    monkeypatch.setattr("serving.show.pixels.encode", encode)

    async def story() -> None:
        transport = httpx.ASGITransport(app.asgi)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            assert app.live
            app.live.stage.start()
            waiting = [asyncio.create_task(client.post("/v2/models/p/infer", json=infer(4096)))]
            waiting += [asyncio.create_task(client.get("/api/frame.png")) for _ in range(8)]
            for _ in range(2):
                assert await asyncio.to_thread(begun.acquire, timeout=60)
            assert (await client.get("/v2/health/live")).status_code == 200
            assert (await client.post("/v2/models/p/infer", json=infer(1))).status_code == 200
            released.set()
            assert [(await answer).status_code for answer in waiting] == [200] * 9
            app.close()
        assert not begun.acquire(blocking=False), "eight requests at once share one picture"

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


def test_a_command_nested_deep_is_answered(client: TestClient) -> None:
    with client.websocket_connect("ws://localhost/api/show") as socket:
        socket.send_text(f'{{"do": {nested(300)}}}')
        while (message := orjson.loads(socket.receive_text())).get("type") != "error":
            pass
        assert message["error"] == "do must be a string, got a list of length 1"
