"""Copies of versions on this disk, whole or not at all, and what the server knew when it last ran."""

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

    A copy's name holds its version's number, a hash of where that came from, and the digest of its bytes: a store that
    was begun anew reuses numbers, and what a broken disk or another hand left there is not what was accepted.
    """

    def __init__(self, cache_dir: Path, name: str) -> None:
        registry = os.environ.get("MLFLOW_REGISTRY_URI") or os.environ.get("MLFLOW_TRACKING_URI") or "default"
        self.folder = cache_dir / _short_hash(registry) / name

    def read(self, version: Version) -> bytes | None:
        """The version's copy; None if there is none whose digest is the one in its name and the version's tag."""
        for path in self.folder.glob(f"{_stem(version)}-*.onnx"):
            content = read_model_file(path)
            digest = hashlib.sha256(content).hexdigest()
            if path.stem.endswith(f"-{digest}") and version.sha256 in ("", digest):
                with suppress(OSError):  # a disk that cannot be written to
                    os.utime(path)
                return content
        return None

    def keep(self, version: Version, content: bytes) -> None:
        """Put a copy on the disk, in the place of others of this version and of the least recently used."""
        digest = hashlib.sha256(content).hexdigest()
        kept = self.folder / f"{_stem(version)}-{digest}.onnx"
        _write(kept, content)
        for path in self.folder.glob(f"{_stem(version)}-*.onnx"):
            if path != kept:
                path.unlink(missing_ok=True)
        self._trim(kept)

    def remember(self, snapshot: Snapshot) -> None:
        """Note what the registry said."""
        _write(self.folder / "snapshot.json", msgspec.json.encode(snapshot))

    def snapshot(self) -> Snapshot | None:
        """What the registry said last, if that can be read."""
        try:
            return msgspec.json.decode((self.folder / "snapshot.json").read_bytes(), type=Snapshot)
        except (OSError, ValueError):
            return None  # nothing there, damaged, or from another release: the registry is asked anew

    def remember_played(self, reference: str, version: Version) -> None:
        """Note which version plays under an alias or a number."""
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
        """Remove copies beyond the limits, the least recently used first; `kept` and what played last stay."""
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
                if time.time() - path.stat().st_mtime > _ABANDONED_SECONDS:  # a write that was killed left it
                    path.unlink()

    def _played(self, reference: str) -> Path:
        return self.folder / f"played-{_short_hash(reference)}.json"


def _stem(version: Version) -> str:
    return f"{int(version.number)}-{_short_hash(f'{version.source} {version.created_ms}')}"


def _newest(paths: Iterable[Path]) -> list[Path]:
    """Those that are still there, the last used one first."""
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
