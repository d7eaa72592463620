"""Replays on the disk: their links work after a restart, and neither number, bytes nor a full disk is a trouble."""

import asyncio
import os
import time
from pathlib import Path

import pytest
from msgspec import structs
from starlette.testclient import TestClient

from serving.application import App
from serving.episodes import kept as module
from serving.episodes.kept import KEPT_REPLAYS, Kept
from serving.episodes.replay import Replay, record
from serving.episodes.replays import EpisodeRequest, Replays
from serving.metrics.metrics import Metrics
from serving.policy import OnnxPolicy
from tests.support.serving.clients import models_of
from tests.support.serving.policies import FALLS, linear_model


@pytest.fixture
def replay() -> Replay:
    return record(OnnxPolicy.load(linear_model(FALLS)), model="p", version="1", seed=3)


def client_of(folder: Path) -> TestClient:
    models = models_of(folder)
    asyncio.run(models.poll())
    return TestClient(App(models, replays=folder / "replays").asgi, base_url="http://localhost")


def test_a_link_works_after_a_restart_and_an_evicted_one_says_so(tmp_path: Path) -> None:
    with client_of(tmp_path) as client:
        made = [client.post("/api/episodes", json={"seed": seed}).json() for seed in (1, 2)]
        again = client.post("/api/episodes", json={"seed": 1}).json()
        before = {name: client.get(path).content for name, path in again["files"].items() if name in ("json", "html")}
    assert len(list((tmp_path / "replays").iterdir())) == 2, "the same episode is one file"
    with client_of(tmp_path) as client:
        for _ in range(1_000):
            if len(client.get("/api/episodes").json()) == 2:
                break
        assert client.get("/api/episodes").json() == [again, made[1]], "the latest requested first, as before"
        after = {name: client.get(path).content for name, path in again["files"].items() if name in before}
        gone = client.get("/api/episodes/0123456789abcdef.html", headers={"Accept": "text/html"})
    assert after == before
    assert gone.status_code == 404
    assert 'href="../../"' in gone.text, "a way back"


def test_the_newest_stay_within_number_and_bytes(
    replay: Replay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Kept(tmp_path / "replays")

    def add(name: str, second: int) -> None:
        kept.add(structs.replace(replay, id=name))
        os.utime(tmp_path / "replays" / f"{name}.json", (second, second))

    for second in range(KEPT_REPLAYS + 2):
        add(f"{second:02d}", second)
    add("02", 1_000)
    add("99", 1_001)
    assert [each.id for each in kept.read()] == [*(f"{k:02d}" for k in range(4, KEPT_REPLAYS + 2)), "02", "99"]
    assert kept.read()[0] == structs.replace(replay, id="04")
    monkeypatch.setattr(module, "_KEPT_BYTES", 3 * len(replay.to_json()))
    kept.add(structs.replace(replay, id="xx"))
    assert [each.id for each in kept.read()] == ["02", "99", "xx"]
    monkeypatch.setattr(module, "_KEPT_BYTES", 1)
    kept.add(structs.replace(replay, id="yy"))
    assert [each.id for each in kept.read()] == ["yy"], "the newest stays, however large"


def test_a_damaged_file_is_left_out(replay: Replay, tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    kept.add(replay)
    (tmp_path / "damaged.json").write_bytes(b"{")
    (tmp_path / "other.json").write_bytes(b'{"id": "other"}')
    assert kept.read() == [replay]
    (tmp_path / f"{replay.id}.json").write_bytes(b"{")
    kept.add(replay)
    assert kept.read() == [replay], "a damaged file is written anew when its episode is played again"


def test_what_is_played_while_earlier_replays_are_read_is_newer_than_they(replay: Replay, tmp_path: Path) -> None:
    kept = Kept(tmp_path / "replays")
    for name in range(KEPT_REPLAYS):
        kept.add(structs.replace(replay, id=str(name)))
    models = models_of(tmp_path)
    replays = Replays(models, Metrics(), kept)

    async def story() -> str:
        await models.poll()
        restoring = asyncio.create_task(replays.restore())
        await asyncio.sleep(0)
        replays._keep(replay)
        await restoring
        return replays.list()[0].id

    assert asyncio.run(story()) == replay.id
    assert len(replays.list()) == KEPT_REPLAYS


def test_two_requests_for_one_episode_write_its_file_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writing, most = list[Path](), list[int]()

    def slowly(path: Path, content: bytes) -> None:
        writing.append(path)
        most.append(len(writing))
        time.sleep(0.05)
        writing.remove(path)

    monkeypatch.setattr(module, "write_new", slowly)
    models = models_of(tmp_path)
    replays = Replays(models, Metrics(), Kept(tmp_path / "replays"))

    async def story() -> None:
        await models.poll()
        await asyncio.gather(*(replays.create(EpisodeRequest(seed=1)) for _ in range(3)))

    asyncio.run(story())
    assert most == [1, 1, 1]


def test_a_disk_that_cannot_be_written_costs_the_copies_alone(
    replay: Replay, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    kept = Kept(tmp_path / "file" / "replays")
    for _ in range(2):
        kept.add(replay)
    assert len(caplog.records) == 1
    assert "they end with this server" in caplog.records[0].message
    assert kept.read() == []
