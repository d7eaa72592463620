"""Errors that leave a verb: a sentence and an exit code for each that is not this project's own mistake."""

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
from flows.errors import InputError, PrefectError, RegistryError, TrackingError, one_line
from flows.registry.lock import OvertakenError
from flows.tracking.attempt import StaleAttemptError

_SENTENCES: Final = (
    TrackingError,
    RegistryError,
    CheckpointError,
    ExportError,
    PrefectError,
    StaleAttemptError,
    OvertakenError,
)


def reported(work: Callable[[], None], *others: type[Exception]) -> int:
    """Do the work of a verb. Returns its exit code; what went wrong has been said.

    Args:
        work: what is done.
        others: errors whose messages are sentences, besides those below.
    """
    try:
        work()
    except (ConfigError, EnvironmentUnsupportedError, EnvironmentFaultError, InputError, MemoryError) as error:
        return fail(error, BAD_INPUT)
    except DivergedError as error:
        return fail(error, DIVERGED)
    except _SENTENCES as error:
        return fail(error, 1)
    except others as error:
        return fail(error, 1)
    except MlflowException as error:
        return fail(error, 1, f"MLflow: {one_line(error)}")
    except (SQLAlchemyError, sqlite3.Error) as error:
        return fail(error, 1, f"the database: {one_line(error)}")
    except OSError as error:
        return fail(error, 1, f"{error.filename or type(error).__name__}: {error.strerror or one_line(error)}")
    return 0
