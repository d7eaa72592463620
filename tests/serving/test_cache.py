"""What lies on the disk: copies that are whole, and notes that can be read."""

import os
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from serving.models.cache import Cache
from serving.models.registry import Snapshot, Version
from tests.serving.faulty import GOOD

VERSION = Version(number="1", source="s3://1", run_id="r", experiment_id="e", tags={"gate": "passed"})


def test_a_cached_copy_is_used_only_whole(tmp_path: Path) -> None:
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


def test_what_was_noted_is_read_again(tmp_path: Path) -> None:
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
