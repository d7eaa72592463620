"""A lock that is shared by all processes of a machine, of all users and in all directories."""

import fcntl
import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from flows.failures.errors import InputError
from flows.orchestration.console import note

DIRECTORY: Final = Path("/tmp")  # noqa: S108 # TMPDIR may differ between users
_LOOPBACK: Final = ("127.0.0.1", "::1")


@contextmanager
def machine_lock(store: str, what: str) -> Iterator[None]:
    """Hold the machine's lock for an item of a store. The kernel frees the lock when its process ends.

    Args:
        store: URI of the store, in any of its spellings.
        what: name of the item.

    Raises:
        InputError: if the lock's file cannot be created, opened or locked.
    """
    digest = hashlib.sha256(f"{store_key(store)} {what}".encode()).hexdigest()[:16]
    path = DIRECTORY / f"dqn-promote-{digest}.lock"
    descriptor = _locked(path, what)
    try:
        yield
    finally:
        os.close(descriptor)


def store_key(uri: str) -> str:
    """A key that is equal for all spellings of a store's URI; it contains no login."""
    parts = urlsplit(uri)
    if parts.scheme.startswith("sqlite") and not parts.netloc:
        # SQLAlchemy: three slashes before a relative path, four before an absolute one.
        return f"sqlite:{os.path.realpath(unquote(uri.split('://', 1)[1].partition('?')[0].removeprefix('/')))}"
    if parts.scheme in ("", "file"):
        return f"file:{os.path.realpath(parts.path)}"
    host = (parts.hostname or "").lower()
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme, 0)
    return f"{parts.scheme}://{'localhost' if host in _LOOPBACK else host}:{port}{parts.path.rstrip('/')}"


def _locked(path: Path, what: str) -> int:
    """Descriptor of the lock's file, locked."""
    waited = False
    while True:
        descriptor = _opened(path)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not waited:
                    note(f"another promotion of {what} is running on this machine; waiting for its end")
                waited = True
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if _is_at(path, descriptor):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # the file was removed meanwhile, and others lock a new one


def _opened(path: Path) -> int:
    """Open the lock's file for reading, which is enough for a lock and harmless if the path is a link to another file.

    The file is created under another name, readable by all users, and then linked. Opening it with O_CREAT in a sticky
    directory would fail if the file belongs to another user (Linux, `fs.protected_regular`).
    """
    for _ in range(100):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            _make(path)
            continue
        except OSError as error:
            raise InputError(f"the lock of promotions, {path}, cannot be opened ({error}): remove it") from error
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            return descriptor
        os.close(descriptor)
        raise InputError(f"the lock of promotions, {path}, is not a regular file: remove it")
    raise InputError(f"the lock of promotions, {path}, is removed repeatedly: find out what removes it")


def _make(path: Path) -> None:
    try:
        descriptor, made = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise InputError(
            f"the lock of promotions, {path}, cannot be created ({error}): make {path.parent} writable"
        ) from error
    try:
        os.fchmod(descriptor, 0o666)
        with suppress(FileExistsError):
            os.link(made, path)
    finally:
        os.close(descriptor)
        os.unlink(made)


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path, follow_symlinks=False), os.fstat(descriptor))
    except FileNotFoundError:
        return False
