"""Where networks and replay buffers live, and how many threads compute."""

import ctypes
import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import torch

from dqn.config import ConfigError, DQNConfig
from dqn.experience.buffer import replay_bytes
from dqn.experience.priorities import leaves
from dqn.training.milestones import number_of_milestones


def require_device(name: str) -> torch.device:
    """The PyTorch device of that name.

    Raises:
        ConfigError: if there is none such, or this machine or this build of PyTorch does not have it.
    """
    try:
        return torch.zeros(1, device=name).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise ConfigError(
            f"device {name!r} cannot be used: {reason}; choose cpu, or cuda where PyTorch and a GPU are there for it"
        ) from error


@contextmanager
def torch_threads(number: int) -> Iterator[None]:
    """Compute with this many PyTorch threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


_CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))  # v2, v1


# Of each network: online, target, average, best, final, gradient and two moments; five more of them for a while, where
# agents leave or a checkpoint is read; and its milestones.
_COPIES: Final = 13


def memory_limit() -> int:
    """Bytes of memory this process may use: the machine's, or its container's where that is less."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limits = [path.read_text().strip() for path in _CGROUP_LIMITS if path.exists()]
    return min([machine, *(int(limit) for limit in limits if limit.isdecimal())])  # v2 says "max" where there is none


def policy_bytes(config: DQNConfig, *, observation_size: int, num_actions: int) -> int:
    """The least that the exported policy's weights take, in bytes."""
    sizes = (observation_size, *config.hidden_sizes, num_actions)
    return 4 * sum((inputs + 1) * outputs for inputs, outputs in itertools.pairwise(sizes))


def training_bytes(config: DQNConfig, *, observation_size: int, num_actions: int) -> int:
    """The most that training takes at once, in bytes, besides the program and the environments' own objects.

    Neither a checkpoint nor an agent that leaves needs a second copy of the replay buffer's rows; of the priorities, an
    agent that leaves does.
    """
    A = config.num_agents
    sizes = (observation_size, *config.hidden_sizes, (num_actions + config.dueling) * config.num_quantiles)
    parameters = sum((inputs + 1) * outputs for inputs, outputs in itertools.pairwise(sizes))
    replay = replay_bytes(
        num_agents=A, capacity=config.replay_capacity, obs=observation_size, prioritised=config.priority_exponent > 0
    )
    copied = A * 2 * leaves(config.replay_capacity) * 4 if config.priority_exponent else 0
    pending = A * config.num_envs * config.n_step * (2 * observation_size + 6) * 4
    at_once = max(config.batch_size, config.num_envs, config.eval_episodes, config.acceptance_episodes)
    activations = 2 * A * at_once * sum(sizes) * 4
    copies = _COPIES + number_of_milestones(config)
    return replay + copied + pending + activations + copies * A * parameters * 4


def require_memory(config: DQNConfig, *, observation_size: int, num_actions: int) -> str:
    """How much of this machine's memory training takes at most, as a sentence.

    Raises:
        MemoryError: if it is more than this machine has.
    """
    needed = training_bytes(config, observation_size=observation_size, num_actions=num_actions)
    limit = memory_limit()
    if needed > limit:
        raise MemoryError(
            f"training, most of it the replay buffers, would take {_size(needed)} and this machine has {_size(limit)}; "
            "lower replay_capacity or num_agents"
        )
    return f"training takes up to {_size(needed)} of the machine's {_size(limit)} of memory"


def release_memory() -> None:
    """Give memory that is not in use back to the system, where the C library can be asked to (glibc).

    Where glibc is older than 2.38, blocks that were aligned, as PyTorch's are, and are free again are hardly used again
    (its bug 14581): among the short-lived objects of LunarLander a population of 16 grows by 80 MB in 100 updates.
    """
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)


def _size(size: int) -> str:
    return f"{size / 2**20:.0f} MiB" if size < 2**30 else f"{size / 2**30:.1f} GiB"
