from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from serving.web.metrics import Requests
from tests.serving.test_bounds import client_of


def samples(text: str, name: str) -> dict[tuple[Any, ...], float]:
    families = text_string_to_metric_families(text)
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
        if sample.name.startswith(name) and not sample.name.endswith("_created")
    }


def test_names_say_what_is_counted_and_what_is_measured(tmp_path: Path) -> None:
    _, client = client_of(tmp_path)
    families = list(text_string_to_metric_families(client.get("/metrics").text))
    assert len(families) > 20
    for family in families:
        assert family.name.startswith(("serving_", "process_"))
        assert family.type in ("counter", "gauge", "histogram")
        assert family.documentation
        assert family.type == "counter" or not family.name.endswith("_total"), family.name


def test_requests_are_counted_as_prometheus_client_would() -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    requests = Requests()
    ours.register(requests)
    counter = Counter("serving_requests", "-", ["route", "method", "status"], registry=theirs)
    bounds = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0)
    latency = Histogram("serving_request_seconds", "-", ["route"], buckets=bounds, registry=theirs)
    for route, status, seconds in [("/a", 200, 0.0001), ("/a", 200, 0.0005), ("/a", 404, 0.3), ("/b", 200, 7.0)]:
        requests.count(route, "GET", status, seconds)
        counter.labels(route, "GET", str(status)).inc()
        latency.labels(route).observe(seconds)
    assert len(samples(generate_latest(ours).decode(), "serving_request")) == 3 + 2 * 15
    assert samples(generate_latest(ours).decode(), "serving_request") == samples(
        generate_latest(theirs).decode(), "serving_request"
    )
