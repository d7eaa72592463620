"""Shared by all measurements: a description of the machine, the table in the terminal and the file of results."""

import json
import platform
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def machine() -> dict[str, str]:
    """The processor, and the versions of Python and of the measured libraries."""
    model = "unknown processor"
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = f"{lines[0].split(':')[1].strip()} x {len(lines)}" if lines else platform.machine()
    packages = {name: version(name) for name in ("torch", "gymnasium", "numpy")}
    return {"processor": model, "python": platform.python_version(), **packages}


def commit() -> str:
    """The measured commit, marked as dirty if files differ from it."""
    described = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    return described.stdout.strip() or "unknown"


def write(name: str, rows: Sequence[dict[str, Any]]) -> Path:
    """Write the rows of a measurement to `results/<name>.json`."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    given = ["python", "-m", *sys.argv[1:]] if sys.argv[0] == "-m" else sys.orig_argv[1:]
    content = {
        "command": " ".join(Path(each).name if Path(each).is_absolute() else each for each in given),
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": machine(),
        "rows": rows,
    }
    path.write_text(json.dumps(content, indent=2) + "\n")
    return path


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as an aligned table; the first row's keys are its head."""
    head = list(rows[0])
    cells = [head, *[[_cell(row[name]) for name in head] for row in rows]]
    widths = [max(len(line[column]) for line in cells) for column in range(len(head))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in cells)


def _cell(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
