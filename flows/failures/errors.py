"""Errors with a message of one sentence for a person, and how the errors of libraries are quoted."""

import errno
from typing import Final

from flows.uris import redacted


class FlowError(Exception):
    """A failure with a message of one sentence for a person."""

    exit_code = 1
    """Exit code of `python -m flows` if this error ends it."""


class InputError(FlowError, ValueError):
    """A request that cannot be met; the message says what was given, what is expected and what to do."""

    exit_code = 2


class PrefectError(FlowError):
    """Prefect's API cannot be reached; the message says which API and what to do."""


class RegistryError(FlowError):
    """The registry does not have what was asked for or what was written; the message says which."""


class TrackingError(FlowError):
    """MLflow cannot be reached or refuses; the message names the address of its store."""


_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
_FULL_SAID: Final = ("database or disk is full", "readonly database", "disk I/O error", "No space left on device")


def one_line(error: BaseException) -> str:
    """The first line of an error's message, without the causes that MLflow's client appends to it."""
    lines = (str(error).strip() or type(error).__name__).splitlines()
    first_line = next((line for line in lines if not line.startswith("(raised as a result of")), lines[0])
    return redacted(first_line.partition(" with exception HTTP")[0])


def is_full(error: BaseException | None) -> bool:
    """Whether an error or one of its causes is a full or read-only disk, so that retrying cannot help."""
    while error is not None:
        if getattr(error, "errno", None) in _FULL or any(said in str(error) for said in _FULL_SAID):
            return True
        error = error.__cause__ or error.__context__
    return False
