"""Copies of models on the disk: restarts without a registry, and disks that fail."""

import asyncio
import errno
import logging
import os
from pathlib import Path

import pytest

from serving.errors import RegistryUnavailableError
from serving.models.follower import Models
from tests.support.serving.faulty import BAD, GOOD, Registry, following, playing, poll


def test_the_version_that_played_last_plays_after_a_restart(tmp_path: Path) -> None:
    registry = Registry(GOOD[0], BAD["garbage"])
    models = following(registry, tmp_path)
    poll(models)
    registry.aliases["champion"] = "2"
    poll(models)
    registry.fault = RegistryUnavailableError("connection refused")
    again = following(registry, tmp_path)
    asyncio.run(again.restore())
    assert playing(again) == "1"
    assert again.notice == "version 1 played last and plays on; alias 'champion' is at 2"
    assert (again.registry_age, again.swaps, again.errors) == (None, 1, 0)
    assert again.aliases_of("1") == ["champion"]
    assert poll(again) is False
    assert "the last good copy plays on" in again.notice
    registry.fault = None
    registry.aliases["champion"] = "1"
    poll(models)
    again = following(registry, tmp_path)
    asyncio.run(again.restore())
    assert (playing(again), again.notice) == ("1", "")


@pytest.mark.parametrize("lost", ["snapshot.json", "played-*.json", "*.onnx", "*"])
def test_a_restart_uses_the_files_that_are_left_on_the_disk(lost: str, tmp_path: Path) -> None:
    models = following(Registry(GOOD[0]), tmp_path)
    poll(models)
    for path in tmp_path.rglob(lost):
        if path.is_file():
            path.unlink()
    again = following(Registry(), tmp_path)
    asyncio.run(again.restore())
    assert playing(again) == ("1" if lost == "snapshot.json" else None)
    assert (set(again.snapshot.versions) == {"1"}) is (lost in ("played-*.json", "*.onnx"))
    assert again.errors == 0
    assert again.notice == ("" if again.current else "looking for a model")


def test_without_a_disk_nothing_is_restored_and_all_else_works() -> None:
    models = Models(Registry(GOOD[0]), alias="champion", version=None)
    asyncio.run(models.restore())
    assert playing(models) is None
    assert poll(models)
    assert (playing(models), models.errors) == ("1", 0)


def test_a_copy_on_the_disk_spares_the_download(tmp_path: Path) -> None:
    registry, models = Registry(GOOD[0]), following(Registry(GOOD[0]), tmp_path)
    poll(models)
    again = following(registry, tmp_path)
    assert poll(again)
    assert (playing(again), registry.fetched) == ("1", 0)


def test_a_copy_that_is_not_accepted_any_more_is_fetched_anew(tmp_path: Path) -> None:
    registry = Registry(GOOD[0])
    models = following(registry, tmp_path)
    models.loader._cache.keep(registry.versions["1"], BAD["garbage"])  # type: ignore[union-attr] # it has one
    assert poll(models)
    assert (playing(models), registry.fetched, models.failed_swaps) == ("1", 1, 0)


def test_a_disk_that_cannot_be_read_is_counted_and_the_registry_asked(tmp_path: Path) -> None:
    registry = Registry(GOOD[0])
    models = following(registry, tmp_path)
    models.loader._cache.fault = OSError(5, "Input/output error")  # type: ignore[union-attr] # it has one
    assert poll(models)
    assert (playing(models), models.errors) == ("1", 4), "the snapshot, the copy twice, and what plays"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.ENOTDIR, errno.EIO])
def test_a_disk_that_fails_is_one_sentence_in_the_log(
    code: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    registry = Registry(*GOOD[:3])
    models = following(registry, tmp_path)
    cache = models.loader._cache
    assert cache
    cache.fault = OSError(code, os.strerror(code), "/tmp/x")  # type: ignore[attr-defined] # it has one
    asyncio.run(models.restore())
    for champion in ("1", "2", "3"):
        registry.aliases["champion"] = champion
        assert poll(models)
        assert playing(models) == champion
    [said] = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert said.exc_info is None
    assert said.getMessage() == models.loader.disk_notice
    assert models.loader.disk_notice == (
        f"fetched versions cannot be kept in {cache.folder} ({os.strerror(code)}): make room there, or name another "
        "--cache-dir; what plays plays on, and is fetched anew after a restart"
    )
    cache.fault = None  # type: ignore[attr-defined] # as above
    registry.aliases["champion"] = "1"
    assert poll(models)
    assert cache.played("champion")
