"""Copies of versions on this disk, whole or not at all, and what the server knew when it last ran."""

import hashlib
import os
import tempfile
from pathlib import Path

import msgspec

from serving.models.registry import Snapshot, Version


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
            content = path.read_bytes()
            digest = hashlib.sha256(content).hexdigest()
            if path.stem.endswith(f"-{digest}") and version.sha256 in ("", digest):
                return content
        return None

    def keep(self, version: Version, content: bytes) -> None:
        """Put a copy on the disk, in the place of others of this version."""
        digest = hashlib.sha256(content).hexdigest()
        kept = self.folder / f"{_stem(version)}-{digest}.onnx"
        _write(kept, content)
        for path in self.folder.glob(f"{_stem(version)}-*.onnx"):
            if path != kept:
                path.unlink(missing_ok=True)

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
        try:
            return msgspec.json.decode(self._played(reference).read_bytes(), type=Version)
        except (OSError, ValueError):
            return None  # as above

    def _played(self, reference: str) -> Path:
        return self.folder / f"played-{_short_hash(reference)}.json"


def _stem(version: Version) -> str:
    return f"{int(version.number)}-{_short_hash(f'{version.source} {version.created_ms}')}"


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
