"""What is written to a disk, and the sentence where that is full or refuses."""

import errno
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

_CODES: Final = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


class DiskError(OSError):
    """A file that cannot be written; the message names it and says what to do."""


def write_new(path: Path, content: bytes) -> None:
    """Write a file whole or not at all: one that is there stays as it is until it is replaced.

    Raises:
        DiskError: if it cannot be written.
    """
    beside = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            beside.write_bytes(content)
            beside.replace(path)
        except BaseException:
            with suppress(OSError):
                beside.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise DiskError(
            f"cannot write {path} ({reason(error)}): make room there, or name another file with --out"
        ) from error


def sentence(error: OSError) -> str:
    """An error of the system that leaves a verb; one that names no file comes of printing."""
    if isinstance(error, DiskError) or error.errno is None:
        return str(error)
    if error.filename is None:
        return f"cannot write what was to be printed: {reason(error)}"
    return f"{error.filename}: {reason(error)}"


def reason(error: OSError) -> str:
    """What the system says, without the name of a temporary file that nobody asked for."""
    return error.strerror or str(error) or type(error).__name__


def full(error: BaseException | None) -> str | None:
    """Of an error that comes of this machine's full or read-only disk, what the system says; None of another one."""
    while error is not None:
        if isinstance(error, OSError):  # shutil's holds those of several files as text
            said = str(error)
            if found := next((os.strerror(code) for code in _CODES if os.strerror(code) in said), None):
                return found
        error = error.__cause__ or error.__context__
    return None


def scratch() -> str:
    """Where temporary files are written, for a sentence."""
    try:
        return tempfile.gettempdir()
    except OSError:
        return "every directory for temporary files"
