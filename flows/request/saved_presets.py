"""Saved presets: a file in the current directory, which `--preset` reads too."""

import fcntl
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from dqn.config import ConfigError, DQNConfig
from dqn.presets import PRESETS, PresetName
from flows.request.general import GENERAL

FILE: Final = Path("presets.json")


def check_name(name: str) -> None:
    """Refuse an invalid name of a preset.

    Raises:
        ConfigError: with the rule for names.
    """
    shipped = (*PRESETS, GENERAL)
    if name in shipped or not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", name):
        raise ConfigError(
            f"a preset of your own has small letters, digits, - and _, and is not {', '.join(shipped)}; got {name!r}"
        )


def save_preset(name: str, preset: PresetName, config: DQNConfig) -> Path:
    """Save a configuration as its differences from a shipped preset. Returns the file."""
    check_name(name)
    changes = {key: value for key, value in config.to_dict().items() if value != PRESETS[preset].to_dict()[key]}
    with _alone():
        saved = {**_read(), name: {"preset": preset, "changes": changes}}
        beside = FILE.with_suffix(".json.new")
        beside.write_text(json.dumps(saved, indent=2) + "\n")
        beside.replace(FILE)
    return FILE.absolute()


def read_preset(name: str) -> tuple[PresetName, DQNConfig] | None:
    """The shipped preset that a saved one is based on, and the configuration; None if no saved preset has this name.

    Raises:
        ConfigError: if the file has a configuration that cannot be trained.
    """
    saved = _read().get(name)
    if saved is None:
        return None
    try:
        shipped: PresetName = saved["preset"]
        return shipped, DQNConfig.from_dict({**PRESETS[shipped].to_dict(), **saved["changes"]})
    except (KeyError, TypeError) as error:
        raise ConfigError(f"preset {name!r} in {FILE.absolute()} names no preset and its changes ({error})") from error


def own_presets() -> list[str]:
    """Names of the presets that are saved in the current directory."""
    return list(_read())


@contextmanager
def _alone() -> Iterator[None]:
    """A block that one process at a time is in. It locks the directory, because the file itself is replaced."""
    directory = os.open(FILE.parent, os.O_RDONLY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        yield
    finally:
        os.close(directory)


def _read() -> dict[str, Any]:
    if not FILE.exists():
        return {}
    try:
        content = json.loads(FILE.read_text())
    except ValueError as error:
        raise ConfigError(f"{FILE.absolute()} is not JSON ({error}); repair or remove it") from error
    return dict(content)
