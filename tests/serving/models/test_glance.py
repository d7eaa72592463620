"""Looking up a version in MLflow's SQLite tables before MLflow is imported."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from serving.__main__ import main
from serving.errors import UnknownModelError
from serving.models.cache import Cache
from serving.models.glance import Registered, glance
from serving.models.source import Version


@pytest.fixture
def tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A registry as MLflow's tables have it: version 3 of one model, and an alias; version 2 was deleted."""
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as store, store:
        store.execute("CREATE TABLE registered_models (name)")
        store.execute("CREATE TABLE model_versions (name, version, current_stage)")
        store.execute("CREATE TABLE registered_model_aliases (name, alias, version)")
        store.execute("INSERT INTO registered_models VALUES ('dqn-Acrobot-v1')")
        store.execute(
            "INSERT INTO model_versions VALUES ('dqn-Acrobot-v1', 3, 'None'), ('dqn-Acrobot-v1', 2, 'Deleted_Internal')"
        )
        store.execute("INSERT INTO registered_model_aliases VALUES ('dqn-Acrobot-v1', 'challenger', 3)")
    monkeypatch.chdir(tmp_path)
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        ("dqn-Acrobot-v1/2", "model dqn-Acrobot-v1 has no version 2 but 3, @challenger; name another one with --model"),
        ("dqn-Acrobot-v1@champion", "model dqn-Acrobot-v1 has no alias 'champion' but 3, @challenger; name another"),
        (
            "dqn-Acrobot-v1@champion",
            "@challenger; name another one with --model, or run `python -m flows train --preset acro",
        ),
        ("dqn-x~2Y-v0/3", "the registry has no model dqn-x~2Y-v0 but dqn-Acrobot-v1: run `python -m flows train"),
        ("dqn-x~2Y-v0/3", "run `python -m flows train --env-id x:Y-v0` to train and promote one"),
        (
            "n/3",
            "the registry has no model n but dqn-Acrobot-v1: training registers models as dqn-ENVIRONMENT, so name",
        ),
    ],
)
def test_a_version_that_is_not_there_is_refused_without_mlflow(
    tables: Path, model: str, sentence: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("serving.__main__.resolve", lambda *_: pytest.fail("MLflow was asked"))
    assert main(["record", "--model", f"models:/{model}"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert sentence in said
    assert said.count("\n") == 1


def test_mlflow_is_asked_for_a_version_that_is_in_the_tables_or_cannot_be_looked_up(
    tables: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def asked(*_: object) -> None:
        raise UnknownModelError("MLflow was asked")

    monkeypatch.setattr("serving.__main__.resolve", asked)
    for model in ("dqn-Acrobot-v1/3", "dqn-Acrobot-v1@challenger"):
        assert main(["record", "--model", f"models:/{model}"]) == 1
        assert capsys.readouterr().err == "error: MLflow was asked\n"
    cache = Cache(tables / "models", "dqn-Acrobot-v1")
    cache.remember_played("2", Version(number="2", source=""))  # while the registry had it
    main(["record", "--model", "models:/dqn-Acrobot-v1/2"])
    assert capsys.readouterr().err == "error: MLflow was asked\n"
    assert glance("dqn-Acrobot-v1") == Registered(models=("dqn-Acrobot-v1",), versions=("3",), aliases=("challenger",))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tables / 'mlflow.db'}")
    assert glance("dqn-Acrobot-v1") is not None
    for uri in ("http://127.0.0.1:9", f"sqlite:///{tables / 'none.db'}"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        assert glance("dqn-Acrobot-v1") is None
    assert not (tables / "none.db").exists()
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    with closing(sqlite3.connect("mlflow.db")) as store:
        store.execute("ALTER TABLE model_versions DROP COLUMN current_stage")
    assert glance("dqn-Acrobot-v1") is None
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", "http://127.0.0.1:9")
    assert glance("dqn-Acrobot-v1") is None
