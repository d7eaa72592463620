"""Stress tests and decisions for tests of the gate."""

from typing import Any

import numpy as np

from benchmarks.gate import settled
from dqn.stress.robustness import StressTest
from flows.registry.gate import LOOKS

ALL = LOOKS[-1]


def promoted(challenger: Any, champion: Any, threshold: float | None = None, *, preferred: bool = True) -> int:
    """How many of 500 challengers take the place, which they do where they are not worse if they are preferred."""
    generator = np.random.default_rng(0)
    return sum(
        settled(challenger(generator, ALL), champion(generator, ALL), threshold=threshold, at_home=preferred).promote
        for _ in range(500)
    )


def stress(lost: int, cells: int = 9) -> StressTest:
    """Of 100 episodes in each cell the first `lost` are not held."""
    held = np.ones((cells, 100), dtype=np.bool_)
    held[:, :lost] = False
    return StressTest(balanced=held, push=60)
