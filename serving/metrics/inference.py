"""How much of inference was done and how long its parts took, by version."""

import time
from collections.abc import Iterator
from itertools import accumulate
from typing import Final

import numpy as np
import numpy.typing as npt
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from serving.metrics.recent import Recent

PARTS: Final = ("queue", "parse", "compute", "answer")
_BOUNDS: Final = np.array([10e3, 20e3, 50e3, 100e3, 200e3, 500e3, 1e6, 2e6, 5e6, 10e6, 100e6, 1e9])
"""Nanoseconds."""
_AT_ONCE: Final = 256
Durations = tuple[int, int, int, int]


class VersionStatistics:
    """Counts and durations of one version's inference since the start. For one thread.

    Durations are put aside, and sorted into their histograms by numpy some hundred at a time.
    """

    def __init__(self) -> None:
        self.rows = 0
        self.requests = 0
        self.failed = 0
        self.last_ms = 0
        self.sums: npt.NDArray[np.int64] = np.zeros(len(PARTS), dtype=np.int64)
        """Nanoseconds of each of `PARTS`."""
        self.counts: npt.NDArray[np.int64] = np.zeros((len(PARTS), len(_BOUNDS) + 1), dtype=np.int64)
        self.failed_ns = 0
        self._waiting: list[Durations] = []

    def add(self, rows: int, durations: Durations) -> None:
        """A request that was answered, and the nanoseconds of its `PARTS`."""
        self.rows += rows
        self.requests += 1
        self.last_ms = time.time_ns() // 1_000_000
        self._waiting.append(durations)
        if len(self._waiting) >= _AT_ONCE:
            self.count()

    def fail(self, nanoseconds: int) -> None:
        """A request that was refused."""
        self.failed += 1
        self.failed_ns += nanoseconds

    def add_all(self, other: "VersionStatistics") -> None:
        """Add another version's."""
        other.count()
        self.rows += other.rows
        self.requests += other.requests
        self.failed += other.failed
        self.sums += other.sums
        self.counts += other.counts
        self.failed_ns += other.failed_ns

    def count(self) -> None:
        """Count what was put aside."""
        if not self._waiting:
            return
        durations = np.array(self._waiting)
        self._waiting.clear()
        self.sums += durations.sum(axis=0)
        for part, bins in enumerate(np.searchsorted(_BOUNDS, durations).T):
            self.counts[part] += np.bincount(bins, minlength=len(_BOUNDS) + 1)


class InferenceStatistics(Collector):
    """The statistics of the versions that were asked last, and the sum of the others."""

    def __init__(self) -> None:
        self._recent = Recent(VersionStatistics, VersionStatistics.add_all)

    def of(self, version: str) -> VersionStatistics:
        """Those of one version; to be asked for anew after every wait, as a version may leave."""
        return self._recent.of(version)

    def versions(self) -> list[str]:
        """Those whose statistics are kept."""
        return self._recent.versions()

    def collect(self) -> Iterator[Metric]:
        """Families of the text format."""
        requests = CounterMetricFamily(
            "serving_inference_requests", "Requests for inference", labels=["version", "outcome"]
        )
        rows = CounterMetricFamily("serving_inference_rows", "Observations in them", labels=["version"])
        seconds = HistogramMetricFamily(
            "serving_inference_seconds", "Time of the parts of a request", labels=["version", "part"]
        )
        bounds = [*(f"{bound / 1e9:g}" for bound in _BOUNDS), "+Inf"]
        for version, statistics in self._recent.items():
            statistics.count()
            requests.add_metric([version, "answered"], statistics.requests)
            requests.add_metric([version, "refused"], statistics.failed)
            rows.add_metric([version], statistics.rows)
            for part, counts, total in zip(PARTS, statistics.counts, statistics.sums, strict=True):
                buckets = list(zip(bounds, map(float, accumulate(counts.tolist())), strict=True))
                seconds.add_metric([version, part], buckets, total / 1e9)
        yield from (requests, rows, seconds)
