"""What a verb of make installs into a fresh directory, with a pip that only writes down what it was asked."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
EXTRAS: Final = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
SETS: Final = {
    "train": {"train"},
    "sweep": {"train"},
    "ui": {"train", "server"},
    "serve": {"serving", "sqlite"},
    "watch": {"serving", "sqlite"},
    "record": {"serving", "sqlite", "record"},
    "bench": {"train", "bench"},
    "site": {"train", "site"},
    "stack": {"train", "serving", "sqlite", "record", "server"},
    "install": {"train", "serving", "sqlite", "record", "server", "site", "dev"},
}
PRETENDED: Final = '#!/bin/sh\n[ "$3" = --version ] && exit\necho "$@" >> asked\n'


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A fresh directory with a space in its name, and an environment with a Python that writes down its arguments."""
    directory = tmp_path / "a clone"
    (directory / ".venv/bin").mkdir(parents=True)
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, directory)
    script(directory / ".venv/bin/python", PRETENDED)
    script(directory / ".venv/bin/mlflow", PRETENDED)
    return directory


def script(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def make(directory: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    ours = ("MAKE", "MFLAGS", "PYTHON")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    command = ("make", f"PYTHON={sys.executable}", *words)
    return subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, check=False)


def installed(directory: Path) -> list[str]:
    """What pip was asked for."""
    lines = (directory / "asked").read_text().splitlines()
    return [line.removeprefix("-m pip install ") for line in lines if line.startswith("-m pip install ")]


@pytest.mark.parametrize("verb", SETS)
def test_a_verb_installs_what_it_needs_and_no_more_once(clone: Path, verb: str) -> None:
    first = make(clone, verb)
    assert first.returncode == 0, first.stderr
    assert re.search(r"Installing into \.venv, once: \d+ packages, [\d.]+ GB", first.stdout)
    [asked] = installed(clone)
    [extras] = re.findall(r"-e \.\[(.*)\]", asked)
    assert set(extras.split(",")) == SETS[verb] <= EXTRAS.keys()
    assert ("--no-compile" in asked) == (verb != "install")
    again = make(clone, verb)
    assert again.returncode == 0
    assert "Installing" not in again.stdout
    assert len(installed(clone)) == 1


def test_bytecode_is_installed_where_none_is_written_later(clone: Path) -> None:
    assert make(clone, "train", "PYTHONDONTWRITEBYTECODE=1").returncode == 0
    [asked] = installed(clone)
    assert "--no-compile" not in asked


def test_an_environment_with_everything_is_enough_for_every_other_verb(clone: Path) -> None:
    make(clone, "install")
    for verb in SETS.keys() - {"bench"}:
        assert make(clone, verb).returncode == 0
    assert len(installed(clone)) == 1


def test_the_build_without_cuda_comes_from_its_own_index_alone(clone: Path) -> None:
    make(clone, "train", "TORCH=cpu")
    torch, rest = installed(clone)
    assert torch.endswith("torch --index-url https://download.pytorch.org/whl/cpu")
    assert "index" not in rest
    assert "https://download.pytorch.org/whl/cpu" in (ROOT / "README.md").read_text()


def test_an_old_python_is_refused_with_the_one_that_is_needed(clone: Path) -> None:
    old = clone / "old"
    script(old, f'#!/bin/sh\nexec "{sys.executable}" -c "import sys; sys.version_info = (3, 10); $(echo "$2")"\n')
    refused = make(clone, "train", "PYTHON=./old")
    assert refused.returncode != 0
    assert "This is Python 3.10, and 3.11 to 3.13 is needed: choose one, make train PYTHON=python3.12" in refused.stderr
    assert not (clone / "asked").exists()


def test_an_installation_that_failed_is_tried_again(clone: Path) -> None:
    script(clone / ".venv/bin/python", '#!/bin/sh\n[ "$3" = --version ] && exit\nexit 1\n')
    assert make(clone, "train").returncode != 0
    script(clone / ".venv/bin/python", PRETENDED)
    assert make(clone, "train").returncode == 0
    assert len(installed(clone)) == 1
