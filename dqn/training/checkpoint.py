"""Training states and trained networks as files; the only file access in dqn."""

import contextlib
import fcntl
import glob
import hashlib
import io
import json
import os
import struct
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from dqn.config import ConfigError, DQNConfig
from dqn.environments.snapshot import SnapshotError
from dqn.experience.buffer import ReplayBuffer
from dqn.experience.replay import MakeReplay
from dqn.hyperparameters import HyperParameters
from dqn.networks.bodies.module import MakeModule
from dqn.networks.making import body_of, head_of
from dqn.networks.population import QNetworks
from dqn.training.fits import Factory
from dqn.training.state import TrainingState

# File layout: this line, the content as written by `torch.save`, the pickled environments, the rows of the replay
# buffer, the sizes of the first two parts, and the SHA-256 of everything before it.
_FORMAT: Final = b"dqn-training-state/10\n"
_SIZES: Final = struct.Struct("<QQ")
_READ_BYTES: Final = 2**20


class CheckpointError(Exception):
    """A checkpoint that cannot be used or written; the message names the file and the reason."""


def save_checkpoint(path: Path, state: TrainingState, *, may_replace: Callable[[], bool] = lambda: True) -> None:
    """Write the whole training state. Readers see the previous checkpoint or this one, never a part.

    Args:
        path: the file.
        state: the state to write.
        may_replace: called when everything is written, just before this checkpoint replaces the previous one; if it
            returns False, the previous one is kept.

    Raises:
        CheckpointError: if the file cannot be written (a full disk, a read-only directory); the previous one is kept.
    """
    content: dict[str, Any] = {
        "config": json.dumps(state.config.to_dict()),
        "hyperparameters": state.hyperparameters.state_dict(),
        "state": state.state_dict(),
    }
    environments = content["state"]["environment"].pop("envs") or b""
    packed = io.BytesIO()  # torch.save to the file would swallow a signal handler's exception
    torch.save(content, packed)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(path)
        with _replacing(path, may_replace) as file:
            file.write(_FORMAT)
            file.write(packed.getbuffer())
            file.write(environments)
            for chunk in state.replay.chunks():
                file.write(chunk.cpu().numpy())
            file.write(_SIZES.pack(packed.getbuffer().nbytes, len(environments)))
            file.write(file.digest.digest())
    except OSError as error:
        kept = "the previous one is intact" if path.exists() else "there was none before"
        raise CheckpointError(f"checkpoint {path} could not be written ({error}); {kept}") from error


def load_checkpoint(
    path: Path,
    config: DQNConfig | None = None,
    *,
    env: Factory | None = None,
    body: MakeModule | None = None,
    replay: MakeReplay = ReplayBuffer,
) -> tuple[TrainingState, bool]:
    """Read a training state.

    Args:
        path: a file written by `save_checkpoint`.
        config: if given, the configuration that the checkpoint must have.
        env: makes the environments, as it did when the training began.
        body: the `body` that `train` was given.
        replay: the `replay` that `train` was given.

    Returns:
        The state, and whether the environments continue in mid-episode. False if their state could not be captured;
            their episodes then start again.

    Raises:
        CheckpointError: if the file is missing, damaged, of another user, of another version or of another
            configuration.
    """
    try:
        file = path.open("rb")
    except FileNotFoundError:
        raise CheckpointError(f"there is no checkpoint {path}") from None
    except OSError as error:
        raise CheckpointError(f"checkpoint {path} cannot be read ({error.strerror})") from error
    with file, contextlib.ExitStack() as opened:
        content_bytes, environment_bytes = _check(path, file)
        content = torch.load(io.BytesIO(file.read(content_bytes)), weights_only=True)
        try:
            saved = DQNConfig.from_dict(json.loads(content["config"]))
        except ConfigError as error:
            raise CheckpointError(f"{path} has a configuration that this version cannot train: {error}") from error
        if config is not None and saved != config:
            differing = [name for name, value in saved.to_dict().items() if config.to_dict()[name] != value]
            raise CheckpointError(f"{path} belongs to another configuration: {', '.join(differing)} differ")
        values = HyperParameters.from_state_dict(content["hyperparameters"])
        state = TrainingState.begin(saved, values, env=env, body=body, replay=replay)
        opened.callback(state.environment.close)
        content["state"]["environment"]["envs"] = file.read(environment_bytes) or None
        try:
            continues = state.load_state_dict(content["state"])
        except SnapshotError as error:
            raise CheckpointError(
                f"{path} has environments that this version of {saved.env_id} cannot continue: {error}"
            ) from error
        except RuntimeError as error:  # tensors of other names or shapes
            raise CheckpointError(f"{path} has networks with another body: pass the `body` of its training") from error
        for chunk in state.replay.chunks():
            rows = torch.frombuffer(bytearray(file.read(chunk.nbytes)), dtype=chunk.dtype)
            chunk.copy_(rows.view_as(chunk))
        opened.pop_all()
    return state, continues


def save_networks(directory: Path, networks: QNetworks, config: DQNConfig) -> None:
    """Write trained networks as `networks.safetensors`, and their configuration as `config.json`.

    The observation's shape is that of the scale.
    """
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config.to_dict(), indent=2) + "\n")
    tensors = {name: tensor.detach().contiguous() for name, tensor in networks.state_dict().items()}
    tensors["observation_scale"] = tensors["observation_scale"].view(networks.body.observation_shape)
    save_file(tensors, directory / "networks.safetensors")


def load_networks(directory: Path, *, body: MakeModule | None = None) -> tuple[QNetworks, DQNConfig]:
    """Inverse of `save_networks`; `body` is the one that `train` was given.

    Raises:
        CheckpointError: if a file is missing or damaged, or the files do not fit each other.
    """
    try:
        config = DQNConfig.from_dict(json.loads((directory / "config.json").read_text()))
        tensors = load_file(directory / "networks.safetensors")
        weights, biases = (
            [tensors[f"{kind}.{k}"] for k in range(sum(name.startswith(kind) for name in tensors))]
            for kind in ("weights", "biases")
        )
        made, head = body_of(config, tuple(tensors["observation_scale"].shape), body), head_of(config)
        if made.num_parameters != sum(tensor[0].numel() for tensor in (*weights[:-1], *biases[:-1])):
            raise ValueError("they have another body: pass the `body` of their training")
        scale = tensors["observation_scale"].flatten()
        return QNetworks(weights, biases, scale, body=made, head=head, dueling=config.dueling), config
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise CheckpointError(f"{directory} has no trained networks ({error})") from error


class _Digesting:
    """A file that computes the SHA-256 of what is written to it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def write(self, data: Any) -> None:
        """Write a bytes-like object."""
        self._file.write(data)
        self.digest.update(data)


@contextlib.contextmanager
def _replacing(path: Path, may_replace: Callable[[], bool]) -> Iterator[_Digesting]:
    """A temporary file next to `path`, which replaces it once it is complete and on disk, or is removed.

    The writer holds a lock on the temporary file. An unlocked one belongs to a process that has died.
    """
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # mode 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            with contextlib.suppress(OSError):  # file system without locks: leftovers stay
                fcntl.flock(file, fcntl.LOCK_EX)
            yield _Digesting(file)
            file.flush()
            os.fsync(file.fileno())
            if may_replace():
                Path(name).replace(path)
                _sync_directory(path.parent)
    finally:
        with contextlib.suppress(OSError):  # already renamed; and the first error matters
            Path(name).unlink()


def _remove_leftovers(path: Path) -> None:
    """Remove temporary files that dead processes left next to `path`."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*"):
        with (
            contextlib.suppress(OSError),
            leftover.open("r+b") as file,
        ):  # removed, or locked by its writer
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            leftover.unlink()


def _check(path: Path, file: BinaryIO) -> tuple[int, int]:
    """Check owner, format and digest; return the sizes of the content and of the environments.

    Afterwards `file` is positioned at the start of the content. Unpickling the environments runs code from the file.
    The file is therefore read only if it belongs to this process's user and no other user may write it. The process's
    own group may write it, because Kubernetes assigns that group to all files of a volume with an fsGroup. The digest
    protects against damage, not against attacks.
    """
    status = os.fstat(file.fileno())
    if file.read(len(_FORMAT)) != _FORMAT:
        raise CheckpointError(f"{path} is not a checkpoint of this version (expected {_FORMAT.decode().strip()})")
    others_write = status.st_mode & 0o002 or (status.st_mode & 0o020 and status.st_gid != os.getegid())
    if status.st_uid != os.geteuid() or others_write:
        raise CheckpointError(
            f"checkpoint {path} is not this user's alone (owner {status.st_uid}, this is {os.geteuid()}; mode "
            f"{status.st_mode & 0o777:o}) and could run another user's code: if you trust it, chown it and chmod go-w"
        )
    digest = hashlib.sha256(_FORMAT)
    left = status.st_size - len(_FORMAT) - digest.digest_size
    while left > _SIZES.size and (data := file.read(min(left - _SIZES.size, _READ_BYTES))):
        digest.update(data)
        left -= len(data)
    sizes = file.read(_SIZES.size)
    digest.update(sizes)
    if file.read() != digest.digest():
        raise CheckpointError(f"checkpoint {path} is torn or damaged: its digest does not match its content")
    file.seek(len(_FORMAT))
    content_bytes, environment_bytes = _SIZES.unpack(sizes)
    return content_bytes, environment_bytes


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
