"""MLflow's own SQLite stores: where they are, and reading versions from them."""

import fcntl
import os
import shutil
from pathlib import Path

import pytest

from serving.errors import RegistryUnavailableError, UnknownModelError
from serving.models.glance import glance, store_file
from serving.models.mlflow import RegistrySource
from serving.models.source import Version
from tests.serving.conftest import MODEL, LocalRegistry

# MLflow 3.17 uses what SQLAlchemy 2.1 deprecated
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")

ODD = "a b#c%41d'ä+"


@pytest.mark.parametrize("query", ["", "?timeout=60"])
def test_a_store_is_found_in_a_directory_of_any_name(
    query: str, registry_store: LocalRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / ODD
    folder.mkdir()
    shutil.copy(registry_store.uri.removeprefix("sqlite:///"), folder / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db{query}")
    known = glance(MODEL)
    assert known
    assert known.holds("champion")
    source = RegistrySource(MODEL)
    snapshot = source.snapshot(None)
    assert source.fetch(snapshot.versions[snapshot.aliases["champion"]])
    assert [path.name for path in tmp_path.iterdir()] == [ODD], "nothing was created beside it"


@pytest.mark.parametrize("name", [ODD, "what?"])
def test_the_default_store_is_the_one_in_this_directory(
    name: str, registry_store: LocalRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / name
    folder.mkdir()
    shutil.copy(registry_store.uri.removeprefix("sqlite:///"), folder / "mlflow.db")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    assert glance(MODEL)
    assert "champion" in RegistrySource(MODEL).snapshot(None).aliases


@pytest.mark.parametrize(
    ("uri", "file"),
    [
        ("sqlite:///m.db", "m.db"),
        ("sqlite:////a/m.db?timeout=60&x=y", "/a/m.db"),
        ("sqlite+pysqlite:////a/m.db?timeout=60&cached_statements=9", "/a/m.db"),
        ("sqlite:////a%20b/#/m.db", "/a%20b/#/m.db"),
        ("sqlite:///file:/a%20b/m.db?uri=true", "/a b/m.db"),
        ("sqlite://", None),
        ("sqlite:///:memory:", None),
        ("http://a/sqlite:///m.db", None),
        ("postgresql://u@h/sqlite", None),
    ],
)
def test_the_file_of_a_store_uri(uri: str, file: str | None) -> None:
    assert store_file(uri) == (file and Path(file).absolute())


def test_versions_come_from_mlflow(registry: LocalRegistry) -> None:
    source = RegistrySource(MODEL)
    snapshot = source.snapshot(None)
    assert {"champion": "1", "challenger": "2"}.items() <= dict(snapshot.aliases).items()
    assert {"1", "2"} <= set(snapshot.versions)
    assert snapshot.versions["1"].tags == {"gate": "passed"}
    assert snapshot.versions["1"].experiment_id
    assert source.fetch(snapshot.versions["1"])[:1] == b"\x08"
    with pytest.raises(UnknownModelError, match=f"^the registry has no model unknown but {MODEL}$"):
        RegistrySource("unknown").snapshot(None)


def test_a_registry_that_cannot_be_opened_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mlflow.db").write_text("garbage")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    source = RegistrySource(MODEL)

    def locked() -> None:
        raise RuntimeError("database is locked")

    with monkeypatch.context() as patch:
        patch.setattr("mlflow.MlflowClient", locked)
        with pytest.raises(RegistryUnavailableError, match="database is locked"):
            source.snapshot(None)
    with pytest.raises(RegistryUnavailableError, match="database"):
        source.snapshot(None)


def test_no_store_is_created_where_none_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'none.db'}")
    with pytest.raises(UnknownModelError, match="no registry at sqlite"):
        RegistrySource(MODEL).snapshot(None)
    with pytest.raises(RegistryUnavailableError, match="downloading version 1: there is no registry at sqlite"):
        RegistrySource(MODEL).fetch(Version(number="1", source="s1", run_id="run 1"))
    assert not (tmp_path / "none.db").exists()


def test_a_store_is_not_opened_while_a_training_makes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mlflow.db").touch()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.setattr("mlflow.MlflowClient", lambda: pytest.fail("opened"))
    directory = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        with pytest.raises(UnknownModelError, match=r"mlflow.db is being made"):
            RegistrySource(MODEL).snapshot(None)
    finally:
        os.close(directory)
