"""Shards as runs of a deployment: what is started, what is waited for, and what ended badly. Without an API."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from prefect.client.schemas.objects import FlowRun, State
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelled, Completed, Crashed, Failed, Pending, Running

from flows.failures.errors import InputError
from flows.search import spread as module
from flows.search.spread import spread
from flows.search.study import ShardError


class Api:
    """Runs that go from one state to the next each time they are asked for."""

    def __init__(self, *states: list[State | None]) -> None:
        self.states = dict(enumerate(states))
        self.started: list[dict[str, Any]] = []
        self.runs: dict[UUID, int] = {}

    def run_deployment(self, name: str, **options: Any) -> FlowRun:
        if name != "sweep-shard/default":
            raise ObjectNotFound(ValueError("404"))
        self.started.append(options)
        run = FlowRun(id=uuid4(), flow_id=uuid4(), name=options["flow_run_name"], state=Pending())
        self.runs[run.id] = options["parameters"]["shard"]
        return run

    def read_flow_run(self, run_id: UUID) -> FlowRun:
        shard = self.runs[run_id]
        states = self.states[shard]
        state = states.pop(0) if len(states) > 1 else states[0]
        name = state.name if state else None
        return FlowRun(id=run_id, flow_id=uuid4(), name=f"s shard {shard}", state=state, state_name=name)


def spread_to(api: Api, monkeypatch: pytest.MonkeyPatch, deployment: str = "sweep-shard/default") -> list[float]:
    """Returns the pauses between two looks."""
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        assert len(pauses) < 9, "it waits for ever"

    @contextmanager
    def client(*, sync_client: bool) -> Iterator[Api]:
        assert sync_client
        yield api

    monkeypatch.setattr(module, "get_client", client)
    monkeypatch.setattr(module, "run_deployment", api.run_deployment)
    monkeypatch.setattr("flows.search.spread.time.sleep", pause)
    spread(deployment, "s", range(len(api.states)), checkpoint_dir="kept")
    return pauses


def crashed(seconds_ago: float) -> State:
    return Crashed(timestamp=datetime.now(UTC) - timedelta(seconds=seconds_ago))


def test_every_shard_is_a_run_that_is_made_once_and_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    api = Api([None, Pending(), Running(), Completed()], [Completed()])
    assert spread_to(api, monkeypatch) == [2.0] * 3
    assert api.started == [
        {
            "parameters": {"study": "s", "shard": shard, "checkpoint_dir": "kept"},
            "timeout": 0,
            "flow_run_name": f"s shard {shard}",
            "idempotency_key": f"s-{shard}",
        }
        for shard in (0, 1)
    ]


def test_a_run_that_crashed_may_be_scheduled_again_within_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    api = Api([crashed(1), crashed(30), Running(), Completed()])
    assert len(spread_to(api, monkeypatch)) == 3
    with pytest.raises(ShardError, match=r"1 of 1 shards of study s did not end well: s shard 0 \(Crashed\)"):
        spread_to(Api([crashed(61)]), monkeypatch)


def test_shards_that_ended_badly_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    named = r"2 of 3 .*: s shard 0 \(Failed\), s shard 2 \(Cancelled\)\. .* resume the study with resume=s"
    with pytest.raises(ShardError, match=named):
        spread_to(Api([Failed()], [Completed()], [Cancelled()]), monkeypatch)


def test_a_deployment_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="there is no deployment 'other/one'; `prefect deployment ls` shows"):
        spread_to(Api([Completed()]), monkeypatch, deployment="other/one")
