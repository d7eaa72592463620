"""What flows ask of MLflow's client, kept in memory: a tracking store and a registry that answer in microseconds."""

import itertools
import re
import time
from types import SimpleNamespace
from typing import Any

import mlflow
import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, RESOURCE_DOES_NOT_EXIST

ROOT = "memory:"
_EQUALS = re.compile(r"tags\.`(.+)` = '(.*)'")


class Store:
    """Runs with their files, and one registered model with versions and aliases; `written` names every write in order.

    `name` of the model is not asked: a test has one.
    """

    def __init__(self) -> None:
        self.runs: dict[str, Any] = {}
        self.files: dict[str, dict[str, Any]] = {}
        self.experiments: dict[str, str] = {}
        self.versions: dict[int, Any] = {}
        self.aliases: dict[str, int] = {}
        self.tags: dict[str, str] = {}
        self.written: list[tuple[Any, ...]] = []
        self._ids = (f"{number:032x}" for number in itertools.count(1))

    def get_experiment_by_name(self, name: str) -> Any:
        found = self.experiments.get(name)
        if not found:
            return None
        return SimpleNamespace(experiment_id=found, lifecycle_stage="active", artifact_location="memory:")

    def create_experiment(self, name: str, artifact_location: str | None = None) -> str:
        self.experiments[name] = str(len(self.experiments) + 1)
        return self.experiments[name]

    def create_run(self, experiment: str, tags: dict[str, str], run_name: str = "") -> Any:
        run_id = next(self._ids)
        info = SimpleNamespace(
            run_id=run_id,
            run_name=run_name,
            experiment_id=experiment,
            status="RUNNING",
            start_time=time.time() * 1000,
            lifecycle_stage="active",
            artifact_uri=f"{ROOT}/{run_id}",
        )
        data = SimpleNamespace(tags=dict(tags), params={}, metrics={})
        self.runs[run_id] = SimpleNamespace(info=info, data=data)
        self.files[run_id] = {}
        return self.runs[run_id]

    def get_run(self, run_id: str) -> Any:
        if run_id not in self.runs:
            raise MlflowException(f"no run {run_id}", RESOURCE_DOES_NOT_EXIST)
        return self.runs[run_id]

    def search_runs(self, experiments: list[str], query: str, **options: Any) -> list[Any]:
        """The newest first, as MLflow."""
        if query.startswith("attributes.run_id IN"):
            return [run for run_id, run in self.runs.items() if f"'{run_id}'" in query]
        (key, value) = _EQUALS.fullmatch(query).groups()  # type: ignore[union-attr]
        found = [
            run
            for run in reversed(self.runs.values())
            if run.info.experiment_id in experiments and run.data.tags.get(key) == value
        ]
        return found[: options.get("max_results")]

    def set_tag(self, run_id: str, key: str, value: str) -> None:
        self._write("set_tag", run_id, key, value)
        self.get_run(run_id).data.tags[key] = value

    def log_batch(self, run_id: str, metrics: Any = (), params: Any = (), tags: Any = ()) -> None:
        self._write("log_batch", run_id)
        data = self.get_run(run_id).data
        data.metrics |= {metric.key: metric.value for metric in metrics}
        data.params |= {param.key: param.value for param in params}
        data.tags |= {tag.key: tag.value for tag in tags}

    def log_dict(self, run_id: str, content: Any, file: str) -> None:
        self._write("log_dict", run_id, file)
        self.files[run_id][file] = content

    def list_artifacts(self, run_id: str, path: str | None = None) -> list[Any]:
        return [SimpleNamespace(path=file) for file in self.files[run_id] if file.rpartition("/")[0] == (path or "")]

    def update_run(self, run_id: str, status: str) -> None:
        self._write("update_run", run_id, status)
        self.get_run(run_id).info.status = status

    def set_terminated(self, run_id: str, status: str) -> None:
        self._write("set_terminated", run_id, status)
        self.get_run(run_id).info.status = status

    def get_registered_model(self, name: str) -> Any:
        self.written.append(("get_registered_model", name))  # by which a promotion sees whether it is the latest
        return SimpleNamespace(tags=self.tags)

    def set_registered_model_tag(self, name: str, key: str, value: str) -> None:
        self._write("set_registered_model_tag", key)
        self.tags[key] = value

    def version(self, tags: dict[str, str], run_id: str = "") -> int:
        """Register another version."""
        number = len(self.versions) + 1
        self.versions[number] = SimpleNamespace(version=str(number), tags=tags, run_id=run_id, description="")
        return number

    def get_model_version(self, name: str, version: str) -> Any:
        if int(version) not in self.versions:
            raise MlflowException(f"no version {version}", RESOURCE_DOES_NOT_EXIST)
        return self.versions[int(version)]

    def search_model_versions(self, query: str) -> list[Any]:
        return list(reversed(self.versions.values()))

    def get_model_version_by_alias(self, name: str, alias: str) -> Any:
        if alias not in self.aliases:
            raise MlflowException(f"no alias {alias}", INVALID_PARAMETER_VALUE)
        return self.versions[self.aliases[alias]]

    def set_registered_model_alias(self, name: str, alias: str, version: str) -> None:
        self._write("set_registered_model_alias", alias, int(version))
        self.aliases[alias] = int(version)

    def delete_registered_model_alias(self, name: str, alias: str) -> None:
        self._write("delete_registered_model_alias", alias)
        del self.aliases[alias]

    def set_model_version_tag(self, name: str, version: str, key: str, value: str) -> None:
        self._write("set_model_version_tag", int(version), key, value)
        self.versions[int(version)].tags[key] = value

    def delete_model_version_tag(self, name: str, version: str, key: str) -> None:
        self._write("delete_model_version_tag", int(version), key)
        del self.versions[int(version)].tags[key]

    def _write(self, *what: Any) -> None:
        self.written.append(what)


def in_memory(monkeypatch: pytest.MonkeyPatch, *modules: str) -> Store:
    """A store that these modules connect to, and from which `mlflow.artifacts` reads files."""
    store = Store()
    for module in modules:
        monkeypatch.setattr(f"{module}.connect", lambda: store)

    def load_dict(uri: str) -> Any:
        _, run_id, file = uri.split("/", 2)
        return store.files[run_id][file]

    monkeypatch.setattr(mlflow.artifacts, "load_dict", load_dict)
    return store
