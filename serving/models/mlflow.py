"""Versions of a model from MLflow's model registry."""

import fcntl
import os
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from serving.disk import full, scratch
from serving.errors import PolicyError
from serving.model_file import read_model_file
from serving.models.advice import PREFIX, environment_of
from serving.models.glance import DEFAULT_URI, store_file

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion, RegisteredModel
from serving.errors import RegistryUnavailableError, UnknownModelError
from serving.models.source import DIGEST_TAG, RunningTraining, Snapshot, Version, no_model

_LEARNING: Final = "learning"
_LIVE: Final = "live"
_POPULATION: Final = "population.json"
_LIVE_BYTES: Final = 8 << 20
_TRAININGS: Final = 8
_PAGE: Final = 200
_FEW: Final = 2
_ALL: Final = 3  # mlflow.entities.ViewType.ALL; MLflow is not imported yet
_KEPT_TAGS: Final = (
    DIGEST_TAG,
    "git_commit",
    "prefect.flow_run_id",
    "eval.mean_return",
    "eval.min_return",
    "eval.episodes",
    "gate",
    "promoted",
    "retired",
)


class RegistrySource:
    """An MLflow registered model in the store that `MLFLOW_TRACKING_URI` names, or in MLflow's default store."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._client: MlflowClient | None = None
        self._connecting = threading.Lock()
        self._listed = 0.0

    def snapshot(self, last: Snapshot | None) -> Snapshot:
        """The present versions and aliases. Versions are listed again when an alias moved, and every 30 s.

        Raises:
            UnknownModelError: if the registry has no such model.
            RegistryUnavailableError: if it does not answer.
        """
        try:
            client = self._connect()
            model = self._model(client)
            aliases = {alias: str(version) for alias, version in model.aliases.items()}
            if last and aliases == last.aliases and time.monotonic() - self._listed < 30:
                return last
            found = self._all_versions(client)
            experiments = _experiments(client, [version.run_id for version in found if version.run_id], last)
        except UnknownModelError:
            raise
        except Exception as error:  # mlflow, requests, urllib3 and sqlalchemy have unrelated classes
            raise RegistryUnavailableError(_sentence(error)) from error
        self._listed = time.monotonic()
        versions = {
            str(version.version): Version(
                number=str(version.version),
                source=version.source or "",
                run_id=version.run_id or "",
                experiment_id=experiments.get(version.run_id or "", ""),
                created_ms=int(version.creation_timestamp or 0),
                tags={name: version.tags[name] for name in _KEPT_TAGS if name in version.tags},
            )
            for version in found
        }
        return Snapshot(aliases=aliases, versions=versions)

    def fetch(self, version: Version) -> bytes:
        """The version's ONNX file, downloaded.

        Raises:
            RegistryUnavailableError: if it cannot be downloaded now.
            PolicyError: if the artifact is not a single .onnx file.
        """
        try:
            self._connect()
            from mlflow.artifacts import download_artifacts

            with tempfile.TemporaryDirectory(prefix="model-") as scratch:
                download_artifacts(artifact_uri=f"models:/{self.name}/{version.number}", dst_path=f"{scratch}/artifact")
                found = {path.name: read_model_file(path) for path in Path(scratch).rglob("*.onnx")}
        except Exception as error:  # each artifact store has exceptions of its own
            raise RegistryUnavailableError(f"downloading version {version.number}: {_sentence(error)}") from error
        if len(found) != 1:
            raise PolicyError(f"version {version.number} should hold one .onnx file, it holds {sorted(found)}")
        return next(iter(found.values()))

    def learning(self, version: Version) -> dict[str, bytes]:
        """The files in `learning/` of its run, downloaded.

        Raises:
            RegistryUnavailableError: if they cannot be downloaded now.
        """
        if not version.run_id:
            return {}
        try:
            client = self._connect()
            if not client.list_artifacts(version.run_id, _LEARNING):
                return {}
            with tempfile.TemporaryDirectory(prefix="learning-") as scratch:
                folder = Path(client.download_artifacts(version.run_id, _LEARNING, scratch))
                return {path.name: path.read_bytes() for path in folder.iterdir()}
        except Exception as error:  # as in `fetch`
            raise RegistryUnavailableError(f"downloading how it learned: {_sentence(error)}") from error

    def trainings(self) -> Sequence[RunningTraining]:
        """Trainings of this model's environment that are said to run, the newest first.

        Raises:
            RegistryUnavailableError: if the tracking server does not answer.
        """
        try:
            client = self._connect()
            experiments = [each.experiment_id for each in client.search_experiments(max_results=_PAGE)]
            running = "attributes.status = 'RUNNING' AND tags.population LIKE '%agents'"
            if self.name.startswith(PREFIX):
                running += f" AND params.env_id = '{environment_of(self.name)}'"
            newest = ["attributes.start_time DESC"]
            found = client.search_runs(experiments, running, max_results=_TRAININGS, order_by=newest)
        except UnknownModelError:
            return ()  # there is no store yet
        except Exception as error:  # as in `snapshot`
            raise RegistryUnavailableError(_sentence(error)) from error
        return [
            RunningTraining(
                run_id=run.info.run_id,
                experiment_id=str(run.info.experiment_id),
                name=run.info.run_name or run.info.run_id,
                started=run.info.start_time / 1000,
                trained="trained" in run.data.tags,
                live=run.data.tags.get(_LIVE, ""),
            )
            for run in found
        ]

    def population(self, training: RunningTraining) -> bytes:
        """Its `live/population.json`, downloaded.

        Raises:
            RegistryUnavailableError: if it cannot be downloaded now.
            PolicyError: if it is too large.
        """
        try:
            client = self._connect()
            size = sum(file.file_size or 0 for file in client.list_artifacts(training.run_id, _LIVE))
            if size > _LIVE_BYTES:
                raise PolicyError(f"what run {training.run_id} shows of itself has {size:,} bytes")
            with tempfile.TemporaryDirectory(prefix="training-") as scratch:
                path = client.download_artifacts(training.run_id, f"{_LIVE}/{_POPULATION}", scratch)
                return Path(path).read_bytes()
        except PolicyError:
            raise
        except Exception as error:  # as in `fetch`
            raise RegistryUnavailableError(f"downloading what is trained: {_sentence(error)}") from error

    def _model(self, client: "MlflowClient") -> "RegisteredModel":
        try:
            return client.get_registered_model(self.name)
        except Exception as error:  # an MlflowException; MLflow is not imported at the top
            if getattr(error, "error_code", "") != "RESOURCE_DOES_NOT_EXIST":
                raise
            known = [model.name for model in client.search_registered_models(max_results=_PAGE)]
            raise UnknownModelError(no_model(self.name, known)) from error

    def _all_versions(self, client: "MlflowClient") -> "list[ModelVersion]":
        found: list[ModelVersion] = []
        token: str | None = None
        while True:
            page = client.search_model_versions(f"name='{self.name}'", max_results=_PAGE, page_token=token)
            found += page
            token = page.token
            if not token:
                return found

    def _connect(self) -> "MlflowClient":
        with self._connecting:  # a poll and a download may connect at once from two threads
            if self._client is None:
                import mlflow  # takes seconds; the last good copy plays meanwhile

                uri = mlflow.get_registry_uri()
                named = os.environ.get("MLFLOW_REGISTRY_URI") or os.environ.get("MLFLOW_TRACKING_URI")
                if not named and uri.startswith("sqlite:") and "%" in uri:
                    # MLflow percent-encodes the directory in its default, but SQLAlchemy takes it literally
                    os.environ["MLFLOW_TRACKING_URI"] = uri = DEFAULT_URI
                file = store_file(uri)
                if file and not file.is_file():
                    # MLflow would create and migrate the store, racing with the first training run
                    raise UnknownModelError(f"there is no registry at {uri} yet")
                with _made(file):
                    self._client = mlflow.MlflowClient()
            return self._client


@contextmanager
def _made(file: Path | None) -> Iterator[None]:
    """A block without another process that creates the tables of an embedded store: two that do at once both fail.

    Raises:
        UnknownModelError: if a training creates them now; it holds the lock of the store's directory.
    """
    if file is None:
        yield
        return
    directory = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise UnknownModelError(f"the registry at {file} is being made") from None
    finally:
        os.close(directory)


def _experiments(client: "MlflowClient", runs: Sequence[str], last: Snapshot | None) -> dict[str, str]:
    """Experiment ids by run id. Many new runs are searched by the page, a few are fetched one by one."""
    found = {version.run_id: version.experiment_id for version in last.versions.values()} if last else {}
    asked = [run for run in runs if run not in found]
    with suppress(Exception):  # any error of MLflow: the model then plays without a link to its run
        if len(asked) > _FEW:
            experiments = [each.experiment_id for each in client.search_experiments(view_type=_ALL, max_results=1000)]
            for start in range(0, len(asked), _PAGE):
                ids = ", ".join(f"'{run}'" for run in asked[start : start + _PAGE])
                page = client.search_runs(experiments, f"attributes.run_id IN ({ids})", _ALL, max_results=_PAGE)
                found |= {run.info.run_id: str(run.info.experiment_id) for run in page}
            return found
    for run in asked[:_FEW]:
        with suppress(Exception):  # the run was deleted
            found[run] = str(client.get_run(run).info.experiment_id)
    return found


def _sentence(error: BaseException) -> str:
    if getattr(error, "error_code", "") in ("UNAUTHENTICATED", "PERMISSION_DENIED"):
        return "it refuses this login: set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD to a user's it knows"
    if disk := full(error):
        return f"{disk} in {scratch()}: make room there, or name another directory in TMPDIR"
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return line.split(" with exception")[0][:200]  # urllib3 appends a nested description of the cause
