"""Replays on the disk: their links work after a restart, and neither number, bytes nor a full disk is a trouble."""

import asyncio
import os
from pathlib import Path

import pytest
from msgspec import structs
from starlette.testclient import TestClient

from serving.application import App
from serving.episodes import kept as module
from serving.episodes.kept import KEPT_REPLAYS, Kept
from serving.episodes.replay import Replay, record
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
        while len(client.get("/api/episodes").json()) < 2:
            pass
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
