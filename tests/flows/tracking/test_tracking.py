import dataclasses
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from dqn.config import ConfigError, DQNConfig
from flows.failures.errors import InputError
from flows.request.general import general
from flows.tracking import store
from flows.tracking.attempt import Attempt, FencedClient, StaleAttemptError, begin
from flows.tracking.endings import end_runs, failing
from flows.tracking.runs import CONFIG_FILE, complete_runs, find_run, open_run, read_config, read_runs
from flows.tracking.store import _alone
from tests.support.flows.faults import Breaking


@pytest.fixture
def dead_server(monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        return MlflowClient(f"http://127.0.0.1:{closed.getsockname()[1]}")


def population(client: MlflowClient, config: DQNConfig, flow_run_id: str) -> FencedClient:
    """The client of an attempt at a flow run that has begun."""
    attempt = begin(client, open_run(client, config, preset="cartpole", flow_run_id=flow_run_id, tags={}))
    fenced = FencedClient(client=client, attempt=attempt)
    complete_runs(fenced, config, flow_run_id=flow_run_id)
    return fenced


def interrupted(fenced: FencedClient, checkpoint: Path, error: BaseException) -> list[str]:
    """Notes of an error that ends the runs."""
    with pytest.raises(type(error)) as caught, failing(fenced, checkpoint):
        raise error
    assert caught.value is error
    return getattr(error, "__notes__", [])


@pytest.mark.parametrize(("error", "status"), [(ValueError("broken"), "FAILED"), (KeyboardInterrupt(), "KILLED")])
def test_runs_end_as_their_block_and_say_how_to_go_on(
    store: MlflowClient, small_config: Callable[..., DQNConfig], tmp_path: Path, error: BaseException, status: str
) -> None:
    fenced = population(store, small_config(num_agents=2), f"ending-{status}")
    running, finished = read_runs(fenced).children
    end_runs(fenced, (finished,), "FINISHED")
    checkpoint = tmp_path / "run.ckpt"
    checkpoint.touch()
    notes = interrupted(fenced, checkpoint, error)
    assert notes == [f"resume with: python -m flows train --resume {fenced.run_id} --checkpoint-dir {tmp_path}"]
    statuses = [store.get_run(run_id).info.status for run_id in (fenced.run_id, running, finished)]
    assert statuses == [status, status, "FINISHED"]


def test_a_run_with_general_values_says_so_by_tag_and_by_name(store: MlflowClient) -> None:
    config = dataclasses.replace(general("FrozenLake-v1"), num_agents=1)
    run = store.get_run(open_run(store, config, preset="general", flow_run_id="general values", tags={}))
    assert run.data.tags["preset"] == "general"
    assert run.info.run_name == "FrozenLake-v1 general, num_agents=1, seed 0"


def test_without_a_checkpoint_there_is_nothing_to_resume(
    store: MlflowClient, small_config: Callable[..., DQNConfig], tmp_path: Path
) -> None:
    fenced = population(store, small_config(), "ending-early")
    assert interrupted(fenced, tmp_path / "run.ckpt", ValueError()) == []


def test_an_error_outlives_a_server_that_cannot_be_told_of_it(dead_server: MlflowClient, tmp_path: Path) -> None:
    checkpoint = tmp_path / "run.ckpt"
    checkpoint.touch()
    fenced = FencedClient(client=dead_server, attempt=Attempt(run_id="parent", token="0"))
    marking, resuming = interrupted(fenced, checkpoint, ValueError("broken"))
    assert marking.startswith("the run could not be marked FAILED: API request to http://127.0.0.1:")
    assert marking.endswith("failed")
    assert resuming == f'resume with: make train ARGS="--resume parent --checkpoint-dir {tmp_path}"'


def test_a_stale_attempt_ends_nothing_and_says_so(
    store: MlflowClient,
    small_config: Callable[..., DQNConfig],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    stale = population(store, small_config(), "taken-over")
    assert stale.attempt
    newest = begin(store, stale.run_id)
    replaced = f"attempt {stale.attempt.token} .* was replaced by attempt {newest.token}"
    for use in (stale.check, stale.checked, lambda: next(stale.in_batch([0]))):
        with pytest.raises(StaleAttemptError, match=replaced):
            use()
    by_hand = FencedClient(client=store, attempt=None)
    assert FencedClient(client=store, attempt=newest).checked() is by_hand.checked() is store
    with pytest.raises(ValueError, match="has no attempt"):
        _ = by_hand.run_id
    error = ValueError("whatever befalls a stale attempt")
    (note,) = interrupted(stale, tmp_path / "run.ckpt", error)
    assert note.startswith("the run could not be marked FAILED: attempt")
    assert interrupted(stale, tmp_path / "run.ckpt", StaleAttemptError("replaced")) == []
    assert "stopped: replaced" in capsys.readouterr().out
    assert store.get_run(stale.run_id).info.status == "RUNNING"


def test_an_attempt_goes_on_with_what_an_earlier_one_left(
    store: MlflowClient, small_config: Callable[..., DQNConfig]
) -> None:
    config = small_config(num_agents=2)
    first = population(store, config, "goes-on")
    children = read_runs(first).children
    end_runs(first, (first.run_id, children[0]), "KILLED")
    store.delete_run(children[1])
    second = population(store, small_config(num_agents=2, gamma=0.5), "goes-on")
    assert (second.run_id, second.attempt == first.attempt) == (first.run_id, False)
    assert read_config(store, second.run_id) == config
    assert read_runs(second).children == children
    assert [store.get_run(run_id).info.status for run_id in (first.run_id, children[0])] == ["RUNNING", "RUNNING"]
    assert store.get_run(children[1]).info.lifecycle_stage == "deleted"
    end_runs(second, children, "FINISHED")
    assert store.get_run(children[0]).info.status == "FINISHED"


def test_whatever_fails_at_the_start_the_next_attempt_completes(
    store: MlflowClient, small_config: Callable[..., DQNConfig]
) -> None:
    config = small_config(num_agents=2)
    nth = 0
    while True:
        nth += 1
        client: Any = Breaking(store, nth)
        try:
            population(client, config, f"broken-{nth}")
        except MlflowException:
            fenced = population(store, config, f"broken-{nth}")
            assert read_config(store, fenced.run_id) == config
            run = store.get_run(fenced.run_id)
            assert (run.info.status, run.data.params["gamma"]) == ("RUNNING", str(config.gamma))
            assert len(set(read_runs(fenced).children)) == 2
        if client.left > 0:
            break
    assert nth > 6


def test_an_error_of_the_store_is_not_taken_for_a_missing_run(dead_server: MlflowClient, store: MlflowClient) -> None:
    with pytest.raises(InputError, match="there is no run"):
        find_run(store, "0" * 32)
    with pytest.raises(MlflowException, match="API request to"):
        find_run(dead_server, "0" * 32)


def config_file(client: MlflowClient, run_id: str) -> Path:
    return Path(str(client.get_run(run_id).info.artifact_uri).removeprefix("file://")) / CONFIG_FILE


@pytest.mark.parametrize("torn", [b"", b'{"env_id": "Cart', b"null", b"[]", b"\xff\xfe"])
def test_a_torn_configuration_is_none(torn: bytes, store: MlflowClient, small_config: Callable[..., DQNConfig]) -> None:
    config = small_config(num_agents=2)
    fenced = population(store, config, f"torn {torn.hex()}")
    file = config_file(store, fenced.run_id)
    file.write_bytes(torn)
    with pytest.raises(InputError, match=f"configuration of run {fenced.run_id}, .* is damaged"):
        read_config(store, fenced.run_id)
    complete_runs(fenced, config, flow_run_id=None)
    assert read_config(store, fenced.run_id) == config


def test_a_configuration_of_another_version_is_not_taken_for_a_torn_one(
    store: MlflowClient, small_config: Callable[..., DQNConfig]
) -> None:
    fenced = population(store, small_config(), "newer")
    file = config_file(store, fenced.run_id)
    content = file.read_text().replace("{", '{"of_the_future": 1, ', 1)
    file.write_text(content)
    with pytest.raises(ConfigError, match="unknown field of_the_future"):
        complete_runs(fenced, small_config(), flow_run_id=None)
    assert file.read_text() == content


@pytest.mark.parametrize("nth", range(1, 7))
def test_a_run_that_fails_at_its_start_ends_whatever_was_left_of_it(
    nth: int, store: MlflowClient, small_config: Callable[..., DQNConfig], tmp_path: Path
) -> None:
    config = small_config(num_agents=3)
    run_id = open_run(store, config, preset="cartpole", flow_run_id=f"start {nth}", tags={})
    broken: Any = Breaking(store, nth + 1)
    attempt = begin(broken, run_id)
    with pytest.raises(MlflowException), failing(FencedClient(client=store, attempt=attempt), tmp_path / "run.ckpt"):
        complete_runs(FencedClient(client=broken, attempt=attempt), config, flow_run_id=None)
    experiment = store.get_run(run_id).info.experiment_id
    children = store.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{run_id}'")
    assert {run.info.status for run in (store.get_run(run_id), *children)} == {"FAILED"}
    assert len(children) < 3 or nth > 5


def test_a_store_that_another_process_holds_is_named_after_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setattr(store, "_ALONE_SECONDS", 0.2)
    with (
        _alone(uri),
        pytest.raises(OSError, match="another process has held it"),
        _alone(uri),
    ):
        pass
    with _alone(uri):  # it is free again
        pass
