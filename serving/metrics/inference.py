"""Counts of inference requests and the time that their parts took, by version."""

import time
from collections.abc import Iterator
from typing import Final

import numpy as np
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from serving.metrics.histogram import Histogram, buckets
from serving.metrics.recent import Recent

PARTS: Final = ("queue", "parse", "compute", "answer")
_BOUNDS: Final = (10e3, 20e3, 50e3, 100e3, 200e3, 500e3, 1e6, 2e6, 5e6, 10e6, 100e6, 1e9)
"""Nanoseconds."""
_AT_ONCE: Final = 256
Durations = tuple[int, int, int, int]


class VersionStatistics:
    """Counts and durations of one version's inference since the start. For one thread.

    Durations are collected and added to their histograms by numpy, 256 at a time.
    """

    def __init__(self) -> None:
        self.rows = 0
        self.requests = 0
        self.failed = 0
        self.last_ms = 0
        self.parts = [Histogram(_BOUNDS) for _ in PARTS]
        """Nanoseconds of each of `PARTS`."""
        self.failed_ns = 0
        self._waiting: list[Durations] = []

    def add(self, rows: int, durations: Durations) -> None:
        """Count an answered request with so many rows, and the nanoseconds of its `PARTS`."""
        self.rows += rows
        self.requests += 1
        self.last_ms = time.time_ns() // 1_000_000
        self._waiting.append(durations)
        if len(self._waiting) >= _AT_ONCE:
            self.count()

    def fail(self, nanoseconds: int) -> None:
        """Count a refused request."""
        self.failed += 1
        self.failed_ns += nanoseconds

    def add_all(self, other: "VersionStatistics") -> None:
        """Add another version's."""
        other.count()
        self.rows += other.rows
        self.requests += other.requests
        self.failed += other.failed
        for ours, theirs in zip(self.parts, other.parts, strict=True):
            ours.add_all(theirs)
        self.failed_ns += other.failed_ns

    def count(self) -> None:
        """Add the collected durations to the histograms."""
        if not self._waiting:
            return
        for histogram, durations in zip(self.parts, np.array(self._waiting).T, strict=True):
            histogram.observe_all(durations)
        self._waiting.clear()


class InferenceStatistics(Collector):
    """The statistics of the versions that answered last, and the sum of those of all others."""

    def __init__(self) -> None:
        self._recent = Recent(VersionStatistics, VersionStatistics.add_all)

    def of(self, version: str) -> VersionStatistics:
        """The statistics of one version. Do not keep them over an await: the version may leave meanwhile."""
        return self._recent.of(version)

    def versions(self) -> list[str]:
        """The versions with statistics of their own."""
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
        bounds = [f"{bound / 1e9:g}" for bound in _BOUNDS]
        for version, statistics in self._recent.items():
            statistics.count()
            requests.add_metric([version, "answered"], statistics.requests)
            requests.add_metric([version, "refused"], statistics.failed)
            rows.add_metric([version], statistics.rows)
            for part, histogram in zip(PARTS, statistics.parts, strict=True):
                seconds.add_metric([version, part], buckets(bounds, histogram.counts), histogram.sum / 1e9)
        yield from (requests, rows, seconds)
