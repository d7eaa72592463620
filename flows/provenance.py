"""Who ran which code."""

import getpass
import os
import subprocess
from pathlib import Path
from typing import Final

_NAMES_A_REPOSITORY: Final = ("GIT_DIR", "GIT_WORK_TREE", "GIT_COMMON_DIR", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY")
"""Set where a hook of another repository runs this code, they win over the directory."""


def git_commit() -> str:
    """Commit this code is at: `GIT_COMMIT` where an image sets it, else what git says; "+changes" if edited since.

    Where the code lies below another project's repository, as in a virtual environment, it is "unknown".
    """
    if commit := os.environ.get("GIT_COMMIT"):
        return commit
    try:
        if not os.path.samefile(_git("rev-parse", "--show-toplevel"), Path(__file__).parent.parent):
            return "unknown"
        _git("ls-files", "--error-unmatch", "--", str(Path(__file__)))
        commit, changes = (_git("rev-parse", "HEAD"), _git("status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit + ("+changes" if changes else "")


def user() -> str:
    """Who trains; a container may be run by a number without a name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def _git(*arguments: str) -> str:
    command = ("git", "-C", str(Path(__file__).parent), *arguments)
    mine = {name: value for name, value in os.environ.items() if name not in _NAMES_A_REPOSITORY}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=mine)  # noqa: S603 # fixed words
    return done.stdout.strip()
