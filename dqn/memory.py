"""What this machine's memory holds."""

import os
from pathlib import Path

_CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))  # v2, v1


def memory_limit() -> int:
    """Bytes of memory this process may use: the machine's, or its container's where that is less."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limits = [path.read_text().strip() for path in _CGROUP_LIMITS if path.exists()]
    return min([machine, *(int(limit) for limit in limits if limit.isdecimal())])  # v2 says "max" where there is none


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
