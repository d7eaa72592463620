"""Replays over HTTP: creating, keeping and downloading them. In process."""

import asyncio
from typing import Any

import orjson
import pytest
from msgspec import structs
from starlette.requests import Request
from starlette.testclient import TestClient

from serving.application import App
from serving.episodes import replays as replays_module
from serving.episodes.ranges import ranged
from serving.episodes.replay import Replay
from serving.episodes.replays import FORMATS, EpisodeRequest
from serving.show.commands import Pause, PushCart, Restart, SingleStep
from serving.show.viewer import Viewer


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


def test_a_replay_of_a_live_episode_reaches_the_same_state(app_and_client: tuple[App, TestClient]) -> None:
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


def test_replays_are_refused_in_a_sentence_and_downloaded_under_their_name(client: TestClient) -> None:
    made = client.post("/api/episodes", json={"seed": 3}).json()
    assert (made["steps"], made["pushes"], made["changes"]) == (int(made["episodic_return"]), 0, 0)
    missing = client.get("/api/episodes/" + "x" * 41 + ".json").json()["error"]
    assert missing == (
        f"there is no replay '{'x' * 40}' (any more): a server keeps its newest 50, and "
        "POST /api/episodes plays one again"
    )
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
            assert kept == ["50", "0", *map(str, range(49, 1, -1))], "the least recently requested replay was removed"
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
def test_a_range_request_gets_that_part_of_a_file(asked: str, part: tuple[int, int] | bytes | None) -> None:
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
