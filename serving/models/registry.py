"""From a model URI to a checked policy: the registry, and the last good copies kept on disk."""

import hashlib
import os
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np
import orjson

from serving.policy import OnnxPolicy

if TYPE_CHECKING:
    from mlflow import MlflowClient

_URI: Final = re.compile(r"models:/(?P<name>[\w.-]+)(?:@(?P<alias>[\w.-]+)|/(?P<version>\d+))", re.ASCII)
_KEPT_TAGS: Final = (
    "git_commit",
    "prefect.flow_run_id",
    "eval.mean_return",
    "eval.min_return",
    "eval.episodes",
    "gate",
)


class RegistryUnavailableError(RuntimeError):
    """The registry did not answer; what is on disk is all there is."""


class UnknownModelError(LookupError):
    """The registry answered that there is no such model, version or alias."""


@dataclass(frozen=True, kw_only=True)
class ModelURI:
    """Which version of which registered model: by `alias`, or by `version` number."""

    name: str
    alias: str | None = None
    version: str | None = None

    @classmethod
    def parse(cls, uri: str) -> "ModelURI":
        """`models:/dqn-CartPole-v1@champion` or `models:/dqn-CartPole-v1/3`.

        Raises:
            ValueError: for anything else.
        """
        match = _URI.fullmatch(uri)
        if match is None or set(match["name"]) == {"."}:
            raise ValueError(f"expected models:/NAME@ALIAS, models:/NAME/VERSION or a .onnx file, got {uri!r}")
        return cls(name=match["name"], alias=match["alias"], version=match["version"])


@dataclass(frozen=True, kw_only=True)
class Version:
    """One version as the registry describes it."""

    number: str
    source: str
    run_id: str = ""
    experiment_id: str = ""
    created_ms: int = 0
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """What the registry knew of one model at one moment."""

    aliases: Mapping[str, str]
    """Alias to version number."""
    versions: Mapping[str, Version]


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """A version that was loaded, checked against the contract and warmed."""

    name: str
    version: Version
    policy: OnnxPolicy
    sha256: str

    @classmethod
    def load(cls, name: str, version: Version, path: Path) -> "ServedModel":
        """Read, check and warm a policy.

        Raises:
            PolicyError: if the file breaks the contract.
        """
        model = path.read_bytes()
        policy = OnnxPolicy.load(model)
        for _ in range(10):
            q_values = policy.q_values(np.zeros((1, policy.metadata.observation_size), dtype=np.float32))
        if not np.isfinite(q_values).all():
            raise ValueError(f"version {version.number} answers {q_values.tolist()} to an observation of zeros")
        return cls(name=name, version=version, policy=policy, sha256=hashlib.sha256(model).hexdigest())


class ModelSource(Protocol):
    """Where versions of one model come from. Every method may block: call it from a thread."""

    name: str

    def remembered(self) -> Snapshot | None:
        """The last snapshot kept on disk, without asking the registry."""

    def snapshot(self, last: Snapshot | None) -> Snapshot:
        """What the registry knows now; the versions of `last` are reused where its aliases did not move."""

    def fetch(self, version: Version) -> Path:
        """The version's ONNX file on this disk."""


class FileSource:
    """A single .onnx file, served as version 1."""

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise ValueError(f"there is no file {path}")
        self.path = path
        self.name = path.stem

    def remembered(self) -> Snapshot | None:
        """The file is on disk: there is nothing else to remember."""
        return self.snapshot(None)

    def snapshot(self, last: Snapshot | None) -> Snapshot:
        """One version and no alias."""
        return last or Snapshot(aliases={}, versions={"1": Version(number="1", source=str(self.path))})

    def fetch(self, version: Version) -> Path:
        """The file itself."""
        return self.path


class RegistrySource:
    """An MLflow registered model, with every fetched version kept on disk.

    The store is what `MLFLOW_TRACKING_URI` says (MLflow's own default else). Copies lie under
    `cache_dir/<registry>/<name>/<version>-<source>/`, where registry and source are hashes: a store that was
    deleted and begun anew reuses version numbers, and its models must not be mistaken for the old ones.
    """

    def __init__(self, name: str, cache_dir: Path) -> None:
        self.name = name
        registry = os.environ.get("MLFLOW_REGISTRY_URI") or os.environ.get("MLFLOW_TRACKING_URI") or "default"
        self._folder = cache_dir / _short_hash(registry) / name
        self._client: MlflowClient | None = None
        self._connecting = threading.Lock()
        self._listed = 0.0

    def remembered(self) -> Snapshot | None:
        """The last snapshot kept on disk, without asking the registry."""
        try:
            content = orjson.loads((self._folder / "snapshot.json").read_bytes())
            versions = {number: Version(**values) for number, values in content["versions"].items()}
            return Snapshot(aliases=content["aliases"], versions=versions)
        except FileNotFoundError:
            return None
        except (orjson.JSONDecodeError, KeyError, TypeError):
            return None  # from another release: the registry is asked anew

    def snapshot(self, last: Snapshot | None) -> Snapshot:
        """What the registry knows now; versions are listed anew when an alias moved, and every 30 s.

        Raises:
            UnknownModelError: if the registry has no such model.
            RegistryUnavailableError: if it does not answer.
        """
        client = self._connect()
        from mlflow.exceptions import MlflowException

        try:
            model = client.get_registered_model(self.name)
            aliases = {alias: str(version) for alias, version in model.aliases.items()}
            if last and aliases == last.aliases and time.monotonic() - self._listed < 30:
                return last
            found = client.search_model_versions(f"name='{self.name}'", max_results=200)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                raise UnknownModelError(f"the registry has no model {self.name}") from error
            raise RegistryUnavailableError(_sentence(error)) from error
        except Exception as error:  # requests, urllib3 and sqlalchemy each have their own
            raise RegistryUnavailableError(_sentence(error)) from error
        self._listed = time.monotonic()
        versions = {
            str(version.version): Version(
                number=str(version.version),
                source=version.source or "",
                run_id=version.run_id or "",
                experiment_id=self._experiment(version.run_id, last, str(version.version)),
                created_ms=int(version.creation_timestamp or 0),
                tags={name: version.tags[name] for name in _KEPT_TAGS if name in version.tags},
            )
            for version in found
        }
        snapshot = Snapshot(aliases=aliases, versions=versions)
        if snapshot != last:
            self._folder.mkdir(parents=True, exist_ok=True)
            _write_atomically(self._folder / "snapshot.json", orjson.dumps(asdict(snapshot)))
        return snapshot

    def fetch(self, version: Version) -> Path:
        """The version's ONNX file, downloaded once and put in place by one rename.

        Raises:
            RegistryUnavailableError: if it is not on disk and cannot be downloaded.
            ValueError: if the artifact is not one single .onnx file.
        """
        folder = self._folder / f"{int(version.number)}-{_short_hash(f'{version.source} {version.created_ms}')}"
        kept = folder / "model.onnx"
        if kept.is_file():
            return kept
        self._connect()
        from mlflow.artifacts import download_artifacts

        self._folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self._folder, prefix=".fetching-") as scratch:
            try:
                download_artifacts(artifact_uri=f"models:/{self.name}/{version.number}", dst_path=f"{scratch}/artifact")
            except Exception as error:
                raise RegistryUnavailableError(f"downloading version {version.number}: {_sentence(error)}") from error
            files = sorted(Path(scratch, "artifact").rglob("*.onnx"))
            if len(files) != 1:
                names = [file.name for file in files]
                raise ValueError(f"version {version.number} should hold one .onnx file, it holds {names}")
            Path(scratch, "ready").mkdir()
            shutil.move(files[0], Path(scratch, "ready", "model.onnx"))
            if not kept.is_file():
                Path(scratch, "ready").replace(folder)
        return kept

    def _connect(self) -> "MlflowClient":
        with self._connecting:  # a poll and a download may come first at once, from two threads
            if self._client is None:
                import mlflow  # takes seconds: the last good copy is playing by then

                uri = mlflow.get_registry_uri()
                if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).is_file():
                    # MLflow would create and migrate the store, in a race with the first training run
                    raise UnknownModelError(f"there is no registry at {uri} yet")
                self._client = mlflow.MlflowClient()
            return self._client

    def _experiment(self, run_id: str | None, last: Snapshot | None, number: str) -> str:
        known = last.versions.get(number) if last else None
        if known and known.run_id == run_id:
            return known.experiment_id
        if not run_id or self._client is None:
            return ""
        try:
            return str(self._client.get_run(run_id).info.experiment_id)
        except Exception:  # the run was deleted: its model plays all the same, only without a link
            return ""


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _sentence(error: BaseException) -> str:
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return line.split(" with exception")[0][:200]  # what urllib3 adds after that is a stack in words


def _write_atomically(path: Path, content: bytes) -> None:
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}-", delete=False) as file:
        file.write(content)
    Path(file.name).replace(path)
