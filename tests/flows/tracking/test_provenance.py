"""The commit that is recorded is that of this code, and of nothing around it."""

import os
import shutil
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

from flows.tracking import labels

SOURCE = Path(labels.__file__)


def git(directory: Path, *arguments: str) -> str:
    mine = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    words = ("git", "-c", "user.name=n", "-c", "user.email=e@example.org", "-C", str(directory), *arguments)
    return subprocess.run(words, check=True, capture_output=True, text=True, env=mine).stdout.strip()


def repository(directory: Path) -> str:
    """A repository with a file and a commit. Returns that."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "file").write_text("content")
    git(directory, "init", "--quiet")
    git(directory, "add", "file")
    git(directory, "commit", "--quiet", "--message", "first")
    return git(directory, "rev-parse", "HEAD")


def installed(directory: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    (directory / "flows/tracking").mkdir(parents=True)
    copy = directory / "flows/tracking" / SOURCE.name
    shutil.copy(SOURCE, copy)
    monkeypatch.setattr(labels, "__file__", str(copy))
    monkeypatch.delenv("GIT_COMMIT", raising=False)
    return labels


@pytest.mark.parametrize("added", [False, True])
def test_the_commit_of_a_repository_around_it_is_not_recorded(
    added: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository(tmp_path)
    code = installed(tmp_path / ".venv/lib/site-packages", monkeypatch)
    if added:
        git(tmp_path, "add", "--all")
        git(tmp_path, "commit", "--quiet", "--message", "second")
    assert code.git_commit() == "unknown"


def test_a_repository_that_does_not_hold_the_code_is_not_its(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository(tmp_path)
    assert installed(tmp_path, monkeypatch).git_commit() == "unknown"


def test_the_commit_of_its_own_repository_is_recorded_whatever_a_hook_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign = repository(tmp_path / "foreign")
    own = tmp_path / "own"
    repository(own)
    code = installed(own, monkeypatch)
    git(own, "add", "--all")
    git(own, "commit", "--quiet", "--message", "second")
    head = git(own, "rev-parse", "HEAD")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "foreign" / ".git"))
    assert code.git_commit() == head != foreign
    (own / "file").write_text("edited")
    assert code.git_commit() == f"{head}+changes"
    monkeypatch.setenv("GIT_COMMIT", "of the image")
    assert code.git_commit() == "of the image"


def test_without_a_repository_it_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert installed(tmp_path, monkeypatch).git_commit() == "unknown"
