"""The tracking store. Its URI, database and artifacts are checked before anything is written."""

import fcntl
import math
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from shlex import quote
from typing import Final

import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.store.db.db_types import DATABASE_ENGINES
from sqlalchemy import NullPool, create_engine
from sqlalchemy.exc import SQLAlchemyError

from flows.failures.errors import InputError, TrackingError, one_line
from flows.uris import connect_args, local_path, redacted, sqlite_uri
from serving.models.glance import store_file

_ALONE_SECONDS: Final = 60.0
_PATIENCE: Final = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}
"""With MLflow's defaults, one call to a server that is down takes four minutes."""
_ANSWER_SECONDS: Final = 30.0
_answered: dict[str, float] = {}
"""Time of the latest answer of each tracking store, by its URI. Every step connects, often within the same second."""


def connect() -> MlflowClient:
    """A client of the tracking store, which has answered a call within the last `_ANSWER_SECONDS`.

    Raises:
        InputError: if the store refuses the login or needs a driver that is not installed.
        TrackingError: if it does not answer within seconds.
    """
    for name, value in _PATIENCE.items():
        os.environ.setdefault(name, value)
    uri = _store_uri()
    if time.monotonic() - _answered.get(uri, -math.inf) < _ANSWER_SECONDS:
        return MlflowClient()
    try:
        with _alone(uri):
            _check_database(uri)
            client = MlflowClient()
            client.search_experiments(max_results=1)
    except (MlflowException, SQLAlchemyError, sqlite3.Error, OSError) as error:
        if getattr(error, "error_code", "") in ("UNAUTHENTICATED", "PERMISSION_DENIED"):
            raise InputError(
                f"MLflow's server {redacted(uri)} refuses this login: "
                "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD to those of a user it knows"
            ) from error
        raise TrackingError(
            f"MLflow's tracking store {redacted(uri)} cannot be used ({one_line(error)}); "
            "start its server or free its directory, or set MLFLOW_TRACKING_URI to another"
        ) from error
    except ImportError as error:
        raise InputError(
            f"MLflow's tracking store {redacted(uri)} needs a driver that is not installed ({one_line(error)}); "
            "install it, or set MLFLOW_TRACKING_URI to another store"
        ) from error
    _answered[uri] = time.monotonic()
    return client


def require_artifacts(uri: str) -> None:
    """Refuse artifacts of an embedded store that was moved: MLflow would create the old path again.

    Args:
        uri: of the artifacts of an experiment or a run.

    Raises:
        InputError: naming both directories.
    """
    store, kept = store_file(mlflow.get_tracking_uri()), local_path(uri)
    if store is None or kept is None or "mlruns" not in kept.parts:
        return
    before = next(parent.parent for parent in (kept, *kept.parents) if parent.name == "mlruns")
    here = store.parent
    moved = (here / kept.relative_to(before)).exists() and not kept.exists()
    if before != here and (moved or not before.exists()):
        raise InputError(
            f"MLflow's store {store} keeps its artifacts in {before}, and they are not there: its directory was moved; "
            f"move it back, or have the old path lead here: ln -s {quote(str(here))} {quote(str(before))}"
        )


def _store_uri() -> str:
    """The tracking store's URI. If MLflow would encode its default, that is set in a form that SQLAlchemy reads."""
    uri = mlflow.get_tracking_uri()
    if not os.environ.get("MLFLOW_TRACKING_URI") and uri.startswith("sqlite:") and "%" in uri:
        os.environ["MLFLOW_TRACKING_URI"] = sqlite_uri("mlflow.db")
    return mlflow.get_tracking_uri()


def _check_database(uri: str) -> None:
    """Open an embedded store for writing, or connect to a database. MLflow itself would try for two minutes."""
    if file := store_file(uri):
        with closing(sqlite3.connect(file)) as connection:
            connection.execute("BEGIN IMMEDIATE")
    elif uri.partition(":")[0].partition("+")[0] in DATABASE_ENGINES:
        create_engine(uri, poolclass=NullPool, connect_args=connect_args(uri)).connect().close()


@contextmanager
def _alone(uri: str) -> Iterator[None]:
    """A block that one process at a time is in: if several create an embedded store's tables at once, all but one fail.

    Raises:
        OSError: if another process stays in the block for `_ALONE_SECONDS`.
    """
    file = store_file(uri)
    if file is None:
        yield
        return
    directory = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        deadline = time.monotonic() + _ALONE_SECONDS
        while True:
            try:
                fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise OSError("another process has held it for a minute") from error
                time.sleep(0.05)
        yield
    finally:
        os.close(directory)
