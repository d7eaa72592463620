"""Other versions than the one that plays: loaded when they are asked for, and kept while there is room."""

import asyncio
import gc
import threading
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

from serving.errors import PolicyError, RegistryUnavailableError, UnknownModelError
from serving.models.follower import Models
from serving.models.source import Version
from tests.support.serving.faulty import BAD, GOOD, Registry, following


def poll(models: Models) -> None:
    asyncio.run(models.poll())


def get(models: Models, reference: str) -> str:
    return asyncio.run(models.get(reference)).version.number


def hanging(registry: Registry, numbers: str) -> Callable[[], None]:
    """Let downloads of these versions hang; returns what releases them."""
    released, fetch = threading.Event(), registry.fetch

    def hang(version: Version) -> bytes:
        if version.number in numbers:
            assert released.wait(60)
        return fetch(version)

    registry.fetch = hang  # type: ignore[method-assign]
    return released.set


def test_a_version_is_found_by_number_and_by_alias(tmp_path: Path) -> None:
    registry = Registry(*GOOD[:3])
    registry.aliases["challenger"] = "2"
    models = following(registry, tmp_path)
    assert models.peek("champion") is models.peek("1") is None
    poll(models)
    assert models.peek("champion") is models.peek("1") is models.current
    assert models.peek("2") is models.peek("challenger") is models.peek("unknown") is None
    assert [get(models, reference) for reference in ("challenger", "2", "champion", "1")] == ["2", "2", "1", "1"]
    assert registry.fetched == 2, "each once"
    registry.aliases["champion"] = "2"
    poll(models)
    assert models.peek("1"), "what played stays loaded"
    assert registry.fetched == 2, "what was loaded plays"
    del registry.versions["2"]
    poll(models)
    assert models.peek("2") is models.peek("champion") is models.current, "it plays on, and is found"
    assert models.current


def test_an_unknown_reference_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    registry = Registry()
    models = following(registry, tmp_path)
    poll(models)
    with pytest.raises(RegistryUnavailableError, match=r"^no version of dqn is ready: model dqn has no alias"):
        get(models, "champion")
    with pytest.raises(UnknownModelError, match=rf"^model dqn has no version or alias '{'x' * 80}', and no other$"):
        get(models, "x" * 81)
    registry.add("9", GOOD[0])
    registry.add("10", GOOD[0])
    poll(models)
    with pytest.raises(UnknownModelError, match=r"^model dqn has no version or alias 'nine' but 9, 10$"):
        get(models, "nine")


@pytest.mark.parametrize(
    ("fault", "kind", "sentence"),
    [
        (OSError("hangs"), RegistryUnavailableError, "OSError: hangs"),
        (RegistryUnavailableError("gone"), RegistryUnavailableError, "gone"),
        (PolicyError("two files"), PolicyError, "two files"),
    ],
)
def test_a_failure_is_remembered_for_five_seconds(
    fault: Exception, kind: type[Exception], sentence: str, tmp_path: Path
) -> None:
    now = 100.0
    registry = Registry(GOOD[0], GOOD[1])
    models = following(registry, tmp_path, clock=lambda: now)
    poll(models)
    registry.download_fault = fault
    for seconds in (100.0, 104.9):
        now = seconds
        with pytest.raises(kind, match=f"^{sentence}$"):
            get(models, "2")
    assert registry.fetched == 2, "the one that plays, and one try"
    now, registry.download_fault = 105.0, None
    assert get(models, "2") == "2"


def test_as_many_failures_are_remembered_as_there_is_room_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.models.loader._REFUSED_LIMIT", 2)
    registry = Registry(GOOD[0], *[BAD["garbage"]] * 3)
    models = following(registry, tmp_path)
    poll(models)

    def tries(number: str) -> int:
        with pytest.raises(PolicyError, match="not a loadable"):
            get(models, number)
        return registry.fetched - 1

    assert [tries(number) for number in "23234"] == [1, 2, 2, 2, 3]
    assert [tries(number) for number in "342"] == [3, 3, 4], "the oldest one is forgotten"


def test_the_least_recently_used_version_leaves(tmp_path: Path) -> None:
    registry = Registry(*[GOOD[0]] * 10)
    registry.aliases["champion"] = "10"
    models = following(registry, tmp_path)
    poll(models)
    for number in range(1, 8):
        get(models, str(number))
    assert models.peek("1")
    get(models, "8")  # the ninth: the champion itself was used least recently, and plays on all the same
    assert len(models.loader._loaded) == 8
    get(models, "9")
    assert models.peek("2") is None
    assert models.peek("1")
    assert models.peek("3")
    assert models.peek("10") is models.current
    registry.add("1", GOOD[2], created=2)
    poll(models)
    assert models.peek("1") is None
    assert asyncio.run(models.get("1")).sha256 == sha256(GOOD[2]).hexdigest()
    del registry.versions["1"]
    poll(models)
    assert not [identity for identity in models.loader._loaded if identity[0] == "1"]
    with pytest.raises(UnknownModelError):
        get(models, "1")


def test_versions_that_hang_hold_up_neither_a_swap_nor_those_that_are_loaded(tmp_path: Path) -> None:
    async def story() -> None:
        registry = Registry(*GOOD)
        models = following(registry, tmp_path)
        await models.poll()
        release = hanging(registry, "23")
        waiting = [asyncio.create_task(models.get(number)) for number in "2322"]
        await asyncio.sleep(0)
        with pytest.raises(RegistryUnavailableError, match="2 versions are being loaded already"):
            await models.get("4")
        assert (await models.get("1")).version.number == "1"
        registry.aliases["champion"] = "4"
        assert await models.poll()
        assert models.current
        assert models.current.version.number == "4"
        release()
        assert [served.version.number for served in await asyncio.gather(*waiting)] == list("2322")
        assert registry.fetched == 4, "a second request for a version waits for the same download"
        assert not models.loader._loading

    asyncio.run(story())


@pytest.mark.parametrize("content", [GOOD[1], BAD["garbage"]])
def test_a_wait_that_timed_out_may_be_repeated_and_leaves_nothing_behind(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.models.loader._LOAD_SECONDS", 0)
    complaints: list[dict[str, object]] = []

    async def story() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context))
        registry = Registry(GOOD[0], content)
        models = following(registry, tmp_path)
        await models.poll()
        release = hanging(registry, "2")
        with pytest.raises(RegistryUnavailableError, match=r"^version 2 is still being fetched: ask again$"):
            await models.get("2")
        release()
        while models.loader._loading:
            await asyncio.sleep(0)
        assert (models.peek("2") is not None) is (content == GOOD[1])
        gc.collect()  # asyncio would report an exception that was never retrieved now

    asyncio.run(story())
    assert complaints == []


def test_a_load_that_ends_with_the_server_is_no_complaint(tmp_path: Path) -> None:
    complaints: list[dict[str, object]] = []

    async def story() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context))
        registry = Registry(*GOOD)
        models = following(registry, tmp_path)
        await models.poll()
        release = hanging(registry, "2")
        asking = asyncio.create_task(models.get("2"))
        while not models.loader._loading:
            await asyncio.sleep(0)
        for loading in models.loader._loading.values():
            loading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        release()

    asyncio.run(story())
    assert complaints == []


def test_a_moved_alias_is_loaded_while_it_is_watched(tmp_path: Path) -> None:
    registry = Registry(*GOOD[:2])
    registry.aliases["challenger"] = "1"
    models = following(registry, tmp_path)
    models.watched.update(["unknown", "challenger"])
    poll(models)
    registry.aliases["challenger"] = "2"
    poll(models)
    played = models.peek("challenger")
    assert played
    assert played.version.number == "2"
    assert models.errors == 0
