"""A verb at a terminal: quiet libraries, exit codes, and errors as one sentence."""

import logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from dqn.config import ConfigError
from flows.cli import options
from flows.cli.program import prepare, prog
from flows.failures.errors import InputError
from flows.failures.interrupts import INTERRUPTED, TERMINATED, Terminated, raised
from flows.uris import redacted

BAD_INPUT: Final = InputError.exit_code
DIVERGED: Final = 3
T = TypeVar("T")
ENVIRONMENT: Final = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_LOGGING_LEVEL": "CRITICAL",  # an error is printed once, by `fail`
    "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


def quieten() -> None:
    """Suppress what libraries log of errors; `fail` prints an error once, as a sentence."""
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # each of its retries is a warning
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # a traceback for each try


def attended(run: Callable[[], int]) -> int:
    """Run a verb at a terminal, without the log output of libraries, until it ends or Ctrl-C or SIGTERM arrives.

    Returns:
        Its exit code, or that of the interruption.
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


def verb(
    default: T,
    argv: Sequence[str] | None,
    name: str,
    positional: Sequence[str],
    check: Callable[[T], None],
    run: Callable[[T], int],
) -> int:
    """Parse a command line, check it and run a verb. Returns the exit code.

    Args:
        default: the arguments if none is given.
        argv: the words; None takes those of this process.
        name: of the verb, for `--help`.
        positional: fields that are given without a name, in this order.
        check: refuses, with a ConfigError, what can be refused before the heavy imports.
        run: returns the exit code.
    """
    prepare()

    def begin() -> int:
        words = sys.argv[1:] if argv is None else argv
        try:
            chosen = options.parse(type(default), words, prog=prog(name), default=default, positional=positional)
            check(chosen)
        except ConfigError as error:
            return fail(error, BAD_INPUT)
        quieten()
        return run(chosen)

    return attended(begin)


def fail(error: BaseException, code: int, message: str | None = None) -> int:
    """Print an error as a sentence, and its notes. Returns the exit code."""
    lines = (f"error: {message or error}", *getattr(error, "__notes__", ()))
    print(*map(redacted, lines), sep="\n", file=sys.stderr)
    return code
