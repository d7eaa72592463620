import io
import json
import logging
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from serving.logs import JsonFormatter, configure_logging
from serving.metrics.metrics import Metrics, Requests
from tests.support.serving.clients import client_of, samples


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


def test_metrics_contain_the_served_version_and_the_state_of_the_registry(tmp_path: Path) -> None:
    app, client = client_of(tmp_path)
    models = app.models
    models.swaps, models.loader.refusals, models.loader.disk_errors, models.reachable = 3, 2, 1, False
    told = samples(client.get("/metrics").text, "serving_")
    run = ("run_id", "0" * 32) if models.current and models.current.version.run_id else ("run_id", "")
    assert told["serving_model_info", ("model", "p"), run, ("version", "1")] == 1
    names = ("model_version", "swaps_total", "swaps_failed_total", "follower_errors_total", "registry_reachable")
    assert [told[f"serving_{name}",] for name in names] == [1, 3, 2, 1, 0]
    assert told["serving_registry_age_seconds",] >= 0
    models.current, models.reachable, models._answered_at = None, True, None
    told = samples(client.get("/metrics").text, "serving_")
    assert told["serving_registry_reachable",] == 1
    assert not any(name in ("serving_model_info", "serving_registry_age_seconds") for name, *_ in told)


def test_returns_are_counted_up_to_what_cartpole_gives() -> None:
    metrics = Metrics()
    metrics.returns.observe("1", 1, disturbed=False)
    (family,) = metrics.returns.collect()
    bounds = [sample.labels["le"] for sample in family.samples if sample.name.endswith("_bucket")]
    assert bounds == ["10.0", "25.0", "50.0", "100.0", "200.0", "300.0", "400.0", "475.0", "499.5", "500.0", "+Inf"]


def test_series_by_version_are_bounded_and_lose_no_count(tmp_path: Path) -> None:
    app, client = client_of(tmp_path)
    assert app.models.current
    lengths = []
    for number in range(1, 61):
        version = replace(app.models.current.version, number=str(number))
        app.metrics.inference.of(str(number)).add(3, (1, 2, 3, 4))
        app.metrics.inference.of(str(number)).fail(1)
        app.metrics.returns.observe(str(number), float(number), disturbed=False)
        seen = app.metrics.inputs.of(replace(app.models.current, version=version), "requests")
        seen.add(np.zeros((2, 4), np.float32), np.zeros((2, 2), np.float32))
        lengths.append(len(client.get("/metrics").text.splitlines()))
    assert lengths[-1] == lengths[20] < 2000
    told = samples(client.get("/metrics").text, "serving_")
    for name, total in (
        ("serving_inference_rows_total", 180),
        ("serving_inference_requests_total", 120),
        ("serving_inference_seconds_count", 240),
        ("serving_episodic_return_count", 60),
        ("serving_episodic_return_sum", sum(range(1, 61))),
        ("serving_seen_rows_total", 120),
    ):
        ours = {labels: value for labels, value in told.items() if labels[0] == name}
        assert sum(ours.values()) == total, name
        versions = {dict(labels[1:])["version"] for labels in ours}
        assert versions == {"other", *map(str, range(53, 61))}, name
    listed = client.get("/v2/models/stats").json()["model_stats"]
    assert [each["version"] for each in listed] == [str(number) for number in range(53, 61)]
    app.metrics.inference.of("1").add(1, (1, 1, 1, 1))
    versions = {
        dict(labels[1:])["version"] for labels in samples(client.get("/metrics").text, "serving_inference_rows")
    }
    assert "1" in versions, "what is asked again is kept again"


def test_a_line_of_the_log_is_an_object() -> None:
    record = logging.makeLogRecord(
        {"name": "serving", "levelno": logging.WARNING, "levelname": "WARNING", "msg": "lost %s", "args": ("it",)}
        | {"created": 1_000_000_000.007, "msecs": 7.9, "path": Path("x"), "taskName": "t", "color_message": "c"}
    )
    line = json.loads(JsonFormatter().format(record))
    assert line == {
        "time": "2001-09-09T01:46:40.007Z",
        "level": "warning",
        "logger": "serving",
        "message": "lost it",
        "path": "x",
    }
    try:
        raise KeyError("why")
    except KeyError:
        record.exc_info = sys.exc_info()
    assert "KeyError: 'why'" in json.loads(JsonFormatter().format(record))["exception"]


def test_the_log_is_configured_once_for_all_loggers(monkeypatch: pytest.MonkeyPatch) -> None:
    configured: dict[str, Any] = {}
    monkeypatch.setattr(logging, "basicConfig", lambda **options: configured.update(options))
    talkative = logging.getLogger("mlflow.store.db")
    monkeypatch.setattr(talkative, "level", logging.INFO)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    configure_logging()
    assert (configured["level"], configured["force"]) == (logging.INFO, True)
    assert isinstance(configured["handlers"][0].formatter, JsonFormatter)
    assert talkative.level == logging.WARNING


def test_a_person_at_a_terminal_reads_no_json(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", terminal)
    configured: dict[str, Any] = {}
    monkeypatch.setattr(logging, "basicConfig", lambda **options: configured.update(options))
    configure_logging()
    record = logging.LogRecord("serving", logging.INFO, "x.py", 1, "swapped", None, None)
    record.version = "2"
    line = configured["handlers"][0].format(record)
    assert re.fullmatch(r"\d\d:\d\d:\d\d  swapped \(version 2\)", line)
    try:
        raise KeyError("why")
    except KeyError:
        record.exc_info = sys.exc_info()
    assert configured["handlers"][0].format(record).endswith("KeyError: 'why'")
