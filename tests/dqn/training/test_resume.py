"""Every preset is killed while it saves, and goes on from the file."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from dqn.config import DQNConfig
from dqn.presets import PRESETS, PresetName
from dqn.training.checkpoint import load_checkpoint, save_checkpoint
from dqn.training.loop import train
from tests.support.dqn.training import equal

pytestmark = pytest.mark.slow


def short(preset: PresetName) -> DQNConfig:
    """The preset with all it switches on, made short and small."""
    config = PRESETS[preset]
    updates = config.updates_per_step
    return dataclasses.replace(
        config,
        num_agents=2,
        num_envs=min(config.num_envs, 4),
        hidden_sizes=(8,) * len(config.hidden_sizes),
        replay_capacity=300,
        batch_size=8,
        min_replay_batches=2,
        max_updates=80 * updates,
        max_episodes=4 if config.max_episodes else 0,
        learning_rate_decay_updates=min(config.learning_rate_decay_updates, 60),
        epsilon_decay_updates=min(config.epsilon_decay_updates, 60),
        target_update_episodes=min(config.target_update_episodes, 2),
        eval_start=30 * updates,
        eval_interval=20 * updates,
        eval_episodes=2,
        acceptance_return=config.acceptance_return and 9.0,
        acceptance_episodes=2,
        checkpoint_interval=0.0,
    )


KILLED_WHILE_SAVING = """
import os, signal, sys
from pathlib import Path
from dqn.training.checkpoint import save_checkpoint
from dqn.presets import PRESETS
from dqn.training.loop import train
from tests.dqn.training.test_resume import short

flush, flushed = os.fsync, 0

def fsync(descriptor):
    global flushed
    flushed += 1
    if flushed == 27:  # two a checkpoint, the file's and its directory's: this one is about to take its place
        os.kill(os.getpid(), signal.SIGKILL)
    flush(descriptor)

for preset in PRESETS.keys() - {"minatar"}:
    child = os.fork()
    if not child:
        os.fsync = fsync
        path = Path(sys.argv[1]) / preset / "run.ckpt"
        saves = 0
        def save(state):
            global saves
            saves += 1
            if saves < 8 or saves % 4 == 0:
                save_checkpoint(path, state)
        train(short(preset), on_checkpoint=save, now=lambda: 0.0)  # a clock by which saving takes no time
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL, (preset, status)
"""


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory for each preset, with what a training left that was killed in mid-save."""
    directory = tmp_path_factory.mktemp("killed")
    subprocess.run([sys.executable, "-c", KILLED_WHILE_SAVING, str(directory)], check=True)
    return directory


@pytest.mark.parametrize("preset", [name for name in PRESETS if name != "minatar"])  # its package is no requirement
def test_every_preset_goes_on_from_the_file_as_if_it_had_not_been_killed(killed: Path, preset: PresetName) -> None:
    config, path = short(preset), killed / preset / "run.ckpt"
    assert len(list(path.parent.glob(".run.ckpt.*"))) == 1  # the one that was being written
    state, continues = load_checkpoint(path, config)
    assert state.environment_steps > 0
    save_checkpoint(path, state)
    assert [left.name for left in path.parent.iterdir()] == ["run.ckpt"]
    unbroken, resumed = train(config), train(config, state=state)
    if preset == "lunarlander":  # Box2D's objects cannot be captured: episodes start afresh, but the same each time
        assert not continues
        assert state.environment.not_capturable is not None
        assert equal(resumed, train(config, state=load_checkpoint(path, config)[0]))
        assert [agent.updates for agent in resumed.agents] == [agent.updates for agent in unbroken.agents]
        return
    assert continues
    assert equal(resumed, unbroken)
