"""Following the registry: which version plays, and when the registry is asked again."""

import asyncio
from pathlib import Path

import pytest

from serving.errors import RegistryUnavailableError, UnknownModelError
from serving.models.served import Description
from serving.models.source import Snapshot
from tests.support.serving.faulty import BAD, GOOD, BrittleCache, Registry, following, playing, poll
from tests.support.serving.policies import PROPERTIES


def test_the_follower_waits_swaps_and_keeps_the_last_good_version(tmp_path: Path) -> None:
    registry = Registry()
    models = following(registry, tmp_path)
    assert (models.notice, models.reachable, models.registry_age) == ("looking for a model", None, None)
    assert poll(models)
    assert (playing(models), models.swaps) == (None, 0)

    registry.add("1", GOOD[0])
    registry.aliases["champion"] = "1"
    assert poll(models)
    assert (playing(models), models.notice, models.swaps) == ("1", "", 1)
    assert poll(models)
    assert (models.swaps, registry.fetched) == (1, 1), "the version that plays is not swapped for itself"

    registry.add("2", BAD["garbage"])
    registry.aliases["champion"] = "2"
    for _ in range(3):
        assert poll(models) is False
    assert playing(models) == "1"
    assert models.failed_swaps == 1, "a broken version is tried once, not at every poll"
    assert models.aliases_of("1") == ["champion"], "the alias names what plays"
    assert models.aliases_of("2") == []

    registry.add("3", GOOD[1])
    registry.aliases["champion"] = "3"
    assert poll(models)
    assert (playing(models), models.notice, models.swaps) == ("3", "", 2)
    registry.add("3", GOOD[2], created=2)
    assert poll(models)
    assert (playing(models), models.swaps) == ("3", 3), "a version that was deleted and made anew is another one"
    assert models.errors == 0


def test_the_version_that_plays_is_described(tmp_path: Path) -> None:
    registry = Registry(GOOD[0])
    models = following(registry, tmp_path)
    poll(models)
    assert models.current
    assert models.describe(models.current) == Description(
        version="1",
        aliases=["champion"],
        env_id="CartPole-v1",
        world="nominal",
        action_meanings=("left", "right"),
        run_id=PROPERTIES["run_id"],
        experiment_id="",
        seed=7,
        sha256=models.current.sha256,
        tags={},
    )


def test_the_age_of_the_registry_counts_from_its_last_answer(tmp_path: Path) -> None:
    now = 100.0
    registry = Registry()
    models = following(registry, tmp_path, clock=lambda: now)
    poll(models)
    now = 107.0
    assert models.registry_age == 7
    registry.fault = RegistryUnavailableError("gone")
    poll(models)
    assert models.registry_age == 7
    registry.fault = UnknownModelError("no model")
    poll(models)
    assert models.registry_age == 0


@pytest.mark.parametrize(
    ("poll_seconds", "failures", "delay"),
    [(2, 1, 2), (2, 2, 4), (2, 3, 8), (2, 4, 10), (2, 5000, 10), (60, 5, 60), (0.01, 5000, 2.56)],
)
def test_a_failure_is_retried_at_growing_intervals(
    poll_seconds: float, failures: int, delay: float, tmp_path: Path
) -> None:
    models = following(Registry(), tmp_path, poll_seconds=poll_seconds)
    models._failures = failures
    assert models._backoff() == delay


def test_the_loop_waits_until_the_next_poll_or_until_it_is_woken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Registry(GOOD[0])
    poll(following(registry, tmp_path))  # what is on the disk now
    models, waited = following(registry, tmp_path), []
    registry.fault = RegistryUnavailableError("gone")
    faults = iter([RuntimeError("locked"), UnknownModelError("no model"), registry.fault])

    async def wait_for(woken: object, delay: float) -> None:
        woken.close()  # type: ignore[attr-defined] # a coroutine that is never awaited
        waited.append((delay, playing(models), models._refresh.is_set()))
        registry.fault = next(faults, None)
        if len(waited) == 4:
            raise asyncio.CancelledError
        if len(waited) != 2:
            raise TimeoutError
        models.refresh()
        assert models._refresh.is_set()

    monkeypatch.setattr("asyncio.wait_for", wait_for)
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(models.run())
    assert [delay for delay, _, _ in waited] == [2, 4, 2, 2], "longer after each failure in a row"
    assert [number for _, number, _ in waited] == ["1"] * 4, (
        "the version that played last plays before the registry answers"
    )
    assert not any(woken for _, _, woken in waited), "after waking the loop waits again"


def test_a_snapshot_is_written_when_it_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noted: list[Snapshot] = []
    monkeypatch.setattr(BrittleCache, "remember", lambda cache, snapshot: noted.append(snapshot))
    registry = Registry(GOOD[0])
    models = following(registry, tmp_path)
    for _ in range(2):
        poll(models)
    registry.aliases["challenger"] = "1"
    poll(models)
    assert [set(snapshot.aliases) for snapshot in noted] == [{"champion"}, {"champion", "challenger"}]


def test_as_many_refusals_are_remembered_as_there_is_room_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.models.loader._REFUSED_LIMIT", 2)
    registry = Registry(*[BAD["garbage"]] * 3)
    models = following(registry, tmp_path)

    def refused(number: str) -> int:
        registry.aliases["champion"] = number
        poll(models)
        return models.failed_swaps

    assert [refused(number) for number in "12121"] == [1, 2, 2, 2, 2]
    assert [refused(number) for number in "321"] == [3, 3, 4], "the oldest one is forgotten"


def test_the_registry_is_given_the_last_snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Snapshot | None] = []
    registry = Registry(GOOD[0])
    answer = registry.snapshot(None)

    def snapshot(last: Snapshot | None) -> Snapshot:
        asked.append(last)
        return answer

    monkeypatch.setattr(registry, "snapshot", snapshot)
    models = following(registry, tmp_path)
    for _ in range(2):
        poll(models)
    assert asked == [None, answer]
