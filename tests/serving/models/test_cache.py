"""Copies of models on the disk, and the files beside them."""

import os
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from serving.models.cache import Cache
from serving.models.source import Snapshot, Version
from tests.support.serving.faulty import GOOD

VERSION = Version(number="1", source="s3://1", run_id="r", experiment_id="e", tags={"gate": "passed"})


def test_an_incomplete_cached_copy_is_not_used(tmp_path: Path) -> None:
    cache = Cache(tmp_path, "dqn")
    assert cache.read(VERSION) is None
    cache.keep(VERSION, GOOD[0])
    assert cache.read(VERSION) == GOOD[0]
    assert cache.read(replace(VERSION, tags={"sha256": sha256(GOOD[0]).hexdigest()})) == GOOD[0]
    assert cache.read(replace(VERSION, tags={"sha256": sha256(GOOD[1]).hexdigest()})) is None
    (kept,) = cache.folder.glob("*.onnx")
    kept.write_bytes(GOOD[1])
    assert cache.read(VERSION) is None
    cache.keep(VERSION, GOOD[2])
    assert cache.read(VERSION) == GOOD[2]
    assert len(list(cache.folder.iterdir())) == 1


@pytest.mark.parametrize("other", [{"number": "2"}, {"source": "s3://2"}, {"created_ms": 2}])
def test_a_copy_is_of_one_version_of_one_store(other: dict[str, str | int], tmp_path: Path) -> None:
    cache, version = Cache(tmp_path, "dqn"), replace(VERSION, **other)  # type: ignore[arg-type] # a table of fields
    cache.keep(VERSION, GOOD[0])
    assert cache.read(version) is None
    cache.keep(version, GOOD[1])
    assert (cache.read(VERSION), cache.read(version)) == (GOOD[0], GOOD[1])


def test_a_copy_that_another_server_removes_at_the_same_time_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = Cache(tmp_path, "dqn")
    monkeypatch.setattr(Path, "glob", lambda folder, pattern: [folder / "1-gone.onnx"])
    cache.keep(VERSION, GOOD[0])
    assert [path.suffix for path in cache.folder.iterdir()] == [".onnx"]


def test_every_registry_and_every_model_has_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def folder(tracking: str, registry: str, name: str = "dqn") -> Path:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking)
        monkeypatch.setenv("MLFLOW_REGISTRY_URI", registry)
        return Cache(tmp_path, name).folder

    assert folder("http://a", "") == folder("http://b", "http://a") == folder("", "http://a")
    folders = {folder("http://a", ""), folder("http://b", ""), folder("", ""), folder("", "", "other")}
    assert len(folders) == 4
    assert all(tmp_path in each.parents for each in folders)


def test_a_snapshot_that_was_written_is_read_back(tmp_path: Path) -> None:
    snapshot = Snapshot(aliases={"champion": "1"}, versions={"1": VERSION})
    cache = Cache(tmp_path, "dqn")
    assert (cache.snapshot(), cache.played("champion")) == (None, None)
    cache.remember(snapshot)
    cache.remember_played("champion", VERSION)
    again = Cache(tmp_path, "dqn")
    assert (again.snapshot(), again.played("champion"), again.played("1")) == (snapshot, VERSION, None)
    for path in cache.folder.iterdir():
        path.write_bytes(b"damaged")
    assert (again.snapshot(), again.played("champion")) == (None, None)


def test_bytes_reach_the_disk_before_the_copy_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []
    monkeypatch.setattr(os, "fsync", lambda file: written.append(os.fstat(file).st_size))
    Cache(tmp_path, "dqn").keep(VERSION, b"model")
    assert written == [5]


@pytest.mark.parametrize("step", ["os.fsync", "pathlib.Path.replace"])
def test_a_write_that_fails_leaves_nothing_behind(step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    cache = Cache(tmp_path, "dqn")
    monkeypatch.setattr(step, full)
    with pytest.raises(OSError, match="No space"):
        cache.keep(VERSION, GOOD[0])
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_the_least_recently_used_copies_are_removed_except_the_version_that_plays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = Cache(tmp_path, "dqn")
    versions = [replace(VERSION, number=str(number)) for number in range(1, 7)]

    def kept() -> list[str]:
        return sorted(path.name.partition("-")[0] for path in cache.folder.glob("*.onnx"))

    def age() -> None:
        for path in cache.folder.glob("*"):
            os.utime(path, times=(path.stat().st_mtime - 10,) * 2)

    monkeypatch.setattr("serving.models.cache._KEPT_COPIES", 3)
    for version in versions[:3]:
        age()
        cache.keep(version, GOOD[0])
    cache.remember_played("champion", versions[0])
    age()
    assert cache.read(versions[1])
    age()
    cache.keep(versions[3], GOOD[0])
    assert kept() == ["1", "2", "4"], "1 plays and 2 was read since 3 was"
    monkeypatch.setattr("serving.models.cache._KEPT_BYTES", len(GOOD[0]) + 10)
    age()
    cache.keep(versions[4], GOOD[0])
    assert kept() == ["1", "5"]
    monkeypatch.setattr("serving.models.cache._KEPT_NOTES", 1)
    age()
    cache.remember_played("6", versions[5])
    (cache.folder / ".torn").touch()
    os.utime(cache.folder / ".torn", times=(0, 0))
    (cache.folder / ".now").touch()
    cache.keep(versions[5], GOOD[0])
    assert kept() == ["6"], "version 1 played least recently"
    assert [path.name for path in cache.folder.glob(".*")] == [".now"]
    assert len(list(cache.folder.glob("played-*.json"))) == 1


def test_a_copy_that_grew_on_the_disk_is_not_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = Cache(tmp_path, "dqn")
    cache.keep(VERSION, GOOD[0])
    monkeypatch.setattr("serving.model_file.MAX_BYTES", len(GOOD[0]) - 2)
    assert cache.read(VERSION) is None
