"""Writing files, and sentences for a disk that is full or cannot be written to."""

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
    """Write a file whole or not at all: an existing file is unchanged until it is replaced.

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
    """A sentence for an OSError that ends a verb; an error without a file name comes from printing."""
    if isinstance(error, DiskError) or error.errno is None:
        return str(error)
    if error.filename is None:
        return f"cannot write what was to be printed: {reason(error)}"
    return f"{error.filename}: {reason(error)}"


def reason(error: OSError) -> str:
    """The system's words, without the name of a temporary file."""
    return error.strerror or str(error) or type(error).__name__


def full(error: BaseException | None) -> str | None:
    """The system's words if an error was caused by a full or read-only disk of this machine, else None."""
    while error is not None:
        if isinstance(error, OSError):  # shutil.Error holds the errors of several files as text
            said = str(error)
            if found := next((os.strerror(code) for code in _CODES if os.strerror(code) in said), None):
                return found
        error = error.__cause__ or error.__context__
    return None


def scratch() -> str:
    """The directory of temporary files, for a sentence."""
    try:
        return tempfile.gettempdir()
    except OSError:
        return "every directory for temporary files"
