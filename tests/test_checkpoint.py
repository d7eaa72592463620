import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dqn.checkpoint import CheckpointError, load_checkpoint, load_networks, save_checkpoint, save_networks
from dqn.config import DQNConfig
from dqn.state import TrainingState
from dqn.training import train

Make = Callable[..., DQNConfig]


@pytest.fixture
def checkpoint(small_config: Make, tmp_path: Path) -> Path:
    path = tmp_path / "run.ckpt"
    save_checkpoint(path, TrainingState(small_config()))
    return path


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_torn_checkpoint_is_refused_by_name(checkpoint: Path, share: float) -> None:
    whole = checkpoint.read_bytes()
    checkpoint.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(CheckpointError, match=r"run\.ckpt is torn"):
        load_checkpoint(checkpoint)


def test_a_damaged_checkpoint_is_refused_by_name(checkpoint: Path) -> None:
    content = bytearray(checkpoint.read_bytes())
    content[len(content) // 2] ^= 0xFF
    checkpoint.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"run\.ckpt is (damaged|torn)"):
        load_checkpoint(checkpoint)


def test_foreign_files_are_refused_by_name(tmp_path: Path, small_config: Make) -> None:
    path = tmp_path / "other.ckpt"
    with pytest.raises(CheckpointError, match=r"there is no checkpoint .*other\.ckpt"):
        load_checkpoint(path)
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
from dqn.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
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


def test_an_unwritable_place_is_one_sentence(tmp_path: Path, small_config: Make) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CheckpointError, match=r"file/run\.ckpt could not be written .*there was none before"):
        save_checkpoint(tmp_path / "file" / "run.ckpt", TrainingState(small_config()))


def test_episodes_start_afresh_where_the_environment_cannot_be_captured(small_config: Make, tmp_path: Path) -> None:
    config = small_config(env_id="LunarLander-v3", num_agents=1, num_envs=2, max_updates=5)
    save_checkpoint(tmp_path / "run.ckpt", TrainingState(config))
    state, continues = load_checkpoint(tmp_path / "run.ckpt", config)
    assert not continues
    assert train(config, state=state).agents[0].updates == 5


def test_trained_networks_survive_saving(small_config: Make, tmp_path: Path) -> None:
    result = train(small_config(observation_scale=(1.0, 2.0, 3.0, 4.0)))
    save_networks(tmp_path / "trained", result.best, result.config)
    networks, config = load_networks(tmp_path / "trained")
    assert config == result.config
    observation = torch.randn(3, 7, 4)
    assert torch.equal(networks(observation), result.best(observation))


def test_networks_that_are_not_there_or_torn_are_refused(small_config: Make, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no trained networks"):
        load_networks(tmp_path)
    result = train(small_config(max_updates=1))
    save_networks(tmp_path, result.best, result.config)
    tensors = tmp_path / "networks.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match="holds no trained networks"):
        load_networks(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["num_agents"] == 3
