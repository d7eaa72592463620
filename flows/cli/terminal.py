"""A verb at a terminal: quiet libraries, exit codes, and errors as one sentence."""

import logging
import os
import sys
from collections.abc import Callable
from typing import Final

from flows.errors import InputError
from flows.interrupts import INTERRUPTED, TERMINATED, Terminated, raised
from flows.uris import redacted

BAD_INPUT: Final = InputError.exit_code
DIVERGED: Final = 3
ENVIRONMENT: Final = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_LOGGING_LEVEL": "CRITICAL",  # what goes wrong is said once, below
    "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


def quieten() -> None:
    """Keep from a terminal what libraries log of errors that are said once, as a sentence, when they have an end."""
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # each of its retries is a warning
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # a traceback for each try


def attended(run: Callable[[], int]) -> int:
    """Run what a person waits for at a terminal: without the tools' own chatter, and until Ctrl-C or SIGTERM at most.

    Returns its exit code, or that of the interruption.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    with raised():
        try:
            return run()
        except Terminated as error:
            return fail(error, TERMINATED, "terminated")
        except KeyboardInterrupt as error:
            return fail(error, INTERRUPTED, "interrupted")


def fail(error: BaseException, code: int, message: str | None = None) -> int:
    """Say what went wrong, in a sentence and its notes; returns the exit code."""
    lines = (f"error: {message or error}", *getattr(error, "__notes__", ()))
    print(*map(redacted, lines), sep="\n", file=sys.stderr)
    return code
