"""One promotion at a time: the lock of a model, of Prefect in a flow run and of this machine otherwise."""

import fcntl
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import prefect.concurrency._leases as leases
import prefect.concurrency.sync
import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.exceptions import ObjectAlreadyExists

from flows.registry import lock, machine_lock
from flows.registry.lock import promotion_lock
from tests.support.flows.promotion import NAME


@pytest.mark.slow
def test_one_promotion_at_a_time_holds_the_lock_of_a_model(prefect_api: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.registry.lock.flow_run_id", lambda: "a flow run")
    with SyncPrefectClient(prefect_api) as client:

        def limit() -> tuple[int, int]:
            found = client.read_global_concurrency_limit_by_name("promote-dqn-locked")
            return found.limit, found.active_slots

        for _ in range(2):
            with promotion_lock("dqn-locked"):
                assert limit() == (1, 1)
            assert limit() == (1, 0)


def test_without_prefect_one_promotion_at_a_time_holds_the_lock_on_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine_lock, "DIRECTORY", tmp_path)

    def is_free() -> bool:
        (path,) = tmp_path.iterdir()
        with path.open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
        return True

    for _ in range(2):
        with promotion_lock("dqn-locked"):
            assert not is_free()
        assert is_free()
    with promotion_lock("dqn-locked"), promotion_lock("dqn-another"):
        assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("error", [None, ValueError("of the block"), KeyboardInterrupt()])
def test_a_lock_that_prefect_does_not_take_back_ends_no_promotion(
    error: BaseException | None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    @contextmanager
    def concurrency(name: str, **_: Any) -> Iterator[None]:
        yield
        raise ConnectionError("away")

    monkeypatch.setattr(lock, "flow_run_id", lambda: "a flow run")
    monkeypatch.setattr("prefect.client.orchestration.get_client", lambda sync_client: nullcontext(MagicMock()))
    monkeypatch.setattr(prefect.concurrency.sync, "concurrency", concurrency)
    with pytest.raises(type(error)) if error else nullcontext(), promotion_lock(NAME):
        if error:
            raise error
    assert f"promote-{NAME} was not released (away)" in caplog.text


def test_a_lease_that_is_not_renewed_ends_no_promotion(monkeypatch: pytest.MonkeyPatch) -> None:
    """With Prefect's own lock, of which only the calls of its server are replaced."""
    failed = threading.Event()

    def renew(*_: Any) -> bool:
        raise ConnectionError("410")

    def handled(*arguments: Any) -> None:
        handle(*arguments)
        failed.set()

    handle = leases._handle_lease_renewal_failure
    monkeypatch.setattr(lock, "flow_run_id", lambda: "a flow run")
    monkeypatch.setattr("prefect.client.orchestration.get_client", lambda sync_client: nullcontext(MagicMock()))
    monkeypatch.setattr(leases, "get_client", lambda sync_client: nullcontext(MagicMock()))
    monkeypatch.setattr(leases, "_renew_concurrency_lease_with_retries", renew)
    monkeypatch.setattr(leases, "_handle_lease_renewal_failure", handled)
    granted = SimpleNamespace(limits=["one"], lease_id=uuid.uuid4())
    for name, answer in (
        ("acquire_concurrency_slots_with_lease", granted),
        ("release_concurrency_slots_with_lease", None),
    ):
        monkeypatch.setattr(f"prefect.concurrency._sync.{name}", lambda *_, answer=answer, **__: answer)
    for name in ("emit_concurrency_acquisition_events", "emit_concurrency_release_events"):
        monkeypatch.setattr(f"prefect.concurrency._sync.{name}", lambda *_: None)
    with promotion_lock(NAME):
        assert failed.wait(30)
        reached = True
    assert reached


@pytest.mark.parametrize("made", [True, False])
def test_under_prefect_a_lock_is_one_slot_that_frees_itself(made: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    class Api:
        def upsert_global_concurrency_limit_by_name(self, name: str, limit: int) -> None:
            asked.append((name, limit))
            if not made:
                raise ObjectAlreadyExists(ValueError("another has"))

    @contextmanager
    def client(*, sync_client: bool) -> Iterator[Api]:
        assert sync_client
        yield Api()

    @contextmanager
    def concurrency(name: str, **options: Any) -> Iterator[None]:
        asked.append((name, options))
        yield
        asked.append("freed")

    monkeypatch.setattr(lock, "flow_run_id", lambda: "a flow run")
    monkeypatch.setattr(lock, "machine_lock", lambda store, what: pytest.fail("it is not this machine's alone"))
    monkeypatch.setattr("prefect.client.orchestration.get_client", client)
    monkeypatch.setattr(prefect.concurrency.sync, "concurrency", concurrency)
    with promotion_lock(NAME):
        asked.append("held")
    limit = f"promote-{NAME}"
    taken = {"occupy": 1, "strict": True, "lease_duration": 60.0, "raise_on_lease_renewal_failure": False}
    assert asked == [(limit, 1), (limit, taken), "held", "freed"]
