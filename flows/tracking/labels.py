"""A run's name, description, parameters, commit and user."""

import dataclasses
import getpass
import os
import subprocess
from pathlib import Path
from typing import Final

from mlflow.entities import Param

from dqn.config import WORLDS, DQNConfig
from dqn.training.metrics import POPULATION
from flows.request.general import StartName, start_of

_LONGEST_NAME: Final = 250
"""Characters; MLflow's limit."""


def run_name(config: DQNConfig, preset: StartName) -> str:
    """A run's name: environment, preset, differences from the preset, and seed."""
    usual = start_of(preset, config.environment)
    overrides = [
        f"{name}={value}"
        for name, value in config.to_dict().items()
        if name not in ("env_id", "seed", "worlds", *WORLDS) and value != usual.to_dict()[name]
    ]
    worlds = [f"{name} {getattr(config, name)}" for name in WORLDS if getattr(config, name) != getattr(usual, name)]
    worlds += [f"{len(set(config.worlds))} worlds"] if config.worlds else []
    what = ", ".join([f"{config.env_id} {preset}", *overrides, *worlds])
    seed = f", seed {config.seed}"
    return what[: _LONGEST_NAME - len(seed)] + seed


def description(config: DQNConfig, preset: StartName) -> str:
    """The description on the run's page."""
    return (
        f"A population of {config.num_agents} DQN agents on {config.env_id}, preset `{preset}`, seed {config.seed}. "
        "Each agent has a child run.\n\n"
        "One generator draws for the whole population: agent k is reproduced by the seed and the number of agents "
        "together, not by itself."
    )


def params(config: DQNConfig, agent: int = POPULATION) -> list[Param]:
    """All hyper-parameters as MLflow parameters; those of an agent have its world, the population's a number of them.

    A value of MLflow has at most 6,000 characters.
    """
    values: dict[str, object] = {**config.to_dict(), "worlds": f"{len(config.worlds)} worlds" if config.worlds else ()}
    if config.worlds and agent != POPULATION:
        config = dataclasses.replace(config, world=config.world_of(agent), worlds=())
    worlds = {name: getattr(config, name) for name in WORLDS}
    entries = {f"{name}.{key}": value for name, world in worlds.items() for key, value in world.to_dict().items()}
    values |= {**worlds, **entries}
    return [Param(key, "none" if value is None else str(value)) for key, value in values.items()]


_NAMES_A_REPOSITORY: Final = ("GIT_DIR", "GIT_WORK_TREE", "GIT_COMMON_DIR", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY")
"""A hook of another repository sets these, and git prefers them to the directory."""


def git_commit() -> str:
    """This code's commit: `GIT_COMMIT` if an image sets it, else git's answer, with "+changes" if files were edited.

    It is "unknown" if the code lies below another project's repository, as in a virtual environment.
    """
    if commit := os.environ.get("GIT_COMMIT"):
        return commit
    try:
        if not os.path.samefile(_git("rev-parse", "--show-toplevel"), Path(__file__).parents[2]):
            return "unknown"
        _git("ls-files", "--error-unmatch", "--", str(Path(__file__)))
        commit, changes = (_git("rev-parse", "HEAD"), _git("status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit + ("+changes" if changes else "")


def user() -> str:
    """Name of the user, or the user's number in a container that has no name for it."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def _git(*arguments: str) -> str:
    command = ("git", "-C", str(Path(__file__).parent), *arguments)
    mine = {name: value for name, value in os.environ.items() if name not in _NAMES_A_REPOSITORY}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=mine)  # noqa: S603 # fixed arguments
    return done.stdout.strip()
