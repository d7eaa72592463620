"""How a promotion decides what to ask, and what it writes in which order, without a registry, policies or episodes.

With them it is tested in test_promote.py, the decision itself in test_gate.py.
"""

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from dqn.environments.world import NOMINAL, World
from dqn.seeding import further_seed
from flows.failures.errors import InputError
from flows.registry import champion as module
from flows.registry import versions
from flows.registry.champion import (
    MARGIN_USED_TAG,
    move_champion,
    play_rival,
    promote,
    read_champion_stress,
    read_comparison,
)
from flows.registry.evaluation import read_played
from flows.registry.history import CHAMPIONS_TAG, ROLLBACK_TAG, return_to_previous
from flows.registry.lock import PROMOTION_TAG, OvertakenError
from flows.registry.versions import CHALLENGER, CHAMPION, PREVIOUS
from tests.support.flows.in_memory import Store
from tests.support.flows.promotion import NAME, evaluated, store

__all__ = ["store"]  # the fixture


class Registry(Store):
    """Versions that return what they are given to return, and hold as much under stress."""

    evaluated: str
    broken: set[int]
    played: list[tuple[Any, ...]]
    environments: dict[int, str]


def test_writes_come_in_an_order_that_can_be_gone_on_with(store: Any) -> None:
    """The comparison, the gate's tag, the previous champion, the champion; a look at the promotion's token before."""
    gate = promote.fn(NAME, 3, evaluated(store, 3))
    assert gate.startswith("passed: better")
    token = store.tags[PROMOTION_TAG]
    assert len(token) == 16
    look = ("get_registered_model", NAME)
    assert store.written == [
        ("set_registered_model_tag", PROMOTION_TAG),
        ("log_dict", store.versions[3].run_id, "evaluation/version-3-champion.json"),
        look,
        ("set_model_version_tag", 3, "gate", gate),
        look,  # at the champions so far
        look,
        ("set_registered_model_tag", CHAMPIONS_TAG),
        look,
        ("set_registered_model_alias", PREVIOUS, 1),
        look,
        ("set_model_version_tag", 3, "promoted", store.versions[3].tags["promoted"]),
        look,
        ("set_registered_model_alias", CHAMPION, 3),
        look,
        ("delete_registered_model_alias", CHALLENGER),
    ]
    more = further_seed(3, episodes=900)
    assert store.played == [
        ("returns", 1, NOMINAL, 30),
        ("stress", 1, NOMINAL, 30),
        ("returns", 3, NOMINAL, more),
        ("returns", 1, NOMINAL, more),
    ]
    told = read_champion_stress(store, store.versions[3].run_id, 3)
    assert {name: test.push for name, test in told.items()} == {"champion, version 1": 10}
    assert read_champion_stress(store, store.versions[3].run_id, 2) == {}


@pytest.mark.parametrize(
    ("champion", "challenger", "stressed", "gate", "promoted"),
    [
        (2, 3, True, "passed: not worse and more robust", True),
        (2, 3, False, "refused: not better, the champion stays", False),
        (3, 2, True, "refused: not better, the champion stays", False),
        (3, 1, True, "refused: not better, the champion stays", False),
        (None, 1, True, "passed: mean return 480 over 100 episodes, threshold 475, no champion before", True),
    ],
)
def test_a_champion_is_put_under_stress_where_its_challenger_was(
    champion: int | None, challenger: int, stressed: bool, gate: str, promoted: bool, store: Any
) -> None:
    store.aliases = {CHAMPION: champion} if champion else {}
    assert promote.fn(NAME, challenger, evaluated(store, challenger, stressed=stressed)).startswith(gate)
    assert store.aliases[CHAMPION] == (challenger if promoted else champion)
    first = ["returns", "stress"][: (1 + stressed) * (champion is not None)]
    assert [what for what, *_ in store.played] == first + ["returns"] * 2 * (promoted and champion is not None)
    written = [file for call, *_, file in store.written if call == "log_dict"]
    assert bool(written) == (champion is not None)
    told = read_comparison(store, store.versions[challenger].run_id, challenger)
    assert told.get("episodes") == ((600 if promoted else 100) if champion else None)


def test_a_champion_that_cannot_be_played_is_put_under_no_stress(store: Any) -> None:
    store.broken.add(1)
    gate = promote.fn(NAME, 3, evaluated(store, 3))
    assert gate.endswith("champion version 1 cannot be played: version 1 is damaged")
    assert (store.played, store.aliases) == ([], {CHAMPION: 3, PREVIOUS: 1})
    assert not any(call == "log_dict" for call, *_ in store.written)


def test_a_champion_of_another_environment_stays(store: Any) -> None:
    """Two environments may have one model's name: a champion of the other one works, and users are served by it."""
    store.environments[1] = "CartPole/v1"
    gate = promote.fn(NAME, 3, evaluated(store, 3))
    assert gate.startswith("refused: champion version 1 plays another environment, CartPole/v1, under the same model")
    assert (store.played, store.aliases) == ([], {CHAMPION: 1, CHALLENGER: 3})


def test_what_is_given_away_of_the_margin_is_written_before_the_alias_and_read_with_the_champion(
    store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.aliases = {CHAMPION: 2}
    monkeypatch.setattr(
        "tests.support.flows.promotion.returns_of", lambda version, n=100: np.full(n, 499.0 if version == 3 else 500.0)
    )
    assert promote.fn(NAME, 3, evaluated(store, 3)).startswith("passed: not worse and more robust")
    assert store.versions[3].tags[MARGIN_USED_TAG] == "0.100"
    calls = [call for call, *_ in store.written]
    tag = store.written.index(("set_model_version_tag", 3, MARGIN_USED_TAG, "0.100"))
    assert calls[tag - 1] == "get_registered_model"
    assert tag < calls.index("set_registered_model_alias")
    rival = play_rival(store, versions.download(NAME, 1), 3, 10)
    assert rival
    assert rival.margin_used == 0.1


def test_both_play_the_same_further_episodes_and_none_twice(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """For as long as the challenger may be better: here it is ahead, and in all the episodes not surely."""
    played: dict[int, list[range]] = {1: [], 2: []}

    def play(policy: Any, world: World, *, seed: int, episodes: int = 100, environment: Any = None) -> Any:
        if seed != 20:
            played[policy.version].append(range(seed, seed + episodes))
        better = np.arange(episodes) % 2 * (policy.version == 2)
        return np.where(np.arange(episodes) % 7, 500.0, 400.0) + better * np.where(np.arange(episodes) % 3, 9, -9)

    monkeypatch.setattr(module, "play", play)
    monkeypatch.setattr("flows.registry.evaluation.play", play)
    monkeypatch.setattr(
        "tests.support.flows.promotion.returns_of", lambda version: play(SimpleNamespace(version=2), NOMINAL, seed=20)
    )
    assert promote.fn(NAME, 2, evaluated(store, 2, stressed=False)).startswith("refused: tie")
    assert played[1] == played[2]
    assert [len(block) for block in played[1]] == [500, 400]
    assert len({seed for block in played[1] for seed in block}) == 900
    assert read_comparison(store, store.versions[2].run_id, 2)["episodes"] == 1_000


def test_a_challenger_with_a_changed_file_is_refused(store: Any) -> None:
    store.broken.add(3)
    gate = promote.fn(NAME, 3, evaluated(store, 3))
    assert gate == f"refused: the file of version 3 of {NAME} is not the one that was evaluated any more"
    assert store.aliases == {CHAMPION: 1, CHALLENGER: 3}


@pytest.mark.parametrize(("world", "said"), [(World(force_mag=-10.0), "force_mag -10"), (NOMINAL, "nominal")])
def test_in_a_named_world_both_play_there_and_a_tie_goes_to_the_version_at_home(
    world: World, said: str, store: Any
) -> None:
    store.aliases = {CHAMPION: 3}
    gate = promote.fn(NAME, 2, evaluated(store, 2), world=world.to_dict())
    assert gate.startswith("passed: not worse and at home")
    assert gate.endswith(f" (in the world {said})")
    assert [played for _, _, *played in store.played] == [[world, 20]] * 2 + [
        [world, further_seed(2, episodes=900)]
    ] * 2
    assert "in the world" not in promote.fn(NAME, 3, evaluated(store, 3))


def test_no_version_is_compared_with_itself(store: Any) -> None:
    challenger = versions.download(NAME, 3)
    assert play_rival(store, challenger, None, 30) is None
    assert play_rival(store, challenger, 3, 30) is None
    rival = play_rival(store, challenger, 1, 30)
    assert rival
    assert (rival.version, rival.stress is None) == (1, False)


@pytest.mark.parametrize(("gate", "again"), [("passed: better", True), ("forced: the gate said", True), ("", False)])
def test_a_gate_that_the_champion_has_passed_is_not_asked_again(gate: str, again: bool, store: Any) -> None:
    store.aliases = {CHAMPION: 3, CHALLENGER: 3}
    store.versions[3].tags["gate"] = gate
    said = promote.fn(NAME, 3, evaluated(store, 3))
    assert (said == gate) is again
    assert store.aliases == {CHAMPION: 3}
    store.aliases = {CHAMPION: 1}
    store.versions[3].tags["gate"] = "passed: long ago"
    assert promote.fn(NAME, 3, evaluated(store, 3)).startswith("passed: better: mean return 500")


def test_the_first_champion_leaves_no_way_back(store: Any) -> None:
    store.aliases = {CHALLENGER: 2}
    store.tags[PROMOTION_TAG] = "mine"
    move_champion(store, NAME, 3, "mine")
    assert store.aliases == {CHALLENGER: 2, CHAMPION: 3}


@pytest.mark.parametrize("champion", [3, 1, None])
def test_the_version_that_is_returned_to_is_not_tagged_as_rolled_back(champion: int | None, store: Any) -> None:
    """Also where an earlier attempt died between its last two writes, and where the champion's alias is gone."""
    store.aliases = {PREVIOUS: 1} | ({CHAMPION: champion} if champion else {})
    store.tags[PROMOTION_TAG] = "mine"
    if champion == 1:
        store.versions[1].tags[ROLLBACK_TAG] = "request"
    assert return_to_previous(store, NAME, "mine", "request") == 1
    assert store.aliases == {CHAMPION: 1}
    gates = {number: version.tags.get("gate") for number, version in store.versions.items()}
    assert gates == {1: None, 2: None, 3: "rolled back to version 1" if champion == 3 else None}
    assert store.versions[1].tags[ROLLBACK_TAG] == "request"


@pytest.mark.parametrize("gate", ["passed: better", "forced: the gate said", "refused: tie", "", "not evaluated yet"])
@pytest.mark.parametrize("force", [False, True])
def test_the_champions_own_promotion_overtakes_no_other(gate: str, force: bool, store: Any) -> None:
    store.aliases = {CHAMPION: 3, PREVIOUS: 1, CHALLENGER: 3}
    store.versions[3].tags["gate"] = gate
    store.tags[PROMOTION_TAG] = "another"
    promote.fn(NAME, 3, evaluated(store, 3), force=force)
    assert (store.tags, store.aliases) == ({PROMOTION_TAG: "another"}, {CHAMPION: 3, PREVIOUS: 1})


def test_a_champion_that_is_replaced_while_it_is_asked_about_moves_nothing(
    store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.aliases = {CHAMPION: 3}

    def replaced(uri: str) -> Any:
        store.aliases = {CHAMPION: 2, PREVIOUS: 3}
        return read_played(uri)

    monkeypatch.setattr(module, "read_played", replaced)
    assert promote.fn(NAME, 3, evaluated(store, 3), force=True)
    assert store.aliases == {CHAMPION: 2, PREVIOUS: 3}


def test_a_promotion_that_was_overtaken_writes_nothing_more(store: Any) -> None:
    before = dict(store.aliases)
    store.tags[PROMOTION_TAG] = "another"
    with pytest.raises(OvertakenError, match=f"promotion mine of {NAME} was overtaken by promotion another"):
        move_champion(store, NAME, 3, "mine")
    assert store.aliases == before


def test_a_way_back_is_gone_once_it_was_taken_but_not_for_the_request_that_took_it(store: Any) -> None:
    store.versions[1].tags[ROLLBACK_TAG] = "request"
    assert return_to_previous(store, NAME, "mine", "request") == 1
    with pytest.raises(InputError, match=f"{NAME} has no earlier champion to return to, version 1 is the first"):
        return_to_previous(store, NAME, "mine", "another request")
    store.aliases = {}
    with pytest.raises(InputError, match="it has no champion: promote another version instead"):
        return_to_previous(store, NAME, "mine", "request")


@pytest.mark.parametrize(
    ("version", "force", "told"), [(3, False, True), (1, False, False), (1, True, True), (3, True, True)]
)
def test_in_a_flow_run_only_a_promotion_is_an_event(
    version: int, force: bool, told: bool, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[Any] = []
    monkeypatch.setattr(module, "flow_run_id", lambda: "a flow run")
    monkeypatch.setattr(module, "promotion_lock", lambda name: nullcontext())
    monkeypatch.setattr("prefect.events.emit_event", lambda event, **more: events.append((event, more)))
    store.aliases = {CHAMPION: 2}
    gate = promote.fn(NAME, version, evaluated(store, version), force=force)
    payload = {"model": NAME, "version": version, "uri": f"models:/{NAME}@champion", "reason": gate}
    resource = {"prefect.resource.id": f"mlflow.model.{NAME}", "prefect.resource.name": NAME}
    assert events == [("dqn.policy.promoted", {"resource": resource, "payload": payload})] * told
