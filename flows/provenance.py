"""Who ran which code."""

import getpass
import os
import subprocess
from pathlib import Path


def git_commit() -> str:
    """Commit this code is at: `GIT_COMMIT` where an image sets it, else what git says; "+changes" if edited since."""
    if commit := os.environ.get("GIT_COMMIT"):
        return commit
    try:
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
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()  # noqa: S603 # fixed words
