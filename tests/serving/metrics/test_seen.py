"""Statistics of the inputs and answers of a version."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from serving.application import App
from serving.inference.statistics import extension
from serving.metrics.inference import VersionStatistics
from serving.metrics.inputs import BINS, GAPS, Inputs
from serving.policy import OnnxPolicy, PolicyMetadata
from tests.support.serving.clients import client_of, infer, samples
from tests.support.serving.policies import ACROBOT, BALANCES, PROPERTIES, SWINGS, linear_model

RANGES = "[[-2, 2], [-1, 3], [-0.25, 0.25], [0, 0]]"
KNOWING = PROPERTIES | {"observed": RANGES}


def metadata(**properties: str) -> PolicyMetadata:
    return OnnxPolicy.load(linear_model(BALANCES, properties=PROPERTIES | properties)).metadata


def shown(seen: Inputs, *rows: list[float], q_values: list[float] | None = None) -> None:
    observation = np.array(rows, dtype=np.float32)
    seen.add(observation, np.array([q_values or [0.0, 1.0]] * len(rows), dtype=np.float32))
    seen.count()


def test_an_entry_falls_into_its_part_of_what_training_saw() -> None:
    seen = Inputs(metadata(observed=RANGES))
    shown(seen, [-2, -1, -0.25, 0], [2, 3, 0.25, 0], [0.1, 1.1, 0.0125, 0])
    assert seen.outside == 0, "what lies on the bounds was seen in training"
    assert np.flatnonzero(seen.entries[0]).tolist() == [1, BINS // 2 + 1, BINS]
    assert np.flatnonzero(seen.entries[1]).tolist() == [1, BINS // 2 + 1, BINS]
    assert seen.entries.sum(axis=1).tolist() == [3] * 4
    np.testing.assert_allclose(seen.edges(1), np.linspace(-1, 3, BINS + 1))


def test_a_row_is_outside_once_however_many_of_its_entries_are() -> None:
    seen = Inputs(metadata(observed=RANGES))
    shown(seen, [-2.000001, 9, 0, 0], [0, 0, 0, 1e-9], [1e38, -1e38, 0, 0], [0, 0, 0, 0])
    shown(seen, [2.000001, 0, 0, 0], [2, 0, 0, 0])
    assert (seen.rows, seen.outside) == (6, 4)
    assert (seen.entries[0, 0], seen.entries[0, -1]) == (1, 2)
    assert (seen.entries[1, 0], seen.entries[1, -1]) == (1, 1)
    assert (seen.entries[3, 0], seen.entries[3, -1]) == (0, 1)


@pytest.mark.parametrize(
    ("q_values", "action", "part"),
    [
        ([1.0, 1.0], 0, 0),
        ([0.0, 0.0009], 1, 0),
        ([0.0, 0.0011], 1, 1),
        ([2.5, 0.0], 0, GAPS.index(5.0)),
        ([0.0, 1e6], 1, len(GAPS)),
    ],
)
def test_the_gap_of_two_q_values_has_a_part(q_values: list[float], action: int, part: int) -> None:
    seen = Inputs(metadata())
    shown(seen, [0, 0, 0, 0], q_values=q_values)
    assert np.flatnonzero(seen.gaps.counts).tolist() == [part]
    assert seen.gaps.sum == pytest.approx(abs(q_values[0] - q_values[1]))
    assert np.flatnonzero(seen.actions).tolist() == [action]


def test_of_three_actions_the_gap_is_between_the_best_two() -> None:
    seen = Inputs(OnnxPolicy.load(linear_model(SWINGS, properties=ACROBOT, actions=3)).metadata)
    shown(seen, [0] * 6, q_values=[4.0, -9.0, 1.0])
    assert seen.gaps.sum == 3.0
    assert seen.actions.tolist() == [1, 0, 0]


def test_an_older_version_does_not_say_what_training_saw() -> None:
    seen = Inputs(metadata())
    shown(seen, [1e9, 0, 0, 0])
    assert (seen.rows, seen.outside, seen.entries.shape) == (1, 0, (0, BINS + 2))


@settings(deadline=None)
@given(batches=st.lists(st.integers(1, 300), max_size=12))
def test_nothing_is_lost_or_counted_twice_however_it_comes(batches: list[int]) -> None:
    generator = np.random.default_rng(0)
    rows = generator.normal(0, 2, (sum(batches), 4)).astype(np.float32)
    q_values = generator.normal(0, 1, (sum(batches), 2)).astype(np.float32)
    together, apart = Inputs(KNOWN), Inputs(KNOWN)
    if batches:
        together.add(rows, q_values)
    for end, batch in zip(np.cumsum(batches), batches, strict=True):
        apart.add(rows[end - batch : end], q_values[end - batch : end])
    for seen in (together, apart):
        seen.count()
    assert (together.rows, together.outside) == (apart.rows, apart.outside) == (len(rows), together.outside)
    assert together.gaps.counts == apart.gaps.counts
    for name in ("entries", "actions"):
        np.testing.assert_array_equal(getattr(together, name), getattr(apart, name))
    low, high = np.array(KNOWN.observed).T
    assert together.outside == int(((rows < low) | (rows > high)).any(axis=1).sum())


KNOWN = metadata(observed=RANGES)


@pytest.mark.parametrize(("calls", "rows"), [(255, 1), (1, 511)])
def test_inputs_are_collected_and_counted_in_batches(calls: int, rows: int) -> None:
    seen = Inputs(KNOWN)
    row, q_values = np.zeros((rows, 4), np.float32), np.zeros((rows, 2), np.float32)
    for _ in range(calls):
        seen.add(row, q_values)
    assert seen.rows == 0
    seen.add(row[:1], q_values[:1])
    assert seen.rows == calls * rows + 1


def test_durations_are_sorted_into_their_histograms_and_the_protocols_statistics() -> None:
    statistics, begun = VersionStatistics(), time.time()
    for _ in range(300):
        statistics.add(2, (0, 15_000, 1_000_000, 2_000_000_000))
    statistics.fail(7)
    assert sum(statistics.parts[0].counts) == 256
    found = extension(statistics, "m", "3")
    assert (found.name, found.version) == ("m", "3")
    assert 1000 * begun - 1 <= found.last_inference <= 1000 * time.time()
    assert (found.inference_count, found.execution_count) == (600, 300)
    parts = found.inference_stats
    assert (parts.success.count, parts.success.ns) == (300, 300 * 2_001_015_000)
    assert (parts.fail.count, parts.fail.ns) == (1, 7)
    assert [parts.queue.ns, parts.compute_input.ns] == [0, 300 * 15_000]
    assert [parts.compute_infer.ns, parts.compute_output.ns] == [300 * 1_000_000, 300 * 2_000_000_000]
    assert [np.flatnonzero(part.counts).tolist() for part in statistics.parts] == [[0], [1], [6], [12]]


@pytest.fixture
def app_and_client(tmp_path: Path) -> tuple[App, TestClient]:
    return client_of(tmp_path, properties=KNOWING)


@pytest.fixture
def client(app_and_client: tuple[App, TestClient]) -> TestClient:
    return app_and_client[1]


def exposed(client: TestClient, name: str) -> dict[tuple[Any, ...], float]:
    return samples(client.get("/metrics").text, name)


def test_requests_are_exposed_by_version(app_and_client: tuple[App, TestClient]) -> None:
    app, client = app_and_client
    for _ in range(3):
        client.post("/v2/models/p/infer", json=infer(2))
    client.post("/v2/models/p/infer", json={})
    version = ("version", "1")
    requests = exposed(client, "serving_inference")
    assert requests["serving_inference_requests_total", ("outcome", "answered"), version] == 3
    assert requests["serving_inference_requests_total", ("outcome", "refused"), version] == 1
    assert requests["serving_inference_rows_total", version] == 6
    for part in ("queue", "parse", "compute", "answer"):
        assert requests["serving_inference_seconds_count", ("part", part), version] == 3
    statistics = app.metrics.inference.of("1")
    assert requests["serving_inference_seconds_sum", ("part", "compute"), version] == statistics.parts[2].sum / 1e9
    bounds = [str(labels[0][1]) for name, *labels in requests if name.endswith("_bucket") and labels[1][1] == "queue"]
    expected = "1e-05 2e-05 5e-05 0.0001 0.0002 0.0005 0.001 0.002 0.005 0.01 0.1 1 +Inf"
    assert bounds == expected.split()
    seen = exposed(client, "serving_seen")
    source = ("source", "requests")
    assert seen["serving_seen_rows_total", source, version] == 6
    assert seen["serving_seen_outside_total", source, version] == 6, "0.125 in the last entry, where training saw 0"
    assert seen["serving_seen_actions_total", ("action", "right"), source, version] == 6
    assert seen["serving_seen_q_gap_count", source, version] == 6
    assert seen["serving_seen_observation_bucket", ("entry", "0"), ("le", "0"), source, version] == 0
    assert seen["serving_seen_observation_bucket", ("entry", "0"), ("le", "0.2"), source, version] == 6


def test_the_status_contains_the_inputs_of_the_version_that_plays(client: TestClient) -> None:
    client.post("/v2/models/p/infer", json=infer(5))
    answer = client.get("/api/seen").json()
    assert answer["version"] == "1"
    show, requests = answer["sources"]
    assert (show["source"], show["rows"], show["mean_gap"]) == ("show", 0, None)
    assert (requests["source"], requests["rows"], requests["outside"]) == ("requests", 5, 5)
    assert requests["actions"] == {"left": 0, "right": 5}
    assert [(entry["low"], entry["high"]) for entry in requests["entries"]][:2] == [(-2, 2), (-1, 3)]
    assert requests["mean_gap"] == pytest.approx(2 * 0.125 * sum(BALANCES), rel=1e-6)


def test_observations_of_the_show_are_counted(tmp_path: Path) -> None:
    app, client = client_of(tmp_path, properties=KNOWING)
    assert app.live
    show = app.live.stage.main
    for _ in range(10):
        show._tick(0.02)
    assert client.get("/api/seen").json()["sources"][0]["rows"] == 10


def test_no_inputs_are_counted_while_no_version_plays(tmp_path: Path) -> None:
    app, client = client_of(tmp_path)
    app.models.current = None
    assert client.get("/api/seen").json() == {"version": None, "sources": []}
