"""Model URIs, versions, and a file as the source of a model."""

from pathlib import Path

import pytest

from flows.names import environment_of, model_name
from serving.errors import RegistryUnavailableError
from serving.models.advice import how_to_train
from serving.models.source import FileSource, ModelURI, Version
from tests.support.serving.policies import linear_model


@pytest.mark.parametrize(
    ("uri", "alias", "version"), [("models:/a-b.c@champion", "champion", None), ("models:/a-b.c/12", None, "12")]
)
def test_a_model_uri_names_an_alias_or_a_version(uri: str, alias: str | None, version: str | None) -> None:
    assert ModelURI.parse(uri) == ModelURI(name="a-b.c", alias=alias, version=version)


@pytest.mark.parametrize(
    "env_id", ["CartPole-v1", "boing_gym:Boing-v0", "a/b:c-v0", "ALE/Pong-v5", "Übung-v0", "a.b-c"]
)
def test_every_name_that_training_registers_has_a_uri_and_a_training_command(env_id: str) -> None:
    name = model_name(env_id)
    assert ModelURI.parse(f"models:/{name}@champion") == ModelURI(name=name, alias="champion")
    assert ModelURI.parse(f"models:/{name}/3") == ModelURI(name=name, version="3")
    options = "" if env_id == "CartPole-v1" else f' ARGS="--env-id {environment_of(name)}"'
    assert how_to_train(name) == f"run `make train{options}` to train and promote one"


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "models:/x",
        "models:/../x@y",
        "models:/..@y",
        "runs:/1/x",
        "models:/x/latest",
        "models:/x/٣",
        "models:/x y@z",
    ],
)
def test_any_other_uri_is_refused(uri: str) -> None:
    with pytest.raises(ValueError, match="expected models:/NAME@ALIAS"):
        ModelURI.parse(uri)


def test_a_version_is_identified_by_number_source_time_and_digest() -> None:
    versions = [
        Version(number="1", source="s"),
        Version(number="2", source="s"),
        Version(number="1", source="t"),
        Version(number="1", source="s", created_ms=1),
        Version(number="1", source="s", tags={"sha256": "d"}),
    ]
    assert len({version.identity for version in versions}) == 5
    assert [version.sha256 for version in versions] == ["", "", "", "", "d"]
    assert Version(number="1", source="s", run_id="r", tags={"gate": "passed"}).identity == versions[0].identity


def test_a_file_is_version_one(tmp_path: Path) -> None:
    path = tmp_path / "policy.onnx"
    path.write_bytes(linear_model())
    source = FileSource(path)
    snapshot = source.snapshot(None)
    version = snapshot.versions["1"]
    assert (source.name, dict(snapshot.aliases), list(snapshot.versions)) == ("policy", {}, ["1"])
    assert source.snapshot(snapshot) is snapshot
    assert (source.fetch(version), source.learning(version)) == (linear_model(), {})
    path.unlink()
    with pytest.raises(RegistryUnavailableError, match=r"policy\.onnx cannot be read: No such file or directory$"):
        source.fetch(version)
    with pytest.raises(ValueError, match="there is no file"):
        FileSource(tmp_path / "missing.onnx")
