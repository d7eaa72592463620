"""The notebook, the figures and the picture that the documents show are of what there is."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any, Final

import nbformat
import pytest
from nbclient import NotebookClient

import serving.models.advice
from benchmarks import rooms
from dqn.config import DQNConfig
from dqn.presets import PRESETS

ROOT: Final = Path(__file__).parents[2]

NOTEBOOK: Final = ROOT / "docs/from-python.ipynb"


@pytest.mark.slow
def test_the_notebook_runs_and_shows_what_it_gave(tmp_path: Path) -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)  # type: ignore[no-untyped-call]
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    shown = [kinds(cell) for cell in code]
    assert "image/png" in {kind for cell in shown for kind in cell}
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    assert [kinds(cell) for cell in code] == shown
    assert (tmp_path / "policy.onnx").exists()


def test_the_notebook_is_of_todays_preset() -> None:
    updates = [int(number) for number in re.findall(r"\(\d, True, (\d+), 500.0", NOTEBOOK.read_text())]
    assert len(updates) == 8
    assert min(updates) == PRESETS["cartpole"].eval_start, "execute it anew: .venv/bin/jupyter-execute --inplace"


def kinds(cell: Any) -> list[str]:
    """Of what a cell shows, the kinds."""
    return sorted(kind for output in cell.outputs for kind in output.get("data", {"text/plain": ""}))


def test_the_picture_of_the_rooms_is_of_todays_imports() -> None:
    assert rooms.PICTURE.read_text() == rooms.picture(), "draw it anew: .venv/bin/python -m benchmarks.rooms"


@pytest.mark.parametrize("package", rooms.COLOURS)
def test_the_design_says_what_every_room_is_for(package: str) -> None:
    _, table = (ROOT / "docs/design.md").read_text().split(f"| `{package}/` | what |\n")
    described = re.findall(r"^\| `(\w+)/` \|", table.split("\n\n")[0], re.MULTILINE)
    assert sorted(described) == sorted(path.parent.name for path in (ROOT / package).glob("*/__init__.py"))


def test_serving_names_the_preset_of_an_environment() -> None:
    """Where nothing plays yet, it says how to train one."""
    shown = {env_id: "".join(options[1:]) for env_id, options in serving.models.advice.PRESETS.items()}
    assert shown.pop(DQNConfig().env_id) == ""
    assert shown == {PRESETS[name].env_id: name for name in ("acrobot", "mountaincar", "lunarlander")}


def committed(path: str) -> str:
    """A file as it was committed: `make bench` writes this machine's figures over those that the documents show."""
    shown = subprocess.run(["git", "show", f"HEAD:{path}"], cwd=ROOT, capture_output=True, text=True, check=False)
    if shown.returncode:
        pytest.skip(f"git does not have {path} here: {shown.stderr.strip()}")
    return shown.stdout


def rows_of(document: str) -> list[list[str]]:
    """The cells of a document's tables."""
    lines = [line for line in committed(document).splitlines() if line.startswith("| ")]
    return [line.strip("| ").split(" | ") for line in lines]


def rounded(value: float, shown: str) -> str:
    """A number with as many decimals as the shown one."""
    return f"{value:.{len(shown.partition('.')[2])}f}"


def test_the_figures_of_the_contestants_are_those_that_were_measured() -> None:
    shown = {row[0]: row for row in rows_of("docs/benchmarks.md") if len(row) == 6 and row[1].isdecimal()}
    measured = json.loads(committed("benchmarks/results/learning.json"))["rows"]
    assert len(measured) == 4
    for row in measured:
        _, agents, solved, *intervals, _ = shown[row["contestant"]]
        assert (int(agents), int(solved)) == (row["agents"], row["solved"])
        figures = re.findall(r"[\d.]+", " ".join(intervals))
        names = ("CPU-s an agent", "from", "to", "IQM return", "IQM low", "IQM high")
        assert figures == [rounded(row[name], figure) for name, figure in zip(names, figures, strict=True)]


@pytest.mark.parametrize("name", ["seeds_16", "seeds_256", "seeds_256_last_network", "seeds_1024"])
def test_many_seeds_were_measured_by_the_command_that_is_shown(name: str) -> None:
    content = json.loads(committed(f"benchmarks/results/{name}.json"))
    commands = {row[2]: row for row in rows_of("docs/benchmarks.md") if len(row) == 3}
    what, measured, _ = commands[f"`.venv/bin/python {content['command']}`"]
    [row] = content["rows"]
    if "populations of" in what:
        assert what.endswith(f"populations of {row['population']}")
    assert re.match(r"\d+", measured)[0] == str(row["solved"])  # type: ignore[index]
    cost = re.search(r"([\d.]+) CPU-s", measured)
    assert cost is None or cost[1] == rounded(row["CPU-s a solved seed"], cost[1])
