import os
from pathlib import Path

import pytest

from dqn import memory


def test_a_containers_limit_counts_where_it_is_less_than_the_machines(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = tmp_path / "limit"
    monkeypatch.setattr(memory, "_CGROUP_LIMITS", (limit, tmp_path / "missing"))
    assert memory.memory_limit() == machine
    for content, expected in (("max\n", machine), ("1000000\n", 1_000_000), (f"{2**63 - 4096}\n", machine)):
        limit.write_text(content)
        assert memory.memory_limit() == expected
