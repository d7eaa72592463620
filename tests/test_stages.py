from collections.abc import Callable
from typing import Any

import httpx
import pytest
import requests
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR, INVALID_PARAMETER_VALUE
from prefect import flow
from prefect.states import Failed

from dqn.checkpoint import CheckpointError
from dqn.config import ConfigError, DQNConfig
from flows.attempt import Attempt, StaleAttemptError, begin
from flows.outages import is_transient
from flows.parameters import InputError
from flows.pictures import draw
from flows.stage import may_pass, stage
from flows.stages import finish
from flows.tracking import TrackingError, complete_runs, open_run


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


@pytest.mark.e2e
def test_attempts_share_the_results_of_stages_and_each_begins_anew(prefect_api: str) -> None:
    calls = []

    @stage("kept")
    def kept(run_id: str, attempt: Attempt) -> str:
        calls.append(run_id)
        return run_id

    @stage("beginning", keeps_result=False)
    def beginning(run_id: str) -> Attempt:
        calls.append("begin")
        return Attempt(run_id=run_id, token=str(len(calls)))

    @flow
    def both() -> None:
        for run_id in ("a", "a", "b"):
            kept(run_id, beginning(run_id))

    both()
    assert calls == ["begin", "a", "begin", "begin", "b"]


def test_a_picture_that_cannot_be_drawn_is_left_out_and_said_so(
    store: MlflowClient, caplog: pytest.LogCaptureFixture
) -> None:
    run_id = store.create_run(store.create_experiment("drawing")).info.run_id
    attempt = begin(store, run_id)

    def broken() -> bytes:
        raise ZeroDivisionError("no data to scale by")

    draw(store, run_id, attempt, "broken.png", broken)
    draw(store, run_id, attempt, "none.png", lambda: None)
    draw(store, run_id, attempt, "some.png", lambda: b"pixels")
    assert [file.path for file in store.list_artifacts(run_id)] == ["some.png"]
    assert "broken.png could not be drawn: no data to scale by" in caplog.text
    begin(store, run_id)
    with pytest.raises(StaleAttemptError):
        draw(store, run_id, attempt, "late.png", lambda: b"pixels")
    assert [file.path for file in store.list_artifacts(run_id)] == ["some.png"]


def test_only_the_newest_attempt_finishes_a_run(store: MlflowClient, small_config: Callable[..., DQNConfig]) -> None:
    run_id = open_run(store, small_config(), preset="cartpole", flow_run_id=None, tags={})
    stale, newest = begin(store, run_id), begin(store, run_id)
    complete_runs(store, newest, small_config(), flow_run_id=None)
    finish_now = finish.fn
    with pytest.raises(StaleAttemptError):
        finish_now(stale)
    assert store.get_run(run_id).info.status == "RUNNING"
    finish_now(newest)
    assert store.get_run(run_id).info.status == "FINISHED"
