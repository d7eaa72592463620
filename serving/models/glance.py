"""Reads a registry in a local file without MLflow: a typo is reported before MLflow's slow import."""

import os
import re
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote, unquote

DEFAULT_URI: Final = "sqlite:///mlflow.db"
_SQLITE: Final = re.compile(r"sqlite(?:\+\w+)?:///(?P<file>[^?]+)", re.DOTALL)
_DELETED: Final = "Deleted_Internal"  # the stage of a deleted version in MLflow's tables


@dataclass(frozen=True, kw_only=True)
class Registered:
    """The versions and aliases of one model, and the names of all models."""

    models: tuple[str, ...]
    """Names of all models."""
    versions: tuple[str, ...]
    aliases: tuple[str, ...]

    def holds(self, reference: str) -> bool:
        """Whether the model has this version or alias."""
        return reference in (*self.versions, *self.aliases)


def store_file(uri: str) -> Path | None:
    """The absolute path of an SQLite store; None if the URI names no SQLite file.

    SQLAlchemy takes the path literally up to a `?`. Only in SQLite's own `file:` URI is it percent-encoded.
    """
    match = _SQLITE.match(uri)
    if match is None or match["file"] == ":memory:":
        return None
    file = match["file"]
    return Path(unquote(file.removeprefix("file:")) if file.startswith("file:") else file).absolute()


def glance(name: str) -> Registered | None:
    """What is registered under a model's name; None if only MLflow can tell.

    That is so if the store is not a local file, does not exist yet, or has tables that this MLflow does not write.
    """
    file = None if os.environ.get("MLFLOW_REGISTRY_URI") else _file()
    if not file:
        return None
    try:
        with closing(_opened(file)) as store:
            models = store.execute("SELECT name FROM registered_models ORDER BY name").fetchall()
            versions = store.execute(
                "SELECT version FROM model_versions WHERE name = ? AND current_stage != ? ORDER BY version",
                (name, _DELETED),
            ).fetchall()
            aliases = store.execute(
                "SELECT alias FROM registered_model_aliases WHERE name = ? ORDER BY alias", (name,)
            ).fetchall()
    except sqlite3.Error:
        return None
    return Registered(
        models=tuple(found for (found,) in models),
        versions=tuple(str(number) for (number,) in versions),
        aliases=tuple(alias for (alias,) in aliases),
    )


@dataclass(frozen=True, kw_only=True)
class KnownRun:
    """A run in a tracking store."""

    store: Path
    exists: bool
    status: str
    population: bool
    """Whether it is the run of a population, which has a checkpoint."""
    trained: bool


def glance_run(run_id: str) -> KnownRun | None:
    """A run from a local file; None if only MLflow can tell, as in `glance`."""
    file = _file()
    if not file:
        return None
    try:
        with closing(_opened(file)) as store:
            found = store.execute("SELECT status FROM runs WHERE run_uuid = ?", (run_id,)).fetchone()
            tags = {key for (key,) in store.execute("SELECT key FROM tags WHERE run_uuid = ?", (run_id,))}
    except sqlite3.Error:
        return None
    return KnownRun(
        store=file,
        exists=bool(found),
        status=str(found[0]) if found else "",
        population="population" in tags,
        trained="trained" in tags,
    )


@dataclass(frozen=True, kw_only=True)
class Version:
    """A registered version with its tags and aliases."""

    name: str
    """Of its model."""
    number: int
    created: float
    """Seconds since 1970."""
    run_id: str
    tags: Mapping[str, str]
    aliases: tuple[str, ...]
    """In the order of the alphabet."""


def glance_versions() -> list[Version] | None:
    """All registered versions, from a local file; None if only MLflow can tell, as in `glance`."""
    file = _file()
    if not file:
        return None
    tags, aliases = dict[tuple[str, int], dict[str, str]](), dict[tuple[str, int], list[str]]()
    try:
        with closing(_opened(file)) as store:
            for name, number, key, value in store.execute("SELECT name, version, key, value FROM model_version_tags"):
                tags.setdefault((name, number), {})[key] = value or ""
            for name, number, alias in store.execute("SELECT name, version, alias FROM registered_model_aliases"):
                aliases.setdefault((name, number), []).append(alias)
            rows = store.execute(
                "SELECT name, version, creation_time, run_id FROM model_versions WHERE current_stage != ?", (_DELETED,)
            ).fetchall()
    except sqlite3.Error:
        return None
    return [
        Version(
            name=name,
            number=number,
            created=created / 1000,
            run_id=run_id or "",
            tags=tags.get((name, number), {}),
            aliases=tuple(sorted(aliases.get((name, number), ()))),
        )
        for name, number, created, run_id in rows
    ]


def _file() -> Path | None:
    """The file of the tracking store, if there is one."""
    file = store_file(os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI)
    return file if file and file.is_file() else None


def _opened(file: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{quote(str(file))}?mode=ro", uri=True, timeout=1)
