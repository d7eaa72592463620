"""What this machine's memory holds."""

import os
from pathlib import Path

_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


def memory_limit() -> int:
    """Bytes of memory this process may use: the machine's, or its container's where that is less."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        container = _CGROUP_LIMIT.read_text().strip()
    except OSError:
        return machine
    return min(machine, int(container)) if container.isdecimal() else machine


def require_memory(replay: int) -> str:
    """How much of this machine's memory the replay buffers take, as a sentence.

    Raises:
        MemoryError: if it is more than this machine has.
    """
    limit = memory_limit()
    if replay > limit:
        raise MemoryError(
            f"the replay buffers would take {_gib(replay)} and this machine has {_gib(limit)}; "
            "lower replay_capacity or num_agents"
        )
    return f"replay buffers: {_gib(replay)} of {_gib(limit)}"


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"
