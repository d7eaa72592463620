"""Errors that end a verb: a sentence and an exit code for each; any other error is a bug and keeps its traceback."""

import sqlite3
from collections.abc import Callable
from typing import Final

from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from dqn.config import ConfigError
from dqn.environments.spec import EnvironmentUnsupportedError
from dqn.finite import DivergedError, EnvironmentFaultError
from dqn.networks.onnx import ExportError
from dqn.training.checkpoint import CheckpointError
from flows.cli.terminal import BAD_INPUT, DIVERGED, fail
from flows.failures.errors import FlowError, one_line
from flows.tracking.attempt import StaleAttemptError

_CODES: Final[dict[type[BaseException], int]] = {
    ConfigError: BAD_INPUT,
    EnvironmentUnsupportedError: BAD_INPUT,
    EnvironmentFaultError: BAD_INPUT,
    MemoryError: BAD_INPUT,
    DivergedError: DIVERGED,
    CheckpointError: 1,
    ExportError: 1,
    StaleAttemptError: 1,
}
"""Of errors that have a sentence but no `exit_code` of their own."""


def reported(work: Callable[[], None]) -> int:
    """Do the work of a verb. Returns the exit code, and prints the error that ended the work, if any."""
    try:
        work()
    except FlowError as error:
        return fail(error, error.exit_code)
    except tuple(_CODES) as error:
        return fail(error, next(code for kind, code in _CODES.items() if isinstance(error, kind)))
    except MlflowException as error:
        return fail(error, 1, f"MLflow: {one_line(error)}")
    except (SQLAlchemyError, sqlite3.Error) as error:
        return fail(error, 1, f"the database: {one_line(error)}")
    except OSError as error:
        return fail(error, 1, f"{error.filename or type(error).__name__}: {error.strerror or one_line(error)}")
    return 0
