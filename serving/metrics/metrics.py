"""What Prometheus reads at /metrics, and the log lines a machine reads."""

from bisect import bisect_left
from collections import Counter as Tally
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import accumulate
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from serving.metrics.inference import InferenceStatistics
from serving.metrics.inputs_by_version import SeenByVersion
from serving.metrics.recent import Recent
from serving.models.follower import Models

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_LATENCY: Final = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0)
_RETURNS: Final = (10.0, 25.0, 50.0, 100.0, 200.0, 300.0, 400.0, 475.0, 499.5, 500.0)


class Distribution:
    """A histogram, for one thread: prometheus_client's own locks, which costs four times as much."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def add_all(self, other: "Distribution") -> None:
        """Count what another one of the same bounds counted."""
        self._counts = [ours + theirs for ours, theirs in zip(self._counts, other._counts, strict=True)]
        self._sum += other._sum

    def add_to(self, family: HistogramMetricFamily, labels: Sequence[str] = ()) -> None:
        """Write down what was observed, cumulatively as Prometheus wants it."""
        names = [*map(str, self._bounds), "+Inf"]
        family.add_metric(labels, list(zip(names, accumulate(self._counts), strict=True)), self._sum)


class Requests(Collector):
    """What is counted at every request."""

    def __init__(self) -> None:
        self._latency: dict[str, Distribution] = {}
        self._counts: Tally[tuple[str, str, int]] = Tally()

    def count(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count and time one request."""
        self._counts[route, method, status] += 1
        latency = self._latency.get(route)
        if latency is None:
            latency = self._latency[route] = Distribution(_LATENCY)
        latency.observe(seconds)

    def collect(self) -> Iterator[Metric]:
        """Families of the text format."""
        requests = CounterMetricFamily("serving_requests", "HTTP requests", labels=["route", "method", "status"])
        for (route, method, status), count in self._counts.items():
            requests.add_metric([route, method, str(status)], count)
        latency = HistogramMetricFamily("serving_request_seconds", "Time from request to answer", labels=["route"])
        for route, durations in self._latency.items():
            durations.add_to(latency, [route])
        yield from (requests, latency)


class Returns(Collector):
    """Episodic returns of the show, of the versions that played last and of all others together."""

    def __init__(self) -> None:
        self._recent = {flag: Recent(partial(Distribution, _RETURNS), Distribution.add_all) for flag in (False, True)}

    def observe(self, version: str, episodic_return: float, *, disturbed: bool) -> None:
        """Count one episode's."""
        self._recent[disturbed].of(version).observe(episodic_return)

    def collect(self) -> Iterator[Metric]:
        """Families of the text format."""
        returns = HistogramMetricFamily(
            "serving_episodic_return", "Episodic returns of the show", labels=["version", "disturbed"]
        )
        for disturbed, recent in self._recent.items():
            for version, counted in recent.items():
                counted.add_to(returns, [version, str(disturbed).lower()])
        yield returns


class Following(Collector):
    """How the registry is followed."""

    models: Models | None = None

    def collect(self) -> Iterator[Metric]:
        """Families of the text format."""
        models = self.models
        if models is None:
            return
        yield CounterMetricFamily("serving_swaps", "Versions that began to play", value=models.swaps)
        yield CounterMetricFamily("serving_swaps_failed", "Versions that were refused", value=models.failed_swaps)
        yield CounterMetricFamily("serving_follower_errors", "Unforeseen failures", value=models.errors)
        if models.registry_age is not None:
            yield GaugeMetricFamily(
                "serving_registry_age_seconds", "Time since the registry last answered", value=models.registry_age
            )


class Metrics:
    """One registry an app, so that two apps in one process do not mix."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self._registry = registry
        ProcessCollector(registry=registry)
        self.requests = Requests()
        self.inference = InferenceStatistics()
        self.seen = SeenByVersion()
        self.returns = Returns()
        for collector in (self.requests, self.inference, self.seen, self.returns):
            registry.register(collector)
        self.episodes = Counter("serving_episodes", "Episodes played to their end", ["kind"], registry=registry)
        self.viewers = Gauge("serving_viewers", "Connected viewers", ["kind"], registry=registry)
        self._model = Gauge(
            "serving_model_info", "The version that is served", ["model", "version", "run_id"], registry=registry
        )
        self._version = Gauge("serving_model_version", "Number of the version that is served", registry=registry)
        self.drift = Gauge("serving_drift", "1 while the world is not the version's own", registry=registry)
        self.drift_noticed = Counter("serving_drift_noticed", "Changes of the world noticed", registry=registry)
        self.drift_errors = Counter("serving_drift_errors", "Failures in watching for drift", registry=registry)
        self.event_errors = Counter("serving_event_errors", "Events that were not taken", registry=registry)
        self._following = Following()
        registry.register(self._following)
        self._reachable = Gauge("serving_registry_reachable", "1 if the registry answered last time", registry=registry)

    def expose(self, models: Models) -> bytes:
        """The text format, with the models's state as of now."""
        return self.collect(models).write()

    def collect(self, models: Models) -> "Collected":
        """All families with the models's state as of now, to be written in another thread."""
        self._model.clear()
        if served := models.current:
            self._model.labels(models.name, served.version.number, served.version.run_id).set(1)
            self._version.set(int(served.version.number))
        self._following.models = models
        self._reachable.set(1 if models.reachable else 0)
        return Collected(list(self._registry.collect()))


class Collected(Collector):
    """Families of one moment."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> list[Metric]:
        """As they were."""
        return self._families

    def write(self) -> bytes:
        """The text format, which takes longer than collecting."""
        return bytes(generate_latest(self))
