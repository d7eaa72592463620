import fcntl
import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import torch

from dqn.config import DQNConfig
from dqn.training.checkpoint import (
    CheckpointError,
    _Digesting,
    load_checkpoint,
    load_networks,
    save_checkpoint,
    save_networks,
)
from dqn.training.loop import train
from dqn.training.state import TrainingState
from dqn.training.steps import advance
from tests.support.dqn import awkward

Make = Callable[..., DQNConfig]


@pytest.fixture
def checkpoint(small_config: Make, tmp_path: Path) -> Path:
    path = tmp_path / "run.ckpt"
    save_checkpoint(path, TrainingState.begin(small_config()))
    return path


@pytest.mark.parametrize("share", [0.0, 0.0005, 0.3, 0.99])
def test_a_torn_checkpoint_is_refused_by_name(checkpoint: Path, share: float) -> None:
    whole = checkpoint.read_bytes()
    checkpoint.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(CheckpointError, match=r"run\.ckpt is (torn or damaged|not a checkpoint of this version)"):
        load_checkpoint(checkpoint)


@pytest.mark.slow
def test_whichever_byte_is_damaged_cut_off_or_added_the_checkpoint_is_refused(checkpoint: Path) -> None:
    whole = checkpoint.read_bytes()
    pickled = whole.index(b"CartPoles")
    ends = [*range(200), *range(pickled - 50, pickled + 50), *range(len(whole) - 200, len(whole))]
    for position in {*ends, *range(0, len(whole), len(whole) // 700)}:
        for damaged in (
            whole[:position] + bytes([whole[position] ^ (1 << position % 8)]) + whole[position + 1 :],
            whole[:position],
            whole[:position] + b"x" + whole[position:],
        ):
            checkpoint.write_bytes(damaged)
            with pytest.raises(
                CheckpointError, match=r"run\.ckpt is (torn or damaged|not a checkpoint of this version)"
            ):
                load_checkpoint(checkpoint)
    checkpoint.write_bytes(whole)
    load_checkpoint(checkpoint)


class Mine:
    """Leaves a trace where it is unpickled."""

    def __reduce__(self) -> Any:
        return Path.touch, (Path("unpickled"),)


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_what_others_could_have_written_is_not_unpickled(
    checkpoint: Path, mode: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(checkpoint.parent)
    state = TrainingState.begin(load_checkpoint(checkpoint)[0].config)
    state.environment._envs = Mine()  # type: ignore[assignment] # stands for whatever a stranger would have run
    save_checkpoint(checkpoint, state)
    assert stat.S_IMODE(checkpoint.stat().st_mode) == 0o600
    checkpoint.chmod(mode)
    own_group = os.getegid()
    monkeypatch.setattr(
        "dqn.training.checkpoint.os.getegid", lambda: own_group + 1
    )  # the file's group has other members
    with pytest.raises(CheckpointError, match=rf"not this user's alone .*mode {mode:o}.*chown it and chmod go-w"):
        load_checkpoint(checkpoint)
    checkpoint.chmod(0o644)
    monkeypatch.setattr("dqn.training.checkpoint.os.geteuid", lambda: os.getuid() + 1)
    with pytest.raises(CheckpointError, match="not this user's alone"):
        load_checkpoint(checkpoint)
    assert not Path("unpickled").exists()
    monkeypatch.undo()
    monkeypatch.chdir(checkpoint.parent)
    checkpoint.chmod(0o660)  # as Kubernetes' fsGroup leaves it
    with pytest.raises(AttributeError):
        load_checkpoint(checkpoint)[0].environment.step(torch.zeros(3, 4))
    assert Path("unpickled").exists()  # the stranger would have run


def test_environments_of_another_version_are_refused(
    tmp_path: Path, small_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    gym.register("Text-v1", awkward.Text, max_episode_steps=20)  # type: ignore[arg-type] # takes no arguments
    try:
        save_checkpoint(tmp_path / "run.ckpt", TrainingState.begin(small_config(env_id="Text-v1")))
        monkeypatch.delattr(awkward, "Text")
        with pytest.raises(CheckpointError, match="environments that this version of Text-v1 cannot continue: Attrib"):
            load_checkpoint(tmp_path / "run.ckpt")
    finally:
        gym.registry.pop("Text-v1")


def test_what_dead_writers_left_is_removed_and_what_is_being_written_stays(
    checkpoint: Path, small_config: Make
) -> None:
    directory = checkpoint.parent
    (directory / ".run.ckpt.123").write_bytes(b"of a process that is dead")
    (directory / ".other.ckpt.123").write_bytes(b"of another run")
    living = directory / ".run.ckpt.456"
    with living.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        save_checkpoint(checkpoint, TrainingState.begin(small_config()))
    assert sorted(path.name for path in directory.iterdir()) == [".other.ckpt.123", ".run.ckpt.456", "run.ckpt"]


def test_a_checkpoint_that_is_being_written_is_locked(checkpoint: Path, small_config: Make) -> None:
    def another_writer() -> bool:
        (unfinished,) = checkpoint.parent.glob(".run.ckpt.*")
        with unfinished.open("r+b") as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True

    save_checkpoint(checkpoint, TrainingState.begin(small_config()), may_replace=another_writer)
    assert [path.name for path in checkpoint.parent.iterdir()] == ["run.ckpt"]


def test_a_checkpoint_is_on_disk_before_it_takes_its_place(
    tmp_path: Path, small_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, state = tmp_path / "new" / "deep" / "run.ckpt", TrainingState.begin(small_config())
    order = list[tuple[str, bool]]()

    def fsync(descriptor: int) -> None:
        status = os.fstat(descriptor)
        order.append(("directory" if stat.S_ISDIR(status.st_mode) else f"{status.st_size} bytes", path.exists()))

    monkeypatch.setattr("dqn.training.checkpoint.os.fsync", fsync)
    save_checkpoint(path, state)
    size = path.stat().st_size
    assert order == [(f"{size} bytes", False), ("directory", True)]
    before = path.read_bytes()
    state.environment_steps += 1
    save_checkpoint(path, state, may_replace=lambda: False)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["run.ckpt"]


def test_foreign_files_are_refused_by_name(tmp_path: Path, small_config: Make) -> None:
    path = tmp_path / "other.ckpt"
    with pytest.raises(CheckpointError, match=r"there is no checkpoint .*other\.ckpt"):
        load_checkpoint(path)
    with pytest.raises(CheckpointError, match=r"checkpoint .* cannot be read \(Is a directory\)"):
        load_checkpoint(tmp_path)
    torch.save({"weights": torch.zeros(3)}, path)
    with pytest.raises(CheckpointError, match=r"other\.ckpt is not a checkpoint of this version"):
        load_checkpoint(path)
    torch.save(torch.nn.Linear(1, 1), path)
    with pytest.raises(CheckpointError, match=r"other\.ckpt is not a checkpoint"):
        load_checkpoint(path)


def test_a_checkpoint_of_another_configuration_is_refused(checkpoint: Path, small_config: Make) -> None:
    with pytest.raises(CheckpointError, match="belongs to another configuration: seed, learning_rate differ"):
        load_checkpoint(checkpoint, small_config(seed=5, learning_rate=0.5))


FULL_DISK = """
import resource, sys
from pathlib import Path
from dqn.training.checkpoint import CheckpointError, _Digesting, load_checkpoint, save_checkpoint
path = Path(sys.argv[1])
state, _ = load_checkpoint(path)
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
try:
    save_checkpoint(path, state)
except CheckpointError as error:
    print(error)
"""


def test_a_full_disk_leaves_the_previous_checkpoint(checkpoint: Path) -> None:
    before = checkpoint.read_bytes()
    process = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(checkpoint)], capture_output=True, text=True, check=True
    )
    assert "run.ckpt could not be written" in process.stdout
    assert "the previous one is intact" in process.stdout
    assert checkpoint.read_bytes() == before
    assert [path.name for path in checkpoint.parent.iterdir()] == ["run.ckpt"]


@pytest.mark.parametrize("write", range(1, 8))
def test_an_interrupted_write_raises_the_interrupt_and_keeps_the_previous_checkpoint(
    checkpoint: Path, small_config: Make, monkeypatch: pytest.MonkeyPatch, write: int
) -> None:
    before, state, written = checkpoint.read_bytes(), TrainingState.begin(small_config()), 0
    writes = _Digesting.write

    def interrupted(file: _Digesting, data: Any) -> None:
        nonlocal written
        written += 1
        if written == write:
            raise KeyboardInterrupt
        writes(file, data)

    advance(state, 20)
    monkeypatch.setattr(_Digesting, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(checkpoint, state)
    assert checkpoint.read_bytes() == before
    assert [path.name for path in checkpoint.parent.iterdir()] == ["run.ckpt"]


def test_an_unwritable_place_is_one_sentence(tmp_path: Path, small_config: Make) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CheckpointError, match=r"file/run\.ckpt could not be written .*there was none before"):
        save_checkpoint(tmp_path / "file" / "run.ckpt", TrainingState.begin(small_config()))


def test_episodes_start_afresh_where_the_environment_cannot_be_captured(small_config: Make, tmp_path: Path) -> None:
    config = small_config(env_id="LunarLander-v3", num_agents=1, num_envs=2, max_updates=5)
    save_checkpoint(tmp_path / "run.ckpt", TrainingState.begin(config))
    state, continues = load_checkpoint(tmp_path / "run.ckpt", config)
    assert not continues
    assert train(config, state=state).agents[0].updates == 5


@pytest.mark.parametrize("num_quantiles", [1, 3])
def test_trained_networks_survive_saving(small_config: Make, tmp_path: Path, num_quantiles: int) -> None:
    config = small_config(observation_scale=(1.0, 2.0, 3.0, 4.0), num_quantiles=num_quantiles)
    result = train(config, loss=lambda outputs, *_: outputs.square().mean((2, 3)))
    save_networks(tmp_path / "trained", result.best, result.config)
    networks, config = load_networks(tmp_path / "trained")
    assert config == result.config
    observation = torch.randn(3, 7, 4)
    assert torch.equal(networks(observation), result.best(observation))


def test_networks_that_are_not_there_or_torn_are_refused(small_config: Make, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="has no trained networks"):
        load_networks(tmp_path)
    result = train(small_config(max_updates=1))
    save_networks(tmp_path, result.best, result.config)
    tensors = tmp_path / "networks.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match="has no trained networks"):
        load_networks(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["num_agents"] == 3
