from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR, RESOURCE_DOES_NOT_EXIST

from flows.failures.errors import InputError, RegistryError
from flows.names import no_version
from flows.registry import versions
from tests.support.flows.registering import BALANCING, damage, registered


def test_a_logged_model_is_registered_once(store: MlflowClient) -> None:
    name = "dqn-once"
    version = versions.get_version(store, name, registered(store, name, BALANCING))
    again = versions.register(
        store, name, model_id=versions.model_id_of(version), run_id=str(version.run_id), tags={"git_commit": "unknown"}
    )
    assert str(again) == str(version.version)
    with pytest.raises(RegistryError, match=f"{name} has no version 99"):
        versions.get_version(store, name, 99)


@pytest.mark.parametrize("reference", ["99", str(2**31), str(10**30), "missing", "1 2"])
def test_a_version_that_does_not_exist_is_refused_without_asking_for_impossible_numbers(
    reference: str, store: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "dqn-absent"
    asked: list[int] = []
    get = store.get_model_version

    def spied(model: str, number: str) -> Any:
        asked.append(int(number))
        return get(model, number)

    monkeypatch.setattr(store, "get_model_version", spied)
    with pytest.raises(InputError, match=f"{name} has no version '{reference}'; none is registered: train first"):
        versions.require(store, name, reference)
    assert all(number < 2**31 for number in asked), "MLflow's server on Postgres answers these with 500"


def test_a_refusal_names_some_of_many_versions() -> None:
    known = [str(number) for number in range(1, 301)]
    said = no_version("CartPole-v1", "301", known)
    assert "registered are: 290 older ones, 291, 292, 293, 294, 295, 296, 297, 298, 299, 300; an alias" in said
    assert "registered are: 1, 2, 3, 4, 5, 6, 7, 8, 9, 10; an alias" in no_version("CartPole-v1", "11", known[:10])


def test_a_file_that_is_gone_or_damaged_is_named(store: MlflowClient) -> None:
    name = "dqn-damaged"
    gone, torn = (registered(store, name, BALANCING) for _ in range(2))
    damage(store, name, gone, None)
    damage(store, name, torn, b"garbage")
    for version, complaint in ((gone, "has no model.onnx"), (torn, "is damaged: not a loadable")):
        with pytest.raises(RegistryError, match=complaint) as refused:
            versions.download(name, version)
        assert f"version {version} of {name}" in str(refused.value)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MlflowException("No such artifact", RESOURCE_DOES_NOT_EXIST), RegistryError),
        (FileNotFoundError("model.onnx"), RegistryError),
        (MlflowException("the store is away", INTERNAL_ERROR), MlflowException),
        (ConnectionResetError("by peer"), ConnectionResetError),
    ],
)
def test_a_store_that_is_away_is_not_taken_for_a_broken_version(
    error: Exception, expected: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> str:
        raise error

    monkeypatch.setattr(mlflow.artifacts, "download_artifacts", fail)
    with pytest.raises(expected):
        versions.download("dqn-away", 1)


class Away:
    """A registry that fails once and then answers that it has no versions."""

    def get_model_version(self, name: str, version: str) -> None:
        raise MlflowException("the store is away", INTERNAL_ERROR)

    def search_model_versions(self, query: str) -> list[Any]:
        return []


def test_a_registry_that_is_away_is_not_taken_for_one_without_the_version() -> None:
    away: Any = Away()
    with pytest.raises(MlflowException, match="the store is away"):
        versions.get_version(away, "dqn-away", 1)
