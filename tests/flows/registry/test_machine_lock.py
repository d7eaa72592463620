"""One lock for all users of a machine, whatever lies where its file should be."""

import fcntl
import os
import stat
import tempfile
import threading
from pathlib import Path

import pytest

from flows.failures.errors import InputError
from flows.registry import machine_lock as module
from flows.registry.machine_lock import machine_lock, store_key

STORE = "sqlite:////somewhere/mlflow.db"


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(module, "DIRECTORY", tmp_path)
    return tmp_path


def is_free(path: Path) -> bool:
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def test_every_user_finds_the_same_file(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = os.umask(0o077)
    try:
        with machine_lock(STORE, "m"):
            (path,) = directory.iterdir()
            assert not is_free(path)
            assert stat.S_IMODE(path.stat().st_mode) == 0o666
    finally:
        os.umask(before)
    monkeypatch.setattr(tempfile, "tempdir", str(directory / "of another user"))
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    with machine_lock(STORE, "m"):
        assert not is_free(path)
    assert is_free(path)
    assert list(directory.iterdir()) == [path]
    assert directory == module.DIRECTORY


def test_a_lock_that_another_user_made_is_opened_for_reading_alone(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with machine_lock(STORE, "m"):
        pass
    flags: list[int] = []
    opening = os.open

    def opened(path: str, how: int, *more: int) -> int:
        flags.append(how)
        return opening(path, how, *more)

    monkeypatch.setattr(os, "open", opened)
    with machine_lock(STORE, "m"):
        pass
    assert [how & (os.O_ACCMODE | os.O_CREAT | os.O_NOFOLLOW) for how in flags] == [os.O_RDONLY | os.O_NOFOLLOW]


@pytest.mark.parametrize("kind", ["link", "dangling link", "directory", "pipe"])
def test_what_is_no_regular_file_is_refused_and_left_alone(kind: str, directory: Path) -> None:
    with machine_lock(STORE, "m"):
        (path,) = directory.iterdir()
    path.unlink()
    target = directory / "precious"
    if kind == "link":
        target.write_text("kept")
        path.symlink_to(target)
    elif kind == "dangling link":
        path.symlink_to(target)
    elif kind == "directory":
        path.mkdir()
    else:
        os.mkfifo(path)
    with pytest.raises(InputError, match=r"the lock of promotions, .*: remove it"), machine_lock(STORE, "m"):
        pass
    assert kind != "link" or target.read_text() == "kept"
    assert kind != "dangling link" or not target.exists()


def test_a_directory_in_which_nothing_can_be_made_is_named(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DIRECTORY", directory / "gone")
    with pytest.raises(InputError, match=r"cannot be created .* writable"), machine_lock(STORE, "m"):
        pass


def test_a_lock_that_was_tidied_away_is_not_taken_for_the_new_one(directory: Path) -> None:
    """A process that waited for the file that is gone holds a lock that no other process looks at."""
    entered, done = threading.Event(), threading.Event()

    def hold() -> None:
        with machine_lock(STORE, "m"):
            entered.set()

    with machine_lock(STORE, "m"):
        (path,) = directory.iterdir()
        waiting = threading.Thread(target=hold)
        waiting.start()
        assert not entered.is_set()
        path.unlink()
    waiting.join(30)
    done.set()
    assert entered.is_set()
    assert path.exists()


def test_models_and_stores_have_locks_of_their_own(directory: Path) -> None:
    with machine_lock(STORE, "m"), machine_lock(STORE, "other"), machine_lock("http://host:5000", "m"):
        assert len(list(directory.iterdir())) == 3


def test_a_store_has_one_key_however_it_is_spelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path)
    same = [
        [
            f"sqlite:///{tmp_path}/mlflow.db",
            "sqlite:///mlflow.db",
            f"sqlite:///{tmp_path}/link/mlflow.db?timeout=60",
            "sqlite:///./x/../mlflow.db",
        ],
        ["http://host:80", "http://HOST/", "http://user:word@host"],
        ["http://127.0.0.1:5000", "http://localhost:5000/", "http://[::1]:5000"],
        [f"file://{tmp_path}/mlruns", str(tmp_path / "mlruns"), "mlruns", "./mlruns"],
        ["postgresql+psycopg2://a:b@db/mlflow", "postgresql+psycopg2://db/mlflow"],
    ]
    keys = [{store_key(uri) for uri in uris} for uris in same]
    assert [len(each) for each in keys] == [1] * len(same)
    assert len(set.union(*keys)) == len(same)
    assert not any("word" in key for each in keys for key in each)
