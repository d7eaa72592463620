from collections.abc import Callable
from pathlib import Path
from shlex import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mlflow import MlflowClient
from sqlalchemy import make_url

from dqn.config import DQNConfig
from flows.cli import train
from flows.cli.terminal import fail
from flows.failures.errors import InputError
from flows.search.settings import SweepConfig
from flows.search.spaces import read_space
from flows.search.study import begin_study, read_study
from flows.tracking.attempt import FencedClient, begin
from flows.tracking.pages import run_page
from flows.tracking.runs import complete_runs, find_run, open_run, read_config
from flows.tracking.store import connect
from flows.uris import artifact_location, local_path, redacted, sqlite_uri, without_login
from serving.models.glance import store_file

WRITE_AHEAD = ("optuna.db-wal", "optuna.db-shm")
NAME = "a b#c%20d%e?f'ä+{g}&@:;"
NAMES = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=20).filter(
    lambda name: name not in (".", "..") and len(name.encode()) < 200
)


@pytest.fixture
def awkward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory to work in with MLflow's default store; its name needs encoding."""
    directory = tmp_path / NAME
    directory.mkdir()
    monkeypatch.chdir(directory)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    monkeypatch.setenv("OPTUNA_STORAGE", "")
    return directory


def begun(client: MlflowClient, config: DQNConfig) -> str:
    run_id = open_run(client, config, preset="cartpole", flow_run_id=None, tags={})
    complete_runs(FencedClient(client=client, attempt=begin(client, run_id)), config, flow_run_id=None)
    return run_id


@given(name=NAMES)
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_a_directory_is_called_its_files_are_found(
    name: str, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path_factory.getbasetemp() / name
    directory.mkdir(exist_ok=True)
    with monkeypatch.context() as patch:
        patch.chdir(directory)
        uri = sqlite_uri("mlflow.db")
        assert store_file(uri) == directory / "mlflow.db"
        assert Path(str(make_url(uri).database)).absolute() == directory / "mlflow.db"
        location = artifact_location("dqn-ALE/Pong-v5")
        assert location is None or local_path(location) == directory / "mlruns" / "dqn-ALE/Pong-v5"


@pytest.mark.slow
def test_runs_and_studies_are_kept_in_a_directory_whatever_it_is_called(
    awkward: Path, small_config: Callable[..., DQNConfig]
) -> None:
    config = small_config(num_agents=1)
    client = connect()
    run_id = begun(client, config)
    assert read_config(client, run_id) == config
    assert find_run(connect(), run_id).info.run_id == run_id
    kept = local_path(client.get_run(run_id).info.artifact_uri)
    assert kept is not None
    assert (kept / "population/config.json").is_file()
    assert kept.is_relative_to(awkward / "mlruns")
    sweep = SweepConfig(
        preset="cartpole",
        space=read_space("small"),
        method="random",
        trials=4,
        shard_trials=4,
        rungs=(20,),
        finalists=0,
    )
    begin_study("awkward", sweep)
    assert read_study("awkward")[1] == sweep
    assert [path.name for path in awkward.parent.iterdir()] == [NAME]
    assert {path.name for path in awkward.iterdir()} <= {"mlruns", "mlflow.db", "optuna.db", *WRITE_AHEAD}


@pytest.mark.slow
def test_a_store_with_a_query_is_used_and_leaves_no_stray_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_config: Callable[..., DQNConfig]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/kept.db?timeout=60")
    begun(connect(), small_config(num_agents=1))
    assert {path.name for path in tmp_path.iterdir()} == {"kept.db", "mlruns"}


@pytest.mark.slow
def test_a_directory_that_was_moved_is_named_and_not_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_config: Callable[..., DQNConfig]
) -> None:
    before, after = tmp_path / "before", tmp_path / "after it"
    before.mkdir()
    monkeypatch.chdir(before)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{before}/mlflow.db")
    config = small_config(num_agents=1)
    run_id = begun(connect(), config)
    before.rename(after)
    monkeypatch.chdir(after)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{after}/mlflow.db")
    client = connect()
    for use in (lambda: begun(client, config), lambda: find_run(client, run_id)):
        with pytest.raises(InputError, match="was moved") as caught:
            use()
        assert f"ln -s {quote(str(after))} {before}" in str(caught.value)
        assert not before.exists()
    before.symlink_to(after)
    assert read_config(client, begun(client, config)) == config


PASSWORDS = st.text(st.characters(codec="utf-8"), min_size=4, max_size=20).filter(lambda word: word.strip() == word)
SCHEMES = st.sampled_from(["http", "https", "postgresql", "postgresql+psycopg2", "mysql+pymysql", "mssql+pyodbc"])


@given(password=PASSWORDS, scheme=SCHEMES, rest=st.sampled_from(["h", "h:5000/api", "h/db?x=1", "h/a@b"]))
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_password_is_never_printed(
    password: str, scheme: str, rest: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    password = f"<{password}>"
    uri = f"{scheme}://user:{password}@{rest}"
    if "\0" in uri:
        return
    with monkeypatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        capsys.readouterr()
        fail(ValueError(f"{uri} does not answer, nor does {uri}"), 1)
        page = run_page("1", "r") or ""
        first = train.announcement(train.Arguments(config=DQNConfig()))
    printed = capsys.readouterr().err + page + first
    assert password not in printed
    assert "***@" in printed


@pytest.mark.parametrize(
    ("uri", "printed"),
    [
        ("sqlite:////a:b@c/mlflow.db", "sqlite:////a:b@c/mlflow.db"),
        ("http://h:5000/path", "http://h:5000/path"),
        ("https://ghp_abc@h/", "https://***@h/"),
        ("postgresql://user@h/db", "postgresql://user@h/db"),
        (
            "postgresql://h/db?user=u&password=pw&sslmode=require",
            "postgresql://h/db?user=u&password=***&sslmode=require",
        ),
        ("https://h/?access_token=abc", "https://h/?access_token=***"),
    ],
)
def test_what_is_no_secret_stays_readable(uri: str, printed: str) -> None:
    assert redacted(uri) == printed


def test_a_link_has_no_login() -> None:
    assert without_login("https://user:p/w@h:5000/x") == "https://h:5000/x"
    assert without_login("https://h:5000/x") == "https://h:5000/x"
