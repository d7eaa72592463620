import ctypes
import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dqn.config import DQNConfig
from dqn.environments.spaces import Spaces
from dqn.experience.buffer import replay_bytes
from dqn.experience.vector import describe
from dqn.training import machine
from dqn.training.machine import memory_limit, release_memory, require_memory, training_bytes
from dqn.training.milestones import milestones_due
from dqn.training.state import TrainingState
from dqn.training.steps import advance
from tests.support.dqn.masked import CORRIDOR


def test_a_containers_limit_counts_where_it_is_less_than_the_machines(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = tmp_path / "limit"
    monkeypatch.setattr(machine, "_CGROUP_LIMITS", (limit, tmp_path / "missing"))
    assert memory_limit() == whole
    for content, expected in (("max\n", whole), ("1000000\n", 1_000_000), (f"{2**63 - 4096}\n", whole)):
        limit.write_text(content)
        assert memory_limit() == expected


def test_sizes_are_said_in_units_that_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "memory_limit", lambda: 3 * 2**29)
    for needed, size in ((13 * 2**20, "13 MiB"), (2**30 - 2**20, "1023 MiB"), (2**30, "1.0 GiB")):
        monkeypatch.setattr(machine, "training_bytes", lambda *_, needed=needed, **__: needed)
        said = require_memory(SMALL, SPACES)
        assert said == f"training takes up to {size} of the machine's 1.5 GiB of memory"


SPACES = Spaces(observation_shape=(4,), num_actions=2)
SMALL = DQNConfig(
    num_agents=4,
    num_envs=4,
    hidden_sizes=(16,),
    batch_size=16,
    replay_capacity=400,
    max_updates=60,
    eval_interval=10,
    eval_episodes=2,
    acceptance_return=9.0,
    acceptance_episodes=2,
)

# A training with full replay buffers, saved and loaded again. Something small first, for what the program itself takes.
TRAINED_AND_RESUMED = """
import json, sys
from pathlib import Path
import torch
from dqn.training.checkpoint import load_checkpoint, save_checkpoint
from dqn.config import DQNConfig
from dqn.experience.transitions import Batch
from dqn.training.state import TrainingState
from dqn.training.loop import train
from tests.support.dqn import masked, probes, spaces

def fill(state):
    config, obs, like = state.config, state.environment.observation_size, state.environment.observation
    shape = config.num_agents, min(config.replay_capacity, 1_000, 200_000 // obs)
    observation = torch.ones(*shape, obs, dtype=like.dtype)
    batch = Batch(
        observation=observation, action=torch.zeros(shape, dtype=torch.int64), reward=torch.rand(shape),
        next_observation=observation, discount=torch.rand(shape),
        next_mask=torch.ones(*shape, size, dtype=torch.bool) if (size := state.environment.spaces.mask_size) else None,
    )
    for _ in range(-(-config.replay_capacity // shape[1])):
        state.replay.insert(batch, torch.ones(shape, dtype=torch.bool))

def run(config, path):
    state = TrainingState.begin(config)
    fill(state)
    save_checkpoint(path, state)
    train(config, state=state)
    del state
    load_checkpoint(path)

def peak():
    # Not ru_maxrss, which begins with that of the process that started this one.
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024

for module in (masked, probes, spaces):
    module.register()
torch.set_num_threads(1)
small, large = (DQNConfig.from_dict(fields) for fields in json.loads(sys.argv[1]))
run(small, Path(sys.argv[2]))
before = peak()
run(large, Path(sys.argv[2]))
print(peak() - before)
"""


def test_quantiles_widen_the_last_layer() -> None:
    def taken(num_quantiles: int, dueling: bool) -> int:
        config = dataclasses.replace(SMALL, hidden_sizes=(7,), num_quantiles=num_quantiles, dueling=dueling)
        return training_bytes(config, SPACES)

    assert taken(3, True) == training_bytes(
        dataclasses.replace(SMALL, hidden_sizes=(7,)), dataclasses.replace(SPACES, num_actions=9)
    )
    assert taken(3, False) == taken(2, True)


def test_the_figure_is_the_sum_of_its_parts() -> None:
    config = dataclasses.replace(SMALL, n_step=3, batch_size=8, num_envs=5)
    parameters = (4 + 1) * 16 + (16 + 1) * 2
    kept = 13 + len(milestones_due(config.max_updates))
    rows = replay_bytes(num_agents=4, capacity=400, obs=4, prioritised=False)
    pending = 4 * 5 * 3 * (4 + 4 + 6) * 4
    expected = rows + pending + 2 * 4 * 8 * (4 + 16 + 2) * 4 + kept * 4 * parameters * 4
    assert training_bytes(config, SPACES) == expected
    copied = 4 * 2 * 512 * 4  # sums and minima of a tree of 512 leaves
    rows = replay_bytes(num_agents=4, capacity=400, obs=4, prioritised=True) - rows
    prioritised = dataclasses.replace(config, priority_exponent=0.6)
    assert training_bytes(prioritised, SPACES) == expected + rows + copied
    changes: dict[str, Any]
    for name in ("num_envs", "eval_episodes", "acceptance_episodes"):
        changes = {name: 9}
        wide = dataclasses.replace(config, **changes)
        more = 4 * 4 * 3 * (4 + 4 + 6) * 4 if name == "num_envs" else 0
        assert training_bytes(wide, SPACES) == expected + more + 2 * 4 * 22 * 4


@pytest.mark.parametrize(("needed", "said"), [(300 * 2**20, "300 MiB"), (2**30, "1.0 GiB"), (3 * 2**29, "1.5 GiB")])
def test_what_takes_all_of_the_memory_is_trained_and_a_byte_more_is_not(
    needed: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "training_bytes", lambda *_, **__: needed)
    monkeypatch.setattr(machine, "memory_limit", lambda: needed)
    sentence = require_memory(SMALL, SPACES)
    assert sentence == f"training takes up to {said} of the machine's {said} of memory"
    monkeypatch.setattr(machine, "memory_limit", lambda: needed - 1)
    with pytest.raises(MemoryError, match=f"would take {said} and this machine has .*; lower replay_capacity"):
        require_memory(SMALL, SPACES)


def of_frames(space: str) -> dict[str, Any]:
    return {"env_id": "Shown-image-v0", "env_kwargs": {"space": space}, "acceptance_return": None}


@pytest.mark.slow
@pytest.mark.parametrize(
    "fields",
    [
        {"replay_capacity": 2_000_000},
        {"replay_capacity": 1_500_000, "num_agents": 5, "acceptance_return": None},
        {"replay_capacity": 1_000_000, "priority_exponent": 0.6},
        {"replay_capacity": 2_500_000, "num_agents": 2, "hidden_sizes": (512, 512), "average_rate": 0.1},
        {"replay_capacity": 1_500_000, "env_id": CORRIDOR, "acceptance_return": None},
        {"replay_capacity": 10_000, **of_frames("frame")},
        {"replay_capacity": 10_000, **of_frames("frame of bits")},
        {"replay_capacity": 3_000, **of_frames("frame of floats")},
        {"replay_capacity": 10_000, "body": "conv", **of_frames("frame")},
    ],
    ids=[
        "agents leave",
        "agents stay",
        "priorities",
        "large networks",
        "masks",
        "bytes",
        "bits",
        "images of floats",
        "conv",
    ],
)
def test_the_figure_is_what_a_training_takes_at_most(tmp_path: Path, fields: dict[str, Any]) -> None:
    config = dataclasses.replace(SMALL, **fields)
    small = dataclasses.replace(SMALL, priority_exponent=config.priority_exponent)
    arguments = [json.dumps([small.to_dict(), config.to_dict()]), str(tmp_path / "run.ckpt")]
    process = subprocess.run(
        [sys.executable, "-c", TRAINED_AND_RESUMED, *arguments], capture_output=True, text=True, check=True
    )
    measured = int(process.stdout.split()[-1])
    assert measured > 200e6
    spaces = describe(config.environment)
    assert training_bytes(config, spaces) == pytest.approx(measured, rel=0.1)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="this C library cannot be asked to")
def test_memory_that_is_not_in_use_is_given_back() -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    blocks = [bytes([1]) * 60_000 for _ in range(1_000)]  # small enough for the heap
    last = blocks[-1]  # at its end, so that nothing below it is given back by itself
    del blocks[:]
    held = resident()
    release_memory()
    assert resident() < held - 30_000_000
    assert len(last) == 60_000


def test_a_long_training_gives_memory_back_every_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    released: list[int] = []
    state = TrainingState.begin(dataclasses.replace(SMALL, num_agents=1))
    monkeypatch.setattr("dqn.training.steps.release_memory", lambda: released.append(state.learner.updates))
    advance(state, 450)
    assert released == [200, 400]
