"""Which errors a step is tried again after, and that every task of every flow is."""

import importlib
import pkgutil
from typing import Any

import httpx
import pytest
import requests
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR, INVALID_PARAMETER_VALUE
from prefect import Task
from prefect.states import Failed

import flows
from dqn.config import ConfigError
from dqn.training.checkpoint import CheckpointError
from flows.failures.errors import InputError, TrackingError
from flows.failures.outages import is_transient
from flows.orchestration.step import RETRY_SECONDS, Step, may_pass


def answer(status: int) -> httpx.HTTPStatusError:
    request = httpx.Request("GET", "http://127.0.0.1")
    return httpx.HTTPStatusError("refused", request=request, response=httpx.Response(status, request=request))


missing = requests.Response()
missing.status_code = 404


@pytest.mark.parametrize(
    ("error", "transient"),
    [
        (MlflowException("the database is away", INTERNAL_ERROR), True),
        (MlflowException("no such model", INVALID_PARAMETER_VALUE), False),
        (TrackingError("MLflow cannot be reached"), True),
        (requests.ConnectionError(), True),
        (requests.HTTPError(response=missing), False),
        (FileNotFoundError(), False),
        (TimeoutError(), True),
        (httpx.ConnectError("refused"), True),
        (ConnectionResetError(), True),
        (answer(499), False),
        (answer(500), True),
        (CheckpointError("torn"), False),
        (ConfigError("gamma"), False),
        (InputError("no such run"), False),
    ],
)
def test_what_is_about_reaching_a_server_is_tried_again(error: Exception, transient: bool) -> None:
    nothing: Any = None
    assert is_transient(error) is transient
    assert may_pass(nothing, nothing, Failed(data=error)) is transient


def test_whatever_asks_a_server_is_tried_again_for_two_minutes() -> None:
    """Every task of every flow: each of them begins with a call to MLflow."""
    names = [module.name for module in pkgutil.walk_packages(flows.__path__, "flows.") if "__main__" not in module.name]
    values = {name: vars(importlib.import_module(name)).values() for name in names}
    assert not [name for name in names for value in values[name] if isinstance(value, Task)], "a task that is no step"
    steps = {value for name in names for value in values[name] if isinstance(value, Step)}
    assert len(steps) > 9
    assert sum(RETRY_SECONDS) >= 120
    for each in steps:
        assert each.task.retry_condition_fn is may_pass, each.name
        assert each.task.retries == len(RETRY_SECONDS), each.name
        assert each.task.retry_delay_seconds == list(RETRY_SECONDS), each.name
    anew = {"start", "begin", "begin training", "find model", "register file", "roll back", "retire", "finish"}
    anew |= {"start bank", "retrain the winner", "record"}  # the last two of a sweep, as is a second "report"
    assert {each.name for each in steps if not each.task.persist_result} - {"report"} == anew
