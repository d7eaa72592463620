"""What the follower reports: notices, calls of listeners, and log records."""

import logging
from pathlib import Path

import pytest

from serving.errors import RegistryUnavailableError, UnknownModelError
from serving.models.follower import Models
from tests.support.serving.faulty import BAD, GOOD, BrittleCache, Registry, following, playing, poll

BEGIN = (
    "training registers models as dqn-ENVIRONMENT, so name one of those with --model, or set the alias 'champion' on a "
    "version"
)


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
def test_a_registry_that_fails_is_reported(
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
def test_a_version_that_cannot_be_fetched_is_reported(fault: Exception, tmp_path: Path) -> None:
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


def test_a_missing_alias_is_reported_with_the_versions_that_exist(tmp_path: Path) -> None:
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
def test_a_version_that_is_named_by_its_number_plays_whatever_the_aliases(
    number: str, notice: str, tmp_path: Path
) -> None:
    registry, cache = Registry(GOOD[0], GOOD[1]), BrittleCache(tmp_path, "dqn")
    models = Models(registry, alias=None, version=number, cache=cache)
    assert poll(models)
    assert models.notice.startswith(notice + (f": {BEGIN}" if notice else ""))
    assert playing(models) == (None if notice else "2")
    assert cache.played(number) == (models.current.version if models.current else None)


def test_listeners_are_called_for_swaps_and_new_notices_alone(tmp_path: Path) -> None:
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


def test_each_event_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
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
