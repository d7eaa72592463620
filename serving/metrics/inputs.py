"""Distributions of the observations that a version is given, and of its answers, at little cost a request.

Rows are collected and counted by numpy, some hundred at a time or when the counts are read.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from dqn.environments.masks import MASKED_Q
from serving.metrics.histogram import Histogram
from serving.policy import FloatArray, IntArray, PolicyMetadata

BINS: Final = 20
"""Equal parts between the least and the greatest value in training; there is one more on each side."""
GAPS: Final = tuple(digit * 10.0**power for power in range(-3, 3) for digit in (1, 2, 5))
_ROWS_AT_ONCE: Final = 512
_CALLS_AT_ONCE: Final = 256


class Inputs:
    """Observations, Q-gaps and actions of one version, from one source. For one thread."""

    def __init__(self, metadata: PolicyMetadata) -> None:
        self.metadata = metadata
        self.rows = 0
        self.outside = 0
        """Rows with an entry outside the range of training; 0 where that is not known."""
        self.entries: IntArray = np.zeros((len(metadata.observed), BINS + 2), dtype=np.int64)
        """Counts of values `[obs, BINS + 2]`: below the range of training, in `BINS` equal parts of it, above it."""
        self.gaps = Histogram(GAPS)
        """The best Q-value less the second best, of the allowed actions."""
        self.actions: IntArray = np.zeros(metadata.num_actions, dtype=np.int64)
        self._low, high = np.array(metadata.observed, dtype=np.float64).reshape(-1, 2, 1).transpose(1, 0, 2)
        # Slightly smaller, so that the greatest value of training falls into the last part and the next one above it.
        self._bins_a_unit = (1 - 1e-9) * BINS / np.maximum(high - self._low, np.finfo(np.float32).tiny)
        self._waiting: list[tuple[FloatArray, FloatArray]] = []
        self._rows_waiting = 0

    def add(self, observation: FloatArray, q_values: FloatArray) -> None:
        """Add observations `[batch, ...]` and the Q-values `[batch, actions]` of the answer."""
        if observation.shape[1:] != (len(self.entries),):  # of no known range: an image
            observation = np.zeros((len(observation), 0), dtype=np.float32)
        self._waiting.append((observation, q_values))
        self._rows_waiting += len(observation)
        if self._rows_waiting >= _ROWS_AT_ONCE or len(self._waiting) >= _CALLS_AT_ONCE:
            self.count()

    def count(self) -> None:
        """Count the collected rows."""
        if not self._waiting:
            return
        observation = np.concatenate([each for each, _ in self._waiting])
        q_values = np.concatenate([each for _, each in self._waiting])
        self._waiting.clear()
        self._rows_waiting = 0
        self.rows += len(observation)
        self.actions += np.bincount(q_values.argmax(axis=1), minlength=len(self.actions))
        self._count_gaps(q_values)
        if observation.shape[1]:
            self._count_entries(observation)

    def _count_gaps(self, q_values: FloatArray) -> None:
        if q_values.shape[1] < 2:
            return
        best, second = q_values[:, 0], np.full(len(q_values), -np.inf, dtype=np.float32)
        for value in q_values.T[1:]:  # a sort along so short an axis takes forty times as long
            best, second = np.maximum(best, value), np.maximum(second, np.minimum(best, value))
        gap = np.subtract(best, second, dtype=np.float64)
        self.gaps.observe_all(gap[second > MASKED_Q])

    def _count_entries(self, observation: FloatArray) -> None:
        values = np.ascontiguousarray(observation.T, dtype=np.float64)
        part = ((values - self._low) * self._bins_a_unit + 1).clip(0, BINS + 1).astype(np.int64)
        self.outside += int(((part == 0) | (part > BINS)).any(axis=0).sum())
        flat = (part + np.arange(0, self.entries.size, BINS + 2)[:, np.newaxis]).ravel()
        self.entries += np.bincount(flat, minlength=self.entries.size).reshape(self.entries.shape)

    def edges(self, entry: int) -> npt.NDArray[np.float64]:
        """Bounds of an entry's parts, `[BINS + 1]`."""
        return np.linspace(*self.metadata.observed[entry], BINS + 1)
