"""A restore replaces all, or leaves what was there."""

import tarfile
from pathlib import Path

import pytest
from backup import backup, restore
from engine import StackError
from stack import Stack

from tests.support.docker.backups import asked, stack

__all__ = ["stack"]  # the fixture


def changing(tmp_path: Path) -> list[tuple[str, str]]:
    """What was asked that changes something, and what was given with it."""
    verbs = ("stop", "up ", "DROP", "RENAME", "pg_restore", "run ")
    return [(what, given) for what, given in asked(tmp_path) if any(verb in what for verb in verbs)]


def test_a_restore_replaces_all_with_the_writers_stopped(stack: Stack, tmp_path: Path) -> None:
    path = backup(stack, tmp_path / "backups")
    (tmp_path / "asked").unlink()
    restore(stack, path)
    done = changing(tmp_path)
    assert "stop worker deploy serving mlflow prefect-server" in done[0][0]
    assert "up --detach postgres" in done[1][0]
    assert [given for _, given in done if given] == ["artifacts", "dump of mlflow", "dump of prefect"]
    assert "--create --exit-on-error" in done[4][0]
    assert done[-1][0].endswith("up --detach")
    assert (tmp_path / "databases").read_text().split() == ["mlflow", "prefect"]


@pytest.mark.parametrize("broken", ["RENAME", "pg_restore", "tar --extract", "rmdir"])
def test_a_restore_that_fails_says_so_and_starts_nothing(
    broken: str, stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = backup(stack, tmp_path / "backups")
    monkeypatch.setenv("FAIL", broken)
    with pytest.raises(StackError, match="failed: it is broken"):
        restore(stack, path)
    assert not asked(tmp_path)[-1][0].endswith("up --detach")


def tree(directory: Path) -> dict[str, str]:
    return {str(path.relative_to(directory)): path.read_text() for path in directory.rglob("*") if path.is_file()}


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """A volume of artifacts in which others have files too, and the artifacts of a backup."""
    volume, content = tmp_path / "volume", tmp_path / "content"
    old = {"1/run/a": "old", "2/run/b": "old", "lost+found/inode": "foreign", ".snapshot/s": "foreign", "note": "f"}
    for directory, files in ((volume, old), (content, {"1/run/a": "new", "3/run/c": "new"})):
        for name, text in files.items():
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            (directory / name).write_text(text)
    with tarfile.open(tmp_path / "archive.tar", "w") as archive:
        archive.add(content, ".")
    return volume


def test_a_restore_leaves_foreign_files_alone(stack: Stack, tmp_path: Path, volume: Path) -> None:
    foreign = {name: text for name, text in tree(volume).items() if not name[0].isdigit()}
    restore(stack, backup(stack, tmp_path / "backups"))
    assert tree(volume) == {"1/run/a": "new", "3/run/c": "new", **foreign}
    assert sorted(path.name for path in volume.iterdir()) == [".snapshot", "1", "3", "lost+found", "note"]


@pytest.mark.parametrize("broken", ["RENAME", "pg_restore", "tar --extract", "rmdir .restoring", ""])
def test_a_restore_that_fails_leaves_what_was_there(
    broken: str, stack: Stack, tmp_path: Path, volume: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tree(volume)
    path = backup(stack, tmp_path / "backups")
    archive = tmp_path / "archive.tar"
    whole = archive.read_bytes()
    if broken:
        monkeypatch.setenv("FAIL", broken)
    else:  # unpacking fails half-way, by itself
        archive.write_bytes(whole[:2_048] + b"x" * 2_048)
    with pytest.raises(StackError) as failed:
        restore(stack, path)
    assert failed.value.__notes__ == ["what was there before is in its place again: `make up` starts it"]
    assert tree(volume) == before
    assert sorted((tmp_path / "databases").read_text().split()) == ["mlflow", "prefect"]
    monkeypatch.setenv("FAIL", "")
    archive.write_bytes(whole)
    restore(stack, path)
    assert tree(volume)["1/run/a"] == "new"
    assert sorted((tmp_path / "databases").read_text().split()) == ["mlflow", "prefect"]


def test_what_a_killed_restore_has_set_aside_is_what_was_there(
    stack: Stack, tmp_path: Path, volume: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tree(volume)
    path = backup(stack, tmp_path / "backups")
    (tmp_path / "databases").write_text("mlflow\nmlflow_before_restore\nprefect\n")
    (volume / ".before-restore").mkdir()
    (volume / "1").rename(volume / ".before-restore" / "1")
    monkeypatch.setenv("FAIL", "pg_restore")
    with pytest.raises(StackError):
        restore(stack, path)
    assert sorted((tmp_path / "databases").read_text().split()) == ["mlflow", "prefect"]
    assert tree(volume) == before
