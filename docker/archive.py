"""The file of a backup: a manifest, a dump of each database and the artifacts."""

import hashlib
import json
import os
import re
import tarfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Final

from engine import StackError
from stack import ROOT, git_commit

FORMAT: Final = 1
MANIFEST: Final = "manifest.json"
ARTIFACTS: Final = "artifacts.tar"
_DUMP: Final = re.compile(r"[a-z][a-z0-9_]*\.dump")


def pack(path: Path, members: Sequence[Path], *, artifacts: str) -> None:
    """Write a manifest and the members into a new archive, readable by its owner only.

    Args:
        path: of the archive.
        members: dumps of databases, and the artifacts unless they are in a bucket.
        artifacts: the name of the member with the artifacts, or the URL of their bucket.
    """
    manifest = {
        "format": FORMAT,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "git_commit": git_commit(),
        "versions": versions(),
        "artifacts": artifacts,
        "sha256": {member.name: _digest(member.open("rb")) for member in members},
    }
    first = path.with_name(MANIFEST)
    first.write_text(json.dumps(manifest, indent=2) + "\n")
    with open(path, "wb") as file:
        with tarfile.open(fileobj=file, mode="w") as archive:
            for member in (first, *members):
                archive.add(member, member.name)
        file.flush()
        os.fsync(file.fileno())
    path.chmod(0o600)


def verify(path: Path) -> list[str]:
    """Read a backup from end to end; returns the names of its members.

    Raises:
        StackError: if it is damaged or incomplete, or written by a newer tool.
    """
    try:
        with tarfile.open(path) as archive:
            names = archive.getnames()
            if names[:1] != [MANIFEST]:
                raise StackError(f"{path} is no backup: its first entry is not {MANIFEST}; name one of `make backup`")
            manifest = json.load(extract(archive, MANIFEST))
            if manifest["format"] != FORMAT:
                raise StackError(f"{path} has format {manifest['format']!r} and this version reads {FORMAT}")
            require_versions(path, manifest)
            digests: dict[str, str] = manifest["sha256"]
            if sorted(names[1:]) != sorted(digests) or not all(n == ARTIFACTS or _DUMP.fullmatch(n) for n in digests):
                raise StackError(f"{path} holds {', '.join(names[1:])} and its manifest lists {', '.join(digests)}")
            for name, digest in digests.items():
                if _digest(extract(archive, name)) != digest:
                    raise StackError(
                        f"{name} in {path} is damaged: its SHA-256 is not the manifest's; use another backup"
                    )
            return sorted(digests)
    except (tarfile.TarError, EOFError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise StackError(f"{path} is no whole backup ({error}): use another one") from error
    except OSError as error:
        raise StackError(f"{path} cannot be read ({error.strerror}): name a file that `make backup` wrote") from error


def extract(archive: tarfile.TarFile, name: str) -> IO[bytes]:
    """The content of a member.

    Raises:
        StackError: if the member is not a file.
    """
    content = archive.extractfile(name)
    if content is None:
        raise StackError(f"{name} in {archive.name!r} is no file: name one of `make backup`")
    return content


def versions() -> dict[str, str]:
    """Versions, in this checkout, of the tools that write the databases."""
    pinned = dict(re.findall(r"^(mlflow|prefect)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    image = re.search(r"image: postgres:(\d+)", (ROOT / "docker" / "compose.yaml").read_text())
    return {**pinned, "postgres": image[1] if image else ""}


def require_versions(path: Path, manifest: dict[str, Any]) -> None:
    """Refuse databases that a newer tool wrote; older ones are migrated when the stack starts.

    Raises:
        StackError: naming the tool, its two versions and the commit that can restore the backup.
    """
    here = versions()
    for tool, version in manifest.get("versions", {}).items():
        if tool in here and _numbers(version) > _numbers(here[tool]):
            raise StackError(
                f"{path} was written by {tool} {version} at commit {manifest.get('git_commit')}, and this checkout has "
                f"{tool} {here[tool]}, which cannot read newer databases: check that commit out, or a later one, and "
                "restore there"
            )


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)]


def _digest(content: IO[bytes]) -> str:
    with content:
        return hashlib.file_digest(content, "sha256").hexdigest()  # type: ignore[arg-type] # of tarfile it is readable too
