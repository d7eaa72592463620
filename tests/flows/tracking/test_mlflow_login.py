"""MLflow's server as `make stack` starts it: it asks for a password, and an error names a wrong one."""

import hashlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import requests
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow_users import USERS, upsert_user
from processes import MLFLOW_LOGIN, mlflow_command, mlflow_environment, process, wait_for

from flows.failures.errors import InputError
from flows.failures.outages import is_transient
from flows.promotion import promote_version, retire, roll_back
from flows.registry import versions
from flows.tracking import store
from flows.tracking.store import connect
from serving.errors import RegistryUnavailableError
from serving.models.mlflow import RegistrySource
from tests.support.flows.promoting import quick
from tests.support.flows.registering import BALANCING, DRIFTING, FALLING, controller, registered

__all__ = ["quick"]  # the fixture

pytestmark = pytest.mark.slow

READER, WORKER = "reader", "worker"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """Its address and its password."""
    state = tmp_path_factory.mktemp("50%")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("processes.STATE", state)
        with process("mlflow", mlflow_command(state, port), {**os.environ, **mlflow_environment(state)}) as running:
            wait_for(f"http://127.0.0.1:{port}/health", running)
            yield f"http://127.0.0.1:{port}", (state / MLFLOW_LOGIN).read_text()


@pytest.fixture
def wrong_password(server: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of a server that knows another password than this process shows."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server[0])
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "guess")
    monkeypatch.setattr(store, "_answered", {})  # to another login, in another test
    return server[0]


@pytest.mark.parametrize("path", ["/", "/version", "/api/2.0/mlflow/registered-models/search"])
def test_strangers_read_nothing(server: tuple[str, str], path: str) -> None:
    url, password = server
    assert httpx.get(url + path).status_code == 401
    assert httpx.get(url + path, auth=("admin", "guess")).status_code == 401
    assert httpx.get(url + path, auth=("admin", password)).status_code == 200


def test_strangers_write_nothing_and_clients_do(
    server: tuple[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    url, password = server
    assert httpx.post(f"{url}/api/2.0/mlflow/experiments/create", json={"name": "x"}).status_code == 401
    artifact = f"{url}/api/2.0/mlflow-artifacts/artifacts/x"
    assert httpx.put(artifact, content=b"x").status_code == 401
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)
    client = MlflowClient(url)
    run = client.create_run("0").info.run_id
    client.log_text(run, "kept", "note.txt")
    assert Path(client.download_artifacts(run, "note.txt", str(tmp_path))).read_text() == "kept"


def test_serving_logs_in_as_a_user_that_reads_everything_and_changes_nothing(
    server: tuple[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    url, password = server
    log_in(monkeypatch, "admin", password)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
    client = MlflowClient(url)
    run = client.create_run("0")
    client.log_text(run.info.run_id, "weights", "policy/model.onnx")
    client.create_registered_model("read")
    version = client.create_model_version("read", f"{run.info.artifact_uri}/policy", run.info.run_id).version
    client.set_registered_model_alias("read", "champion", version)
    for current in ("a password of twelve", "another password, later"):  # deploying again gives it the one of then
        log_in(monkeypatch, "admin", password)
        upsert_user(READER, current, USERS[READER])
        log_in(monkeypatch, READER, current)
        source = RegistrySource("read")
        snapshot = source.snapshot(None)
        assert snapshot.aliases == {"champion": str(version)}
        assert source.fetch(snapshot.versions[str(version)]) == b"weights"
    for change in (
        lambda: client.set_registered_model_alias("read", "champion", version),
        lambda: client.delete_registered_model_alias("read", "champion"),
        lambda: client.set_model_version_tag("read", version, "sha256", "0"),
        lambda: client.create_model_version("read", f"{run.info.artifact_uri}/policy", run.info.run_id),
        lambda: client.delete_model_version("read", version),
        lambda: client.log_metric(run.info.run_id, "test/mean_return", 500.0),
        lambda: client.log_text(run.info.run_id, "other weights", "policy/model.onnx"),
        lambda: client.list_webhooks(),
    ):
        with pytest.raises((MlflowException, requests.HTTPError), match=r"403|PERMISSION_DENIED|Permission denied"):
            change()
    raised = httpx.patch(
        f"{url}/api/2.0/mlflow/users/update-admin",
        auth=(READER, "another password, later"),
        json={"username": READER, "is_admin": True},
    )
    assert raised.status_code == 403
    assert httpx.get(f"{url}/version", auth=(READER, "a password of twelve")).status_code == 401


@pytest.mark.usefixtures("quick")
def test_the_worker_trains_and_promotes_and_is_no_admin(
    server: tuple[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Also in experiments and models that another user has made, which an upgraded stack has."""
    url, password = server
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
    log_in(monkeypatch, "admin", password)
    name = "dqn-CartPole-v1"
    theirs = registered(MlflowClient(url), name, DRIFTING)
    for _ in range(2):  # deploying again changes nothing
        log_in(monkeypatch, "admin", password)
        upsert_user(WORKER, "a worker's password", USERS[WORKER])
    log_in(monkeypatch, WORKER, "a worker's password")
    client = MlflowClient(url)
    mine = registered(client, name, BALANCING)
    assert promote_version(theirs, "CartPole-v1", force=True).startswith("forced")
    assert promote_version(mine, "CartPole-v1", force=False).startswith("passed: better")
    assert roll_back(name)[0] == theirs
    retire(name, mine)
    registered(client, "dqn-another", BALANCING)  # in an experiment of its own
    run = client.get_run(str(versions.get_version(client, name, theirs).run_id)).info
    content = controller(FALLING, run.run_id)
    tags = {versions.DIGEST_TAG: hashlib.sha256(content).hexdigest()}
    unfinished = client.create_logged_model(run.experiment_id, "policy", run.run_id, tags=tags).model_id
    assert versions.log_model(run.run_id, content) != unfinished, "it deletes what an interrupted attempt has left"
    with pytest.raises(MlflowException, match=r"403|PERMISSION_DENIED|Permission denied"):
        client.list_webhooks()
    for method, path, body in (
        ("POST", "2.0/mlflow/users/create", {"username": "friend", "password": "a friend's password"}),
        ("PATCH", "2.0/mlflow/users/update-admin", {"username": WORKER, "is_admin": True}),
        ("PATCH", "2.0/mlflow/users/update-password", {"username": "admin", "password": "another password"}),
        ("DELETE", "2.0/mlflow/users/delete", {"username": "admin"}),
    ):
        answer = httpx.request(method, f"{url}/api/{path}", auth=(WORKER, "a worker's password"), json=body)
        assert answer.status_code == 403, path


def log_in(monkeypatch: pytest.MonkeyPatch, user: str, password: str) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", user)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)


def test_training_names_a_login_that_is_refused_and_does_not_try_again(wrong_password: str) -> None:
    with pytest.raises(InputError, match=f"server {wrong_password} refuses this login: set MLFLOW_TRACKING") as refused:
        connect()
    assert not is_transient(refused.value)


def test_serving_names_a_login_that_is_refused(wrong_password: str) -> None:
    with pytest.raises(RegistryUnavailableError, match="it refuses this login: set MLFLOW_TRACKING_USERNAME"):
        RegistrySource("any").snapshot(None)
