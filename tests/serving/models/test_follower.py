"""Following the registry: what plays, what is said about it, and when it is looked at again."""

import asyncio
import errno
import logging
import os
from pathlib import Path

import pytest

from serving.errors import RegistryUnavailableError, UnknownModelError
from serving.models.follower import Models
from serving.models.served import Description
from serving.models.source import Snapshot
from tests.support.serving.faulty import BAD, GOOD, BrittleCache, Registry, following
from tests.support.serving.policies import PROPERTIES

BEGIN = (
    "training registers models as dqn-ENVIRONMENT, so name one of those with --model, or set the alias 'champion' on a "
    "version"
)


def poll(models: Models) -> bool:
    return asyncio.run(models.poll())


def playing(models: Models) -> str | None:
    return models.current.version.number if models.current else None


def test_it_waits_swaps_refuses_and_plays_on(tmp_path: Path) -> None:
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
    assert (models.swaps, registry.fetched) == (1, 1), "what plays is not swapped for itself"

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


@pytest.mark.parametrize(
    ("fault", "sentence", "without", "with_one", "settled", "reachable"),
    [
        (
            RegistryUnavailableError("gone"),
            "the registry does not answer (gone)",
            "; nothing to play until it answers",
            "; the last good copy plays on",
            False,
            False,
        ),
        (UnknownModelError("no model"), "no model", f": {BEGIN}", "; the last good copy plays on", True, True),
        (
            RuntimeError("locked"),
            "following the registry failed (RuntimeError: locked)",
            "; nothing plays, and it is tried again",
            "; the last good version plays on, and it is tried again",
            False,
            None,
        ),
    ],
)
def test_a_registry_that_fails_is_told(
    fault: Exception, sentence: str, without: str, with_one: str, settled: bool, reachable: bool | None, tmp_path: Path
) -> None:
    registry = Registry(GOOD[0])
    models = following(registry, tmp_path)
    registry.fault = fault
    assert poll(models) is settled
    assert models.notice.startswith(sentence + without)
    assert models.reachable is reachable
    registry.fault = None
    assert poll(models)
    assert (models.notice, models.reachable) == ("", True)
    registry.fault = fault
    assert poll(models) is settled
    assert models.notice == sentence + with_one
    assert playing(models) == "1"


@pytest.mark.parametrize("fault", [RegistryUnavailableError("gone"), ValueError("two files")])
def test_a_version_that_cannot_be_had_is_told(fault: Exception, tmp_path: Path) -> None:
    what = "cannot be fetched (gone)" if isinstance(fault, RegistryUnavailableError) else "was refused: two files"
    registry = Registry(GOOD[0], GOOD[1])
    models = following(registry, tmp_path)
    registry.download_fault = fault
    for _ in range(2):
        assert poll(models) is False
    assert models.notice == f"version 1 {what}; nothing plays"
    registry.download_fault = None
    assert poll(models)
    registry.download_fault, registry.aliases["champion"] = fault, "2"
    assert poll(models) is False
    assert models.notice == f"version 2 {what}; version 1 plays on"
    assert models.failed_swaps == (2 if isinstance(fault, ValueError) else 0), "of each version once"


def test_an_alias_that_is_not_there_is_told_beside_the_versions_that_are(tmp_path: Path) -> None:
    registry = Registry(GOOD[0], GOOD[1])
    registry.add("10", GOOD[2])
    registry.aliases = {"other": "10", "challenger": "2"}
    models = following(registry, tmp_path)
    assert poll(models), "nothing is to be tried again soon"
    missing = "model dqn has no alias 'champion' but "
    assert models.notice.startswith(f"{missing}1, 2 @challenger, 10 @other: {BEGIN}")
    registry.aliases["champion"] = "2"
    assert poll(models)
    assert models.aliases_of("2") == ["champion", "challenger"]
    del registry.aliases["champion"]
    assert poll(models)
    assert models.notice == f"{missing}1, 2 @champion @challenger, 10 @other; the last good version plays on"


@pytest.mark.parametrize(("number", "notice"), [("2", ""), ("9", "model dqn has no version 9 but 1 @champion, 2")])
def test_a_version_that_is_named_by_its_number_plays_wherever_aliases_are(
    number: str, notice: str, tmp_path: Path
) -> None:
    registry, cache = Registry(GOOD[0], GOOD[1]), BrittleCache(tmp_path, "dqn")
    models = Models(registry, alias=None, version=number, cache=cache)
    assert poll(models)
    assert models.notice.startswith(notice + (f": {BEGIN}" if notice else ""))
    assert playing(models) == (None if notice else "2")
    assert cache.played(number) == (models.current.version if models.current else None)


def test_what_plays_is_described(tmp_path: Path) -> None:
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


def test_who_listens_is_told_of_swaps_and_of_news_alone(tmp_path: Path) -> None:
    registry = Registry(GOOD[0], GOOD[1])
    models = following(registry, tmp_path)
    told: list[tuple[str | None, str]] = []
    models.listeners.append(lambda: told.append((playing(models), models.notice)))
    for _ in range(2):
        poll(models)
    assert told == [("1", "")]
    registry.fault = RegistryUnavailableError("gone")
    for _ in range(2):
        poll(models)
    assert told[1:] == [("1", "the registry does not answer (gone); the last good copy plays on")]
    registry.fault, registry.aliases["champion"] = None, "2"
    poll(models)
    assert told[2:] == [("2", "")]


def test_the_registry_is_seen_when_it_answers(tmp_path: Path) -> None:
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


def test_what_happens_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "serving")
    registry = Registry(BAD["garbage"], GOOD[1])
    models = following(registry, tmp_path)

    def logged(fault: Exception | None, polls: int = 2) -> list[tuple[str, str]]:
        caplog.clear()
        registry.fault = fault
        for _ in range(polls):
            poll(models)
        return [(record.levelname, record.getMessage()[:40]) for record in caplog.records]

    refused = [("ERROR", "version refused"), ("WARNING", "version 1 was refused: not a loadable ON")]
    assert logged(None) == [("INFO", "registry answers"), *refused]
    registry.aliases["champion"] = "2"
    assert logged(None) == [("INFO", "swapped")]
    gone = [("WARNING", "registry unreachable"), ("WARNING", "the registry does not answer (gone); the")]
    assert logged(RegistryUnavailableError("gone")) == gone
    assert logged(None) == [("INFO", "registry answers")], "and nothing where all is well"
    failed = [("ERROR", "following the registry failed"), ("WARNING", "following the registry failed (KeyError:")]
    assert logged(KeyError("x")) == failed
    assert models.errors == 2, "counted each time"
    assert logged(KeyError("y"), 1) == failed


@pytest.mark.parametrize(
    ("poll_seconds", "failures", "delay"),
    [(2, 1, 2), (2, 2, 4), (2, 3, 8), (2, 4, 10), (2, 5000, 10), (60, 5, 60), (0.01, 5000, 2.56)],
)
def test_what_fails_is_tried_again_later_and_later(
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
        woken.close()  # type: ignore[attr-defined] # a coroutine that nobody awaits
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
    assert [number for _, number, _ in waited] == ["1"] * 4, "what played last plays before the registry answers"
    assert not any(woken for _, _, woken in waited), "who was woken waits again"


def test_what_played_last_plays_after_a_restart_wherever_the_alias_is(tmp_path: Path) -> None:
    registry = Registry(GOOD[0], BAD["garbage"])
    models = following(registry, tmp_path)
    poll(models)
    registry.aliases["champion"] = "2"
    poll(models)
    registry.fault = RegistryUnavailableError("connection refused")
    again = following(registry, tmp_path)
    asyncio.run(again.restore())
    assert playing(again) == "1"
    assert again.notice == "version 1 played last and plays on; alias 'champion' is at 2"
    assert (again.registry_age, again.swaps, again.errors) == (None, 1, 0)
    assert again.aliases_of("1") == ["champion"]
    assert poll(again) is False
    assert "the last good copy plays on" in again.notice
    registry.fault = None
    registry.aliases["champion"] = "1"
    poll(models)
    again = following(registry, tmp_path)
    asyncio.run(again.restore())
    assert (playing(again), again.notice) == ("1", "")


@pytest.mark.parametrize("lost", ["snapshot.json", "played-*.json", "*.onnx", "*"])
def test_a_restart_takes_what_is_left_on_the_disk(lost: str, tmp_path: Path) -> None:
    models = following(Registry(GOOD[0]), tmp_path)
    poll(models)
    for path in tmp_path.rglob(lost):
        if path.is_file():
            path.unlink()
    again = following(Registry(), tmp_path)
    asyncio.run(again.restore())
    assert playing(again) == ("1" if lost == "snapshot.json" else None)
    assert (set(again.snapshot.versions) == {"1"}) is (lost in ("played-*.json", "*.onnx"))
    assert again.errors == 0
    assert again.notice == ("" if again.current else "looking for a model")


def test_without_a_disk_nothing_is_restored_and_all_else_works() -> None:
    models = Models(Registry(GOOD[0]), alias="champion", version=None)
    asyncio.run(models.restore())
    assert playing(models) is None
    assert poll(models)
    assert (playing(models), models.errors) == ("1", 0)


def test_a_copy_on_the_disk_spares_the_download(tmp_path: Path) -> None:
    registry, models = Registry(GOOD[0]), following(Registry(GOOD[0]), tmp_path)
    poll(models)
    again = following(registry, tmp_path)
    assert poll(again)
    assert (playing(again), registry.fetched) == ("1", 0)


def test_a_copy_that_is_not_accepted_any_more_is_fetched_anew(tmp_path: Path) -> None:
    registry = Registry(GOOD[0])
    models = following(registry, tmp_path)
    models.loader._cache.keep(registry.versions["1"], BAD["garbage"])  # type: ignore[union-attr] # it has one
    assert poll(models)
    assert (playing(models), registry.fetched, models.failed_swaps) == ("1", 1, 0)


def test_a_disk_that_cannot_be_read_is_counted_and_the_registry_asked(tmp_path: Path) -> None:
    registry = Registry(GOOD[0])
    models = following(registry, tmp_path)
    models.loader._cache.fault = OSError(5, "Input/output error")  # type: ignore[union-attr] # it has one
    assert poll(models)
    assert (playing(models), models.errors) == ("1", 4), "the snapshot, the copy twice, and what plays"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.ENOTDIR, errno.EIO])
def test_a_disk_that_fails_is_one_sentence_in_the_log(
    code: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    registry = Registry(*GOOD[:3])
    models = following(registry, tmp_path)
    cache = models.loader._cache
    assert cache
    cache.fault = OSError(code, os.strerror(code), "/tmp/x")  # type: ignore[attr-defined] # it has one
    asyncio.run(models.restore())
    for champion in ("1", "2", "3"):
        registry.aliases["champion"] = champion
        assert poll(models)
        assert playing(models) == champion
    [said] = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert said.exc_info is None
    assert said.getMessage() == models.loader.disk_notice
    assert models.loader.disk_notice == (
        f"fetched versions cannot be kept in {cache.folder} ({os.strerror(code)}): make room there, or name another "
        "--cache-dir; what plays plays on, and is fetched anew after a restart"
    )
    cache.fault = None  # type: ignore[attr-defined] # as above
    registry.aliases["champion"] = "1"
    assert poll(models)
    assert cache.played("champion")


def test_what_the_registry_says_is_noted_when_it_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_the_registry_is_told_what_was_seen_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
