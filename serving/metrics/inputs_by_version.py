"""What every version saw, from requests and in the show, as metrics and as the page's panel wants it."""

from collections import Counter
from collections.abc import Iterator
from itertools import accumulate
from typing import Annotated, Final, Literal

from msgspec import Meta, Struct
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from serving.metrics.inputs import GAPS, Seen
from serving.metrics.recent import Recent
from serving.models.served import ServedModel

Source = Literal["requests", "show"]
SOURCES: Final[tuple[Source, ...]] = ("show", "requests")


class EntrySeen(Struct, frozen=True, kw_only=True):
    """One entry of the observation."""

    low: float
    high: float
    """Least and greatest value in training."""
    counts: Annotated[list[int], Meta(description="below low, in equal parts from low to high, above high")]


class SourceSeen(Struct, frozen=True, kw_only=True):
    """What came from one source."""

    source: Source
    rows: int
    outside: Annotated[int | None, Meta(description="rows outside what training saw; null where that is not known")]
    entries: list[EntrySeen]
    actions: Annotated[dict[str, int], Meta(description="rows by action")]
    mean_gap: Annotated[float | None, Meta(description="mean of best less second-best Q-value")]


class VersionSeen(Struct, frozen=True, kw_only=True):
    """What the version that plays saw."""

    version: str | None
    sources: list[SourceSeen]


class _SeenOfVersion:
    """One `Seen` a source; of the versions that are not kept what can be summed up."""

    def __init__(self) -> None:
        self.sources: dict[Source, Seen] = {}
        self.rows: Counter[Source] = Counter()
        self.outside: Counter[Source] = Counter()

    def add_all(self, other: "_SeenOfVersion") -> None:
        """Sum up what leaves; its distributions are over a range of its own."""
        for source, seen in other.sources.items():
            seen.count()
            self.rows[source] += seen.rows
            self.outside[source] += seen.outside


class SeenByVersion(Collector):
    """Of the versions used last; one that was begun anew under its number begins anew here."""

    def __init__(self) -> None:
        self._recent = Recent(_SeenOfVersion, _SeenOfVersion.add_all)

    def of(self, served: ServedModel, source: Source) -> Seen:
        """Where to add what a version sees."""
        sources, metadata = self._recent.of(served.version.number).sources, served.policy.metadata
        seen = sources.get(source)
        if seen is None or (seen.metadata is not metadata and seen.metadata != metadata):
            seen = sources[source] = Seen(metadata)
        return seen

    def summary(self, served: ServedModel | None) -> VersionSeen:
        """For the page."""
        if served is None:
            return VersionSeen(version=None, sources=[])
        sources = [_describe(source, self.of(served, source)) for source in SOURCES]
        return VersionSeen(version=served.version.number, sources=sources)

    def collect(self) -> Iterator[Metric]:
        """Families of the text format."""
        labels = ["version", "source"]
        rows = CounterMetricFamily("serving_seen_rows", "Observations that were answered", labels=labels)
        outside = CounterMetricFamily(
            "serving_seen_outside", "Observations outside what training saw, of versions that know it", labels=labels
        )
        actions = CounterMetricFamily("serving_seen_actions", "Greedy actions", labels=[*labels, "action"])
        gaps = HistogramMetricFamily("serving_seen_q_gap", "Best less second-best Q-value", labels=labels)
        entries = HistogramMetricFamily("serving_seen_observation", "Observations", labels=[*labels, "entry"])
        for version, source, seen in self._each():
            seen.count()
            rows.add_metric([version, source], seen.rows)
            for meaning, count in zip(seen.metadata.action_meanings, seen.actions.tolist(), strict=True):
                actions.add_metric([version, source, meaning], count)
            bounds = [*map(str, GAPS), "+Inf"]
            gaps.add_metric([version, source], _cumulative(bounds, seen.gaps.tolist()), seen.gap_sum)
            if seen.metadata.observed:
                outside.add_metric([version, source], seen.outside)
            for entry, counts in enumerate(seen.entries.tolist()):
                bounds = [*(f"{edge:.6g}" for edge in seen.edges(entry)), "+Inf"]
                entries.add_metric([version, source, str(entry)], _cumulative(bounds, counts), None)
        for version, of_version in self._recent.items():
            for source in of_version.rows:
                rows.add_metric([version, source], of_version.rows[source])
                outside.add_metric([version, source], of_version.outside[source])
        yield from (rows, outside, actions, gaps, entries)

    def _each(self) -> Iterator[tuple[str, Source, Seen]]:
        for version, of_version in self._recent.items():
            for source, seen in of_version.sources.items():
                yield version, source, seen


def _cumulative(bounds: list[str], counts: list[int]) -> list[tuple[str, float]]:
    return list(zip(bounds, map(float, accumulate(counts)), strict=True))


def _describe(source: Source, seen: Seen) -> SourceSeen:
    seen.count()
    ranges = seen.metadata.observed
    return SourceSeen(
        source=source,
        rows=seen.rows,
        outside=seen.outside if ranges else None,
        entries=[
            EntrySeen(low=low, high=high, counts=counts)
            for (low, high), counts in zip(ranges, seen.entries.tolist(), strict=True)
        ],
        actions=dict(zip(seen.metadata.action_meanings, seen.actions.tolist(), strict=True)),
        mean_gap=seen.gap_sum / seen.rows if seen.rows else None,
    )
