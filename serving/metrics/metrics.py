"""What Prometheus reads at /metrics."""

from collections import Counter as Tally
from collections.abc import Iterator
from functools import partial
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from serving.metrics.histogram import Histogram
from serving.metrics.inference import InferenceStatistics
from serving.metrics.inputs_by_version import InputsByVersion
from serving.metrics.recent import Recent
from serving.models.follower import Models

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_LATENCY: Final = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0)
_RETURNS: Final = (10.0, 25.0, 50.0, 100.0, 200.0, 300.0, 400.0, 475.0, 499.5, 500.0)


class Requests(Collector):
    """Counts and times of HTTP requests."""

    def __init__(self) -> None:
        self._latency: dict[str, Histogram] = {}
        self._counts: Tally[tuple[str, str, int]] = Tally()

    def count(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count and time one request."""
        self._counts[route, method, status] += 1
        latency = self._latency.get(route)
        if latency is None:
            latency = self._latency[route] = Histogram(_LATENCY)
        latency.observe(seconds)

    def collect(self) -> Iterator[Metric]:
        """Families of the text format."""
        requests = CounterMetricFamily("serving_requests", "HTTP requests", labels=["route", "method", "status"])
        for (route, method, status), count in self._counts.items():
            requests.add_metric([route, method, str(status)], count)
        latency = HistogramMetricFamily("serving_request_seconds", "Time from request to answer", labels=["route"])
        for route, durations in self._latency.items():
            durations.write(latency, [route])
        yield from (requests, latency)


class Returns(Collector):
    """Episodic returns of the show, for each of the versions that played last and for all others together."""

    def __init__(self) -> None:
        self._recent = {flag: Recent(partial(Histogram, _RETURNS), Histogram.add_all) for flag in (False, True)}

    def observe(self, version: str, episodic_return: float, *, disturbed: bool) -> None:
        """Count the return of one episode."""
        self._recent[disturbed].of(version).observe(episodic_return)

    def collect(self) -> Iterator[Metric]:
        """Families of the text format."""
        returns = HistogramMetricFamily(
            "serving_episodic_return", "Episodic returns of the show", labels=["version", "disturbed"]
        )
        for disturbed, recent in self._recent.items():
            for version, counted in recent.items():
                counted.write(returns, [version, str(disturbed).lower()])
        yield returns


class Following(Collector):
    """Swaps, failures and the age of what is known of the model registry."""

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
    """All metrics of one application, in a registry of its own: two applications in one process do not mix."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self._registry = registry
        ProcessCollector(registry=registry)
        self.requests = Requests()
        self.inference = InferenceStatistics()
        self.inputs = InputsByVersion()
        self.returns = Returns()
        for collector in (self.requests, self.inference, self.inputs, self.returns):
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

    def register(self, collector: Collector) -> None:
        """Expose another collector's families too."""
        self._registry.register(collector)

    def expose(self, models: Models) -> bytes:
        """The text format, with the present state of the models."""
        return self.collect(models).write()

    def collect(self, models: Models) -> "Collected":
        """All families with the present state of the models, for writing in another thread."""
        self._model.clear()
        if served := models.current:
            self._model.labels(models.name, served.version.number, served.version.run_id).set(1)
            self._version.set(int(served.version.number))
        self._following.models = models
        self._reachable.set(1 if models.reachable else 0)
        return Collected(list(self._registry.collect()))


class Collected(Collector):
    """Metric families as they were at one moment."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> list[Metric]:
        """The families as they were collected."""
        return self._families

    def write(self) -> bytes:
        """The text format. Writing it takes longer than collecting."""
        return bytes(generate_latest(self))
