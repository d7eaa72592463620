"""The inputs of each version, from requests and from the show, as metrics and for the page."""

from collections import Counter
from collections.abc import Iterator
from typing import Annotated, Final, Literal

from msgspec import Meta, Struct
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from serving.metrics.histogram import buckets
from serving.metrics.inputs import Inputs
from serving.metrics.recent import Recent
from serving.models.served import ServedModel

Source = Literal["requests", "show"]
SOURCES: Final[tuple[Source, ...]] = ("show", "requests")


class EntryInputs(Struct, frozen=True, kw_only=True):
    """One entry of the observation."""

    low: float
    high: float
    """Least and greatest value in training."""
    counts: Annotated[list[int], Meta(description="below low, in equal parts from low to high, above high")]


class SourceInputs(Struct, frozen=True, kw_only=True):
    """The inputs from one source."""

    source: Source
    rows: int
    outside: Annotated[int | None, Meta(description="rows outside the range of training; null where that is not known")]
    entries: list[EntryInputs]
    actions: Annotated[dict[str, int], Meta(description="rows by action")]
    mean_gap: Annotated[float | None, Meta(description="mean of the best Q-value less the second best")]


class VersionInputs(Struct, frozen=True, kw_only=True):
    """The inputs of the version that plays."""

    version: str | None
    sources: list[SourceInputs]


class _OfVersion:
    """The `Inputs` of each source; sums for the versions that are not kept."""

    def __init__(self) -> None:
        self.sources: dict[Source, Inputs] = {}
        self.rows: Counter[Source] = Counter()
        self.outside: Counter[Source] = Counter()

    def add_all(self, other: "_OfVersion") -> None:
        """Add the sums of a version that leaves. Its distributions are dropped: their ranges are its own."""
        for source, inputs in other.sources.items():
            inputs.count()
            self.rows[source] += inputs.rows
            self.outside[source] += inputs.outside


class InputsByVersion(Collector):
    """The inputs of the versions used last. A version that was registered again under its number begins at 0."""

    def __init__(self) -> None:
        self._recent = Recent(_OfVersion, _OfVersion.add_all)

    def of(self, served: ServedModel, source: Source) -> Inputs:
        """Where to add the inputs of a version."""
        sources, metadata = self._recent.of(served.version.number).sources, served.policy.metadata
        inputs = sources.get(source)
        if inputs is None or (inputs.metadata is not metadata and inputs.metadata != metadata):
            inputs = sources[source] = Inputs(metadata)
        return inputs

    def summary(self, served: ServedModel | None) -> VersionInputs:
        """The inputs of a version for the page."""
        if served is None:
            return VersionInputs(version=None, sources=[])
        sources = [_describe(source, self.of(served, source)) for source in SOURCES]
        return VersionInputs(version=served.version.number, sources=sources)

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
        for version, source, inputs in self._each():
            inputs.count()
            rows.add_metric([version, source], inputs.rows)
            for meaning, count in zip(inputs.metadata.action_meanings, inputs.actions.tolist(), strict=True):
                actions.add_metric([version, source, meaning], count)
            inputs.gaps.write(gaps, [version, source])
            if inputs.metadata.observed:
                outside.add_metric([version, source], inputs.outside)
            for entry, counts in enumerate(inputs.entries.tolist()):
                bounds = (f"{edge:.6g}" for edge in inputs.edges(entry))
                entries.add_metric([version, source, str(entry)], buckets(bounds, counts), None)
        for version, of_version in self._recent.items():
            for source in of_version.rows:
                rows.add_metric([version, source], of_version.rows[source])
                outside.add_metric([version, source], of_version.outside[source])
        yield from (rows, outside, actions, gaps, entries)

    def _each(self) -> Iterator[tuple[str, Source, Inputs]]:
        for version, of_version in self._recent.items():
            for source, inputs in of_version.sources.items():
                yield version, source, inputs


def _describe(source: Source, inputs: Inputs) -> SourceInputs:
    inputs.count()
    ranges = inputs.metadata.observed
    return SourceInputs(
        source=source,
        rows=inputs.rows,
        outside=inputs.outside if ranges else None,
        entries=[
            EntryInputs(low=low, high=high, counts=counts)
            for (low, high), counts in zip(ranges, inputs.entries.tolist(), strict=True)
        ],
        actions=dict(zip(inputs.metadata.action_meanings, inputs.actions.tolist(), strict=True)),
        mean_gap=inputs.gaps.sum / inputs.rows if inputs.rows else None,
    )
