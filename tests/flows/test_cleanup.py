"""What the cleanup removes, and what must stay."""

import os
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, TEMPORARILY_UNAVAILABLE
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import StateType

from flows import cleanup as module
from flows.cleanup import NeededRun, cleanup, cutoff, needed_runs, outdated_results, remove, unneeded_checkpoints

NOW = datetime.now(UTC)
OLDEST = NOW - timedelta(days=30)


def file(path: Path, *, days: float, size: int = 3) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)
    time = (NOW - timedelta(days=days)).timestamp()
    os.utime(path, (time, time))
    return path


@pytest.mark.parametrize(("ages", "expected"), [((), 30), ((2,), 30), ((40, 2), 40), ((31, 50), 50)])
def test_results_are_kept_from_the_start_of_the_oldest_needed_run(ages: tuple[int, ...], expected: int) -> None:
    needed = [NeededRun(id=str(age), started=NOW - timedelta(days=age)) for age in ages]
    assert cutoff(needed, OLDEST) == NOW - timedelta(days=expected)


def test_results_written_before_are_outdated(tmp_path: Path) -> None:
    old = file(tmp_path / "old", days=31)
    file(tmp_path / "new", days=29)
    (tmp_path / "directory").mkdir()
    assert outdated_results(tmp_path, OLDEST) == [old]
    assert outdated_results(tmp_path / "missing", OLDEST) == []


def test_a_run_is_needed_while_it_goes_on_or_may_be_retried() -> None:
    def run(name: str, *, started: float | None, ended: float | None = None) -> Any:
        return SimpleNamespace(
            id=name,
            start_time=None if started is None else NOW - timedelta(days=started),
            end_time=None if ended is None else NOW - timedelta(days=ended),
        )

    runs = [
        run("running for long", started=90),
        run("failed lately", started=45, ended=29),
        run("failed long ago", started=45, ended=31),
        run("scheduled", started=None),
        *(run(f"filler {k}", started=1) for k in range(300)),
    ]
    asked: list[Any] = []

    class Client:
        def read_flow_runs(self, *, flow_run_filter: Any, limit: int, offset: int) -> list[Any]:
            asked.append(flow_run_filter)
            return runs[offset : offset + limit]

    needed = needed_runs(cast("SyncPrefectClient", Client()), OLDEST)
    assert [each.id for each in needed[:3]] == ["running for long", "failed lately", "filler 0"]
    assert len(needed) == 302
    assert set(asked[0].state.type.any_) == set(StateType) - {StateType.COMPLETED, StateType.CANCELLED}


RUNS: dict[str, tuple[str, dict[str, str]]] = {
    "trained": ("active", {"trained": "true"}),
    "deleted": ("deleted", {}),
    "failed": ("active", {}),
    "old": ("active", {}),
    "running": ("active", {"prefect.flow_run_id": "needed"}),
    "ending": ("active", {"prefect.flow_run_id": "needed", "trained": "true"}),
}


class Tracking:
    def __init__(self, code: int) -> None:
        self.error = MlflowException("no", error_code=code)

    def get_run(self, run_id: str) -> Any:
        if run_id not in RUNS:
            raise self.error
        stage, tags = RUNS[run_id]
        return SimpleNamespace(info=SimpleNamespace(lifecycle_stage=stage), data=SimpleNamespace(tags=tags))


def test_checkpoints_stay_while_a_run_may_go_on_from_them(tmp_path: Path) -> None:
    client = cast("MlflowClient", Tracking(code=RESOURCE_DOES_NOT_EXIST))
    go = [
        file(tmp_path / "deleted.ckpt", days=0),
        file(tmp_path / "foreign-old.ckpt", days=31),
        file(tmp_path / "old.ckpt", days=31),
        file(tmp_path / "trained.ckpt", days=0),
        file(tmp_path / ".dead.ckpt.17", days=31),
    ]
    stay = [
        file(tmp_path / "failed.ckpt", days=29),
        file(tmp_path / "running.ckpt", days=90),
        file(tmp_path / "ending.ckpt", days=0),
        file(tmp_path / "foreign.ckpt", days=29),
        file(tmp_path / ".alive.ckpt.18", days=0),
        file(tmp_path / "notes.txt", days=90),
    ]
    assert unneeded_checkpoints(client, tmp_path, {"needed"}, OLDEST) == go
    assert remove(go) == "5 files (0.0 MiB)"
    assert remove(go) == "0 files (0.0 MiB)"
    assert all(path.exists() for path in stay)
    assert remove([file(tmp_path / "large", days=0, size=3 * 2**20)]) == "1 files (3.0 MiB)"


def test_a_tracking_server_that_is_away_removes_nothing(tmp_path: Path) -> None:
    file(tmp_path / "unknown.ckpt", days=90)
    with pytest.raises(MlflowException):
        unneeded_checkpoints(cast("MlflowClient", Tracking(code=TEMPORARILY_UNAVAILABLE)), tmp_path, set(), OLDEST)


@pytest.mark.slow
def test_the_flow_says_what_it_removed(
    prefect_api: str, store: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = tmp_path / "results"
    old, new = file(results / "old", days=3), file(results / "new", days=0)
    with_setting = SimpleNamespace(value=lambda: results)
    monkeypatch.setattr(module, "PREFECT_LOCAL_STORAGE_PATH", with_setting)
    checkpoint = file(tmp_path / "checkpoints" / "unknown.ckpt", days=3)
    said = cleanup(keep_days=2, checkpoint_dir=str(checkpoint.parent))
    assert said == "removed 1 files (0.0 MiB) of results and 1 files (0.0 MiB) of checkpoints"
    assert (old.exists(), new.exists(), checkpoint.exists()) == (False, True, False)


@pytest.mark.parametrize("named", [False, True])
def test_results_in_prefects_default_storage_may_be_anothers_and_stay(
    named: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = tmp_path / ("results" if named else "storage")
    old = file(storage / "old", days=90)
    monkeypatch.setattr(module, "PREFECT_HOME", SimpleNamespace(value=lambda: tmp_path))
    monkeypatch.setattr(module, "PREFECT_LOCAL_STORAGE_PATH", SimpleNamespace(value=lambda: storage))
    monkeypatch.setattr(module, "connect", lambda: None)
    monkeypatch.setattr(module, "get_client", lambda sync_client: nullcontext())
    monkeypatch.setattr(module, "needed_runs", lambda prefect, oldest: [])
    said = cleanup.fn(checkpoint_dir=str(tmp_path / "none"))
    assert old.exists() is not named
    assert ("results stay" in said) is not named
