"""`versions`: the registered versions as a table, or as JSON."""

import base64
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from http.client import HTTPException
from typing import Any
from urllib.parse import urlencode
from urllib.request import Request, urlopen

from flows.cli.refusals import require_registry
from flows.cli.terminal import fail, verb
from flows.failures.errors import FlowError, one_line
from flows.names import PREFIX, environment_of, model_name
from serving.models.glance import Version, glance_versions

_COLUMNS = ("version", "aliases", "world", "returns", "robust", "gate", "age", "run")
_GATE = _COLUMNS.index("gate")
_LEAST = 20
"""Characters of the gate's reason."""
_PAGE = 1_000
"""Rows of one of MLflow's answers."""
_SECONDS = 10.0
"""Time that a server may take for an answer."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """List the registered versions of all environments, the newest first."""

    env_id: str = ""
    """List those of one environment only."""
    json: bool = False
    """Print JSON, with the whole reason of the gate and the whole id of the run."""


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, read the registry and print; returns the exit code."""
    return verb(Arguments(), argv, "versions", (), lambda _: require_registry(), run)


def run(chosen: Arguments) -> int:
    """Read the registry and print; returns the exit code."""
    name = model_name(chosen.env_id) if chosen.env_id else ""
    uri = os.environ.get("MLFLOW_REGISTRY_URI") or os.environ.get("MLFLOW_TRACKING_URI") or ""
    found = None
    if uri.startswith("http"):
        found = by_http(uri)
    elif "MLFLOW_REGISTRY_URI" not in os.environ:
        found = glance_versions()
    if found is not None:  # MLflow takes more than a second to import
        return show(found, name, as_json=chosen.json)
    from mlflow.exceptions import MlflowException

    try:
        return show(by_mlflow(), name, as_json=chosen.json)
    except FlowError as error:
        return fail(error, error.exit_code)
    except MlflowException as error:
        return fail(error, 1, f"MLflow: {one_line(error)}")


def by_http(uri: str) -> list[Version] | None:
    """All versions from a server, by two requests or two for each page of its answers; None if only MLflow can tell.

    That is so if the server does not answer, or wants more than a user and a password.
    """
    login = ":".join(os.environ.get(f"MLFLOW_TRACKING_{name}", "") for name in ("USERNAME", "PASSWORD"))
    header = f"Basic {base64.b64encode(login.encode()).decode()}"

    def rows(kind: str) -> Iterator[dict[str, Any]]:
        token: str | None = ""
        while token is not None:
            query = urlencode({"filter": f"name LIKE '{PREFIX}%'", "max_results": _PAGE, "page_token": token})
            address = f"{uri.rstrip('/')}/api/2.0/mlflow/{kind.replace('_', '-')}/search?{query}"
            with urlopen(Request(address, headers={"Authorization": header}), timeout=_SECONDS) as answer:  # noqa: S310
                page = json.load(answer)
            yield from page.get(kind, ())
            token = page.get("next_page_token") or None

    try:
        named = [
            (m["name"], each["version"], each["alias"])
            for m in rows("registered_models")
            for each in m.get("aliases", ())
        ]
        return [
            Version(
                name=row["name"],
                number=int(row["version"]),
                created=int(row["creation_timestamp"]) / 1000,
                run_id=row.get("run_id", ""),
                tags={tag["key"]: tag.get("value", "") for tag in row.get("tags", ())},
                aliases=tuple(
                    sorted(a for name, number, a in named if (name, number) == (row["name"], row["version"]))
                ),
            )
            for row in rows("model_versions")
        ]
    except (OSError, ValueError, KeyError, HTTPException):
        return None


def by_mlflow() -> list[Version]:
    """All versions, by two of MLflow's calls, or two for each page of its answers.

    Raises:
        TrackingError: if the store does not answer.
        InputError: if it refuses the login.
    """
    from flows.tracking.store import connect

    client, aliases = connect(), dict[tuple[str, int], list[str]]()
    for model in _pages(client.search_registered_models):
        for alias, version in model.aliases.items():
            aliases.setdefault((model.name, int(version)), []).append(alias)
    return [
        Version(
            name=each.name,
            number=int(each.version),
            created=each.creation_timestamp / 1000,
            run_id=each.run_id or "",
            tags=dict(each.tags),
            aliases=tuple(sorted(aliases.get((each.name, int(each.version)), ()))),
        )
        for each in _pages(client.search_model_versions)
    ]


def _pages(search: Callable[..., Any]) -> Iterator[Any]:
    token = None
    while True:
        page = search(f"name LIKE '{PREFIX}%'", max_results=_PAGE, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def show(found: Sequence[Version], name: str, *, as_json: bool) -> int:
    """Print versions, of one model if it is named; returns the exit code."""
    mine = [version for version in found if version.name.startswith(PREFIX) and name in ("", version.name)]
    mine.sort(key=lambda version: (version.name, -version.number))
    if as_json:
        print(json.dumps([as_dict(version) for version in mine], indent=2))
    else:
        print(table(mine, time.time(), shutil.get_terminal_size().columns) or "no version is registered")
    return 0


def as_dict(version: Version) -> dict[str, Any]:
    """A version as JSON values; what is not known is null."""
    tags = version.tags
    return {
        "model": version.name,
        "env_id": environment_of(version.name),
        "version": version.number,
        "aliases": list(version.aliases),
        "world": tags.get("world"),
        "mean_return": _number(tags.get("eval.mean_return")),
        "min_return": _number(tags.get("eval.min_return")),
        "robustness": _number(tags.get("eval.robustness")),
        "gate": tags.get("gate"),
        "retired": tags.get("retired"),
        "origin": tags.get("origin"),
        "created": datetime.fromtimestamp(version.created, UTC).isoformat(timespec="seconds"),
        "run_id": version.run_id,
    }


def table(found: Sequence[Version], now: float, width: int) -> str:
    """A table for each model, the gate's reason cut to the width of the terminal; "" if there is no version."""
    parts = []
    for name in dict.fromkeys(version.name for version in found):
        rows = [_COLUMNS, *(_row(version, now) for version in found if version.name == name)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
        others = sum(widths) - widths[_GATE] + 2 * (len(widths) - 1)
        widths[_GATE] = max(min(widths[_GATE], width - others), _LEAST)
        lines = [
            "  ".join(f"{_cut(cell, size):<{size}}" for cell, size in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
        parts.append("\n".join([name, *lines]))
    return "\n\n".join(parts)


def age(seconds: float) -> str:
    """A time span in its largest unit."""
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{seconds // size:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def _row(version: Version, now: float) -> tuple[str, ...]:
    tags = version.tags
    mean, low = (_number(tags.get(f"eval.{name}_return")) for name in ("mean", "min"))
    robustness = _number(tags.get("eval.robustness"))
    gate = tags.get("gate", "")
    return (
        str(version.number),
        ", ".join(version.aliases),
        tags.get("world", ""),
        "" if mean is None else f"{mean:g}" if mean == low else f"{mean:g}, least {low:g}",
        "" if robustness is None else f"{robustness:.1%}",
        f"retired; {gate}" if "retired" in tags else gate,
        age(now - version.created),
        version.run_id[:8],
    )


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:  # a tag that a person has written
        return None


def _cut(text: str, size: int) -> str:
    return text if len(text) <= size else text[: size - 3] + "..."
