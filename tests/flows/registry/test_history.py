"""The champions of a model in order: what a rollback returns to, and what a retired version is kept from."""

import json
import re
from typing import Any

import pytest

from flows.failures.errors import InputError, RegistryError
from flows.promotion import roll_back
from flows.registry.champion import move_champion
from flows.registry.history import (
    CHAMPIONS_TAG,
    PROMOTED_TAG,
    RETIRED_TAG,
    before,
    earlier_champions,
    require_usable,
    retire,
    return_to_previous,
)
from flows.registry.lock import PROMOTION_TAG
from flows.registry.versions import CHALLENGER, CHAMPION, PREVIOUS
from tests.support.flows.in_memory import Store, in_memory

NAME = "dqn-CartPole-v1"


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Store:
    """A registry with six versions and no champion."""
    store = in_memory(monkeypatch, "flows.promotion")
    for _ in range(6):
        store.version({})
    store.tags[PROMOTION_TAG] = "mine"
    return store


def promoted(store: Any, *versions: int) -> None:
    for version in versions:
        move_champion(store, NAME, version, "mine")


def back(store: Any, request: str) -> int:
    return return_to_previous(store, NAME, "mine", request)


@pytest.mark.parametrize(
    ("champions", "champion", "previous", "expected"),
    [
        ([1, 2, 5], 5, 2, [1, 2]),
        ([1, 2, 5], 2, 1, [1]),  # after a rollback the tag still lists what was rolled back
        ([1, 2, 5], 2, 2, [1]),  # a promotion that died between its aliases
        ([], 5, 2, [2]),  # of a registry without the tag
        ([], None, None, []),
        ([1, 2], 7, 2, [1, 2]),  # a person has moved the alias in MLflow
        ([1, 2, 3], 3, 1, [2, 1]),  # and the alias of the previous one
    ],
)
def test_what_was_champion_before(
    champions: list[int], champion: int | None, previous: int | None, expected: list[int]
) -> None:
    assert before(champions, champion, previous) == expected


def test_every_rollback_goes_one_further_back_and_says_where_it_stands(store: Any) -> None:
    promoted(store, 1, 3, 4)
    assert roll_back.fn(NAME) == (3, f"version 3 of {NAME} plays again; another rollback returns to version 1")
    assert store.aliases == {CHAMPION: 3, PREVIOUS: 1}
    assert roll_back.fn(NAME) == (1, f"version 1 of {NAME} plays again; there is no earlier champion")
    assert store.aliases == {CHAMPION: 1}
    with pytest.raises(InputError, match=r"version 1 is the first of its champions: promote another version instead"):
        roll_back.fn(NAME)


def test_a_promotion_after_a_rollback_leads_back_to_what_played_before_it(store: Any) -> None:
    promoted(store, 1, 2, 3)
    assert back(store, "a") == 2
    promoted(store, 5)
    assert [back(store, request) for request in "bc"] == [2, 1]


def test_a_version_is_listed_once_even_if_it_was_champion_twice(store: Any) -> None:
    promoted(store, 1, 2, 1, 3)
    assert json.loads(store.tags[CHAMPIONS_TAG]) == [2, 1, 3]
    assert [back(store, request) for request in "ab"] == [1, 2]


def test_a_request_that_was_interrupted_rolls_back_once(store: Any) -> None:
    promoted(store, 1, 2, 3)
    assert [back(store, request) for request in "aabb"] == [2, 2, 1, 1]


def test_the_history_is_bounded(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.registry.history._KEPT", 3)
    promoted(store, 1, 2, 3, 4, 5)
    assert json.loads(store.tags[CHAMPIONS_TAG]) == [3, 4, 5]


def test_a_version_that_was_deleted_or_retired_is_passed_over(store: Any) -> None:
    promoted(store, 1, 2, 3, 4)
    del store.versions[3], store.aliases[PREVIOUS]  # as MLflow deletes a version
    retire(store, NAME, 2, "mine")
    assert earlier_champions(store, NAME) == [1]
    assert back(store, "a") == 1


def test_a_retired_version_loses_its_aliases_and_is_promoted_by_force_only(store: Any) -> None:
    promoted(store, 1, 2, 3)
    store.aliases[CHALLENGER] = 4
    retire(store, NAME, 2, "mine")
    retire(store, NAME, 4, "mine")
    assert store.aliases == {CHAMPION: 3, PREVIOUS: 1}
    with pytest.raises(InputError, match=r"version 2 of dqn-CartPole-v1 was retired at 20.*: promote another one, or"):
        require_usable(store, NAME, 2, force=False)
    require_usable(store, NAME, 2, force=True)
    assert RETIRED_TAG not in store.versions[2].tags
    require_usable(store, NAME, 2, force=False)


def test_the_champion_is_not_retired_nor_what_does_not_exist(store: Any) -> None:
    promoted(store, 1)
    with pytest.raises(InputError, match="version 1 is the champion of dqn-CartPole-v1: promote another one or roll"):
        retire(store, NAME, 1, "mine")
    with pytest.raises(RegistryError, match="has no version 9"):
        retire(store, NAME, 9, "mine")
    assert not any(RETIRED_TAG in version.tags for version in store.versions.values())


def test_who_promoted_rolled_back_and_retired_and_when_is_written_down(store: Store) -> None:
    promoted(store, 1, 2)
    back(store, "request")
    retire(store, NAME, 2, "mine")  # type: ignore[arg-type]
    signed = r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00 by \S+"
    assert re.fullmatch(f"{signed}, a rollback", store.versions[1].tags[PROMOTED_TAG])
    assert re.fullmatch(signed, store.versions[2].tags[PROMOTED_TAG])
    assert re.fullmatch(signed, store.versions[2].tags[RETIRED_TAG])
    assert PROMOTED_TAG not in store.versions[3].tags
