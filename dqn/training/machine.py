"""This machine's device, memory and threads."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np
import torch

from dqn.config import ConfigError, DQNConfig
from dqn.environments.spaces import Spaces
from dqn.experience.buffer import replay_bytes
from dqn.experience.priorities import leaves
from dqn.networks.bodies.body import Body
from dqn.networks.bodies.conv import KERNEL
from dqn.networks.making import body_of, head_of
from dqn.training.milestones import milestones_due


def require_device(name: str) -> torch.device:
    """The PyTorch device of that name.

    Raises:
        ConfigError: if there is no such device, or this machine or this build of PyTorch does not have it.
    """
    try:
        zero = torch.zeros(1, device=name)
        zero.item()  # PyTorch's device `meta` holds no values
        return zero.device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise ConfigError(
            f"device {name!r} cannot be used: {reason}; choose cpu, or cuda with a GPU and a PyTorch build for it"
        ) from error


@contextmanager
def torch_threads(number: int) -> Iterator[None]:
    """Use this many PyTorch threads inside the block; a single one takes numbers below the least normal float32 for 0.

    Where a gradient stays 0, Adam's first moment otherwise ends as such a number for good. In a network on sparse
    images two fifths of them do, and a step of AdamW takes twice as long, on some processors ten times. PyTorch sets
    this for the calling thread alone: with several, the thread that computes a number would decide whether it is kept.
    """
    threads, flushed = torch.get_num_threads(), not torch.tensor(1e-20).square().item()
    torch.set_num_threads(number)
    torch.set_flush_denormal(number == 1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_flush_denormal(flushed)


_CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))  # v2, v1


# Copies of each network: online, target, average, best, final, gradient and two moments; five more for a short time
# while agents leave or a checkpoint is read. Milestones come in addition.
_COPIES: Final = 13


def memory_limit() -> int:
    """Memory that this process may use, in bytes: the smaller of the machine's memory and the container's limit."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limits = [path.read_text().strip() for path in _CGROUP_LIMITS if path.exists()]
    return min([machine, *(int(limit) for limit in limits if limit.isdecimal())])  # v2 says "max" if there is no limit


def policy_bytes(config: DQNConfig, spaces: Spaces) -> int:
    """Minimum size of the exported policy's weights, in bytes."""
    body = body_of(config, spaces.observation_shape)
    return 4 * (body.num_parameters + (body.num_features + 1) * spaces.num_actions)


def training_bytes(config: DQNConfig, spaces: Spaces, body: Body | None = None) -> int:
    """Peak memory of training in bytes, without the program itself and the environments' own objects.

    Neither a checkpoint nor a leaving agent makes a second copy of the replay buffer's rows. A leaving agent does copy
    the priorities. `body` is by default the configuration's.
    """
    A, observation_size = config.num_agents, spaces.observation_size
    itemsize = np.dtype(spaces.dtype).itemsize
    body = body or body_of(config, spaces.observation_shape)
    outputs = (spaces.num_actions + config.dueling) * head_of(config).num_outputs
    parameters = body.num_parameters + (body.num_features + 1) * outputs
    replay = replay_bytes(
        num_agents=A,
        capacity=config.replay_capacity,
        obs=observation_size,
        itemsize=itemsize,
        mask=spaces.mask_size,
        prioritised=config.priority_exponent > 0,
    )
    copied = A * 2 * leaves(config.replay_capacity) * 4 if config.priority_exponent else 0
    pending = A * config.num_envs * config.n_step * (2 * observation_size * itemsize + spaces.mask_size + 6 * 4)
    at_once = max(config.batch_size, config.num_envs, config.eval_episodes, config.acceptance_episodes)
    activations = 2 * A * at_once * (body.num_activations + outputs) * 4
    copies = _COPIES + len(milestones_due(config.max_updates))
    return replay + copied + pending + activations + copies * A * parameters * 4


def least(config: DQNConfig) -> Spaces:
    """The smallest spaces of an environment that the configuration can train on."""
    return Spaces(observation_shape=(KERNEL, KERNEL, 1) if config.body == "conv" else (1,), num_actions=2)


def require_memory(config: DQNConfig, spaces: Spaces, body: Body | None = None) -> str:
    """A sentence on the peak memory of training and this machine's memory; `body` as in `training_bytes`.

    Raises:
        MemoryError: if training needs more than this machine has.
    """
    needed = training_bytes(config, spaces, body)
    limit = memory_limit()
    if needed > limit:
        raise MemoryError(
            f"training (mostly replay buffers) would take {_size(needed)} and this machine has {_size(limit)}; "
            "lower replay_capacity or num_agents"
        )
    return f"training takes up to {_size(needed)} of the machine's {_size(limit)} of memory"


def release_memory() -> None:
    """Return unused memory to the system, if the C library can (glibc).

    Before glibc 2.38, freed blocks that were aligned, as PyTorch's are, are rarely reused (glibc bug 14581). With the
    many short-lived objects of LunarLander, the memory of 16 agents grows by 80 MB in 100 updates.
    """
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)


def _size(size: int) -> str:
    return f"{size / 2**20:.0f} MiB" if size < 2**30 else f"{size / 2**30:.1f} GiB"
