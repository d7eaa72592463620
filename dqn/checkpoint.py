"""Training states and trained networks as files: the only file access in dqn."""

import contextlib
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from dqn.config import ConfigError, DQNConfig
from dqn.network import QNetworks
from dqn.state import TrainingState

_FORMAT: Final = "dqn-training-state/3"


class CheckpointError(Exception):
    """A file that is no usable checkpoint of the run in question; the message names it and says why."""


def save_checkpoint(path: Path, state: TrainingState, *, may_replace: Callable[[], bool] = lambda: True) -> None:
    """Write the whole training state; readers see the previous checkpoint or this one, never a part.

    Args:
        path: the file.
        state: what is written.
        may_replace: asked when all is written, right before this checkpoint takes the place of the previous one; if it
            says no, that stays.

    Raises:
        CheckpointError: if it cannot be written (a full disk, a read-only directory); what stood there before stays.
    """
    content = {"format": _FORMAT, "config": json.dumps(state.config.to_dict()), "state": state.state_dict()}
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        if not may_replace():
            temporary.unlink()
            return
        temporary.replace(path)
        _sync_directory(path.parent)
    except (OSError, RuntimeError) as error:  # torch reports a failed write as RuntimeError
        with contextlib.suppress(OSError):  # what prevented the writing may prevent this; the first error counts
            temporary.unlink()
        kept = "the previous one is intact" if path.exists() else "there was none before"
        raise CheckpointError(f"checkpoint {path} could not be written ({error}); {kept}") from error


def load_checkpoint(path: Path, config: DQNConfig | None = None) -> tuple[TrainingState, bool]:
    """Read a training state back.

    Args:
        path: what `save_checkpoint` wrote.
        config: if given, the configuration the checkpoint must be of.

    Returns:
        The state, and whether the environments continue in mid-episode: False where their state could not be captured
        and their episodes start afresh.

    Raises:
        CheckpointError: if the file is missing, torn, not a checkpoint of this version, or of another configuration.
    """
    content = _read(path)
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise CheckpointError(f"{path} is not a checkpoint of this version (expected format {_FORMAT})")
    try:
        saved = DQNConfig.from_dict(json.loads(content["config"]))
    except ConfigError as error:
        raise CheckpointError(f"{path} holds a configuration this version cannot train: {error}") from error
    if config is not None and saved != config:
        differing = [name for name, value in saved.to_dict().items() if config.to_dict()[name] != value]
        raise CheckpointError(f"{path} belongs to another configuration: {', '.join(differing)} differ")
    state = TrainingState(saved)
    return state, state.load_state_dict(content["state"])


def save_networks(directory: Path, networks: QNetworks, config: DQNConfig) -> None:
    """Write trained networks as `networks.safetensors`, with `config.json` beside them."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config.to_dict(), indent=2) + "\n")
    tensors = {name: tensor.detach().contiguous() for name, tensor in networks.state_dict().items()}
    save_file(tensors, directory / "networks.safetensors")


def load_networks(directory: Path) -> tuple[QNetworks, DQNConfig]:
    """Inverse of `save_networks`.

    Raises:
        CheckpointError: if a file is missing, torn or does not fit the other.
    """
    try:
        config = DQNConfig.from_dict(json.loads((directory / "config.json").read_text()))
        tensors = load_file(directory / "networks.safetensors")
        layers = range(len(config.hidden_sizes) + 1)
        weights = [tensors[f"weights.{layer}"] for layer in layers]
        biases = [tensors[f"biases.{layer}"] for layer in layers]
        return QNetworks(weights, biases, tensors["observation_scale"], dueling=config.dueling), config
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise CheckpointError(f"{directory} holds no trained networks ({error})") from error


def _read(path: Path) -> Any:
    """The content of a checkpoint file; every byte is checked against the archive's checksums first."""
    if not path.exists():
        raise CheckpointError(f"there is no checkpoint {path}")
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except zipfile.BadZipFile as error:
        raise CheckpointError(f"checkpoint {path} is torn or no checkpoint ({error})") from error
    if damaged:
        raise CheckpointError(f"checkpoint {path} is damaged at {damaged}")
    try:
        return torch.load(path, weights_only=True)
    except Exception as error:  # any unreadable content, from pickle, zip or torch itself
        raise CheckpointError(f"{path} is not a checkpoint ({error})") from error


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
