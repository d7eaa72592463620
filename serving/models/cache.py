"""Copies of versions on the disk, and the last known state of the registry and of what played."""

import hashlib
import os
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from serving.model_file import read_model_file
from serving.models.source import Snapshot, Version

_KEPT_COPIES: Final = 32
_KEPT_BYTES: Final = 256 << 20
_KEPT_NOTES: Final = 8
_ABANDONED_SECONDS: Final = 3600


class Cache:
    """One model's folder, `cache_dir/<registry>/<name>/`, where registry is a hash of the store's address.

    The name of a copy contains its version number, a hash of its origin, and the digest of its bytes: a new store
    reuses numbers, and a file on the disk may be damaged or replaced.
    """

    def __init__(self, cache_dir: Path, name: str) -> None:
        registry = os.environ.get("MLFLOW_REGISTRY_URI") or os.environ.get("MLFLOW_TRACKING_URI") or "default"
        self.folder = cache_dir / _short_hash(registry) / name

    def read(self, version: Version) -> bytes | None:
        """The version's copy; None unless its digest matches its name and the version's tag."""
        for path in self.folder.glob(f"{_stem(version)}-*.onnx"):
            content = read_model_file(path)
            digest = hashlib.sha256(content).hexdigest()
            if path.stem.endswith(f"-{digest}") and version.sha256 in ("", digest):
                with suppress(OSError):  # the disk may be read-only
                    os.utime(path)
                return content
        return None

    def keep(self, version: Version, content: bytes) -> None:
        """Write a copy to the disk, then remove other copies of this version and the least recently used ones."""
        digest = hashlib.sha256(content).hexdigest()
        kept = self.folder / f"{_stem(version)}-{digest}.onnx"
        _write(kept, content)
        for path in self.folder.glob(f"{_stem(version)}-*.onnx"):
            if path != kept:
                path.unlink(missing_ok=True)
        self._trim(kept)

    def remember(self, snapshot: Snapshot) -> None:
        """Write the registry's answer to the disk."""
        _write(self.folder / "snapshot.json", msgspec.json.encode(snapshot))

    def snapshot(self) -> Snapshot | None:
        """The registry's last answer, if it can be read."""
        try:
            return msgspec.json.decode((self.folder / "snapshot.json").read_bytes(), type=Snapshot)
        except (OSError, ValueError):
            return None  # missing, damaged, or from another release: the registry is asked again

    def remember_played(self, reference: str, version: Version) -> None:
        """Write down which version plays under an alias or a number."""
        _write(self._played(reference), msgspec.json.encode(version))

    def played(self, reference: str) -> Version | None:
        """The last version that played under an alias or a number, if that can be read."""
        return self._read_played(self._played(reference))

    def _read_played(self, note: Path) -> Version | None:
        try:
            return msgspec.json.decode(note.read_bytes(), type=Version)
        except (OSError, ValueError):
            return None  # as above

    def _trim(self, kept: Path) -> None:
        """Remove copies beyond the limits, least recently used first, but never `kept` or versions that played last."""
        notes = _newest(self.folder.glob("played-*.json"))
        for note in notes[_KEPT_NOTES:]:
            note.unlink(missing_ok=True)
        played = [self._read_played(note) for note in notes[:_KEPT_NOTES]]
        stems = tuple(f"{_stem(version)}-" for version in played if version)
        number = size = 0
        copies = _newest(self.folder.glob("*.onnx"))
        for path in sorted(copies, key=lambda path: path != kept and not path.name.startswith(stems)):
            with suppress(FileNotFoundError):  # another server on this disk removes copies too
                number, size = number + 1, size + path.stat().st_size
                if (number > _KEPT_COPIES or size > _KEPT_BYTES) and not (path == kept or path.name.startswith(stems)):
                    path.unlink()
        for path in self.folder.glob(".*"):
            with suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > _ABANDONED_SECONDS:  # left by a killed process
                    path.unlink()

    def _played(self, reference: str) -> Path:
        return self.folder / f"played-{_short_hash(reference)}.json"


def _stem(version: Version) -> str:
    return f"{int(version.number)}-{_short_hash(f'{version.source} {version.created_ms}')}"


def _newest(paths: Iterable[Path]) -> list[Path]:
    """The files that still exist, the last used one first."""
    used = {}
    for path in paths:
        with suppress(FileNotFoundError):  # another server on this disk removes copies too
            used[path] = path.stat().st_mtime
    return sorted(used, key=lambda path: used[path], reverse=True)


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _write(path: Path, content: bytes) -> None:
    """Replace a file by one rename, after its bytes have reached the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}-", delete=False)  # noqa: SIM115
    try:
        with file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(file.name).replace(path)
    except BaseException:
        Path(file.name).unlink(missing_ok=True)
        raise
