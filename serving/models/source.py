"""Sources of models, a file or a registry, behind one protocol."""

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from serving.errors import RegistryUnavailableError, UnknownModelError
from serving.model_file import read_model_file

_URI: Final = re.compile(r"models:/(?P<name>[\w.~-]+)(?:@(?P<alias>[A-Za-z0-9_.-]+)|/(?P<version>[0-9]+))")
DIGEST_TAG: Final = "sha256"
_NEAR: Final = 3
Identity = tuple[str, str, int, str]


@dataclass(frozen=True, kw_only=True)
class ModelURI:
    """A version of a registered model, by `alias` or by `version` number."""

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

    @property
    def identity(self) -> Identity:
        """Differs for different versions, also if a number is reused for a new version or in a new store."""
        return self.number, self.source, self.created_ms, self.sha256

    @property
    def sha256(self) -> str:
        """Digest of the artifact that passed the gate; empty if there is no such tag."""
        return self.tags.get(DIGEST_TAG, "")


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """The registry's versions and aliases of one model at one moment."""

    aliases: Mapping[str, str]
    """Alias to version number."""
    versions: Mapping[str, Version]


@dataclass(frozen=True, kw_only=True)
class RunningTraining:
    """The run of a population's training that its tracking server calls running."""

    run_id: str
    experiment_id: str
    name: str
    started: float
    """Seconds since 1970."""
    trained: bool
    """Whether the training itself is over: its version is being tested and decided on."""
    live: str
    """Its tag `live`: the updates of the state in `live/population.json` and when it was last heard of, or empty."""


class ModelSource(Protocol):
    """A source of the versions of one model. Every method may block: call it from a thread."""

    name: str

    def snapshot(self, last: Snapshot | None) -> Snapshot:
        """The present versions and aliases; the versions of `last` may be reused if its aliases did not move."""

    def fetch(self, version: Version) -> bytes:
        """The bytes of the version's ONNX file."""

    def learning(self, version: Version) -> dict[str, bytes]:
        """The milestones of its training run by file name; empty if the run has none."""

    def trainings(self) -> Sequence[RunningTraining]:
        """Trainings of this model that are said to run, the newest first; at most a few."""

    def population(self, training: RunningTraining) -> bytes:
        """Its `live/population.json`."""


class FileSource:
    """A single .onnx file, served as version 1."""

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise ValueError(f"there is no file {path}")
        self.path = path
        self.name = path.stem

    def snapshot(self, last: Snapshot | None) -> Snapshot:
        """One version and no alias."""
        return last or Snapshot(aliases={}, versions={"1": Version(number="1", source=str(self.path))})

    def fetch(self, version: Version) -> bytes:
        """The present bytes of the file.

        Raises:
            RegistryUnavailableError: if it cannot be read.
        """
        try:
            return read_model_file(self.path)
        except OSError as error:
            raise RegistryUnavailableError(f"{self.path} cannot be read: {error.strerror}") from error

    def learning(self, version: Version) -> dict[str, bytes]:
        """Nothing: a file has no run."""
        return {}

    def trainings(self) -> Sequence[RunningTraining]:
        """None can be known.

        Raises:
            UnknownModelError: always, with the reason.
        """
        raise UnknownModelError(
            "a file has no tracking server: name a registered model with --model to watch trainings"
        )

    def population(self, training: RunningTraining) -> bytes:
        """Raises what `trainings` raises."""
        raise UnknownModelError(f"{training.run_id} is no training of a file")


def no_model(name: str, known: Sequence[str]) -> str:
    """The sentence for an unknown model name, with similar known names."""
    near = difflib.get_close_matches(name, known, n=_NEAR) or known[:_NEAR]
    return f"the registry has no model {name}" + (f" but {', '.join(near)}" if near else "")
