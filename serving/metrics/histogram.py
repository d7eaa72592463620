"""Histograms for Prometheus that cost less than prometheus_client's, which takes a lock at every value."""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt
from prometheus_client.core import HistogramMetricFamily


class Histogram:
    """Counts of values up to each of `bounds` and above the last, and the sum of the values. For one thread."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum: float = 0

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def observe_all(self, values: npt.NDArray[Any]) -> None:
        """Count an array of values; the sum of integers stays an integer."""
        counts = np.bincount(np.searchsorted(self.bounds, values), minlength=len(self.counts))
        self._add(counts.tolist(), values.sum().item())

    def add_all(self, other: "Histogram") -> None:
        """Add the counts of another histogram with the same bounds."""
        self._add(other.counts, other.sum)

    def write(self, family: HistogramMetricFamily, labels: Sequence[str]) -> None:
        """Add the histogram to a family of the text format."""
        family.add_metric(labels, buckets(map(str, self.bounds), self.counts), self.sum)

    def _add(self, counts: Sequence[int], total: float) -> None:
        self.counts = [ours + theirs for ours, theirs in zip(self.counts, counts, strict=True)]
        self.sum += total


def buckets(bounds: Iterable[str], counts: Iterable[int]) -> list[tuple[str, float]]:
    """Counts up to each bound and above the last as Prometheus wants them: cumulative, the last bound "+Inf"."""
    return list(zip([*bounds, "+Inf"], map(float, accumulate(counts)), strict=True))
