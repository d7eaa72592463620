import dataclasses
from contextlib import suppress
from typing import Any

import pytest
from matplotlib.figure import Figure
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from dqn.environments.world import World
from dqn.seeding import version_seed
from dqn.stress.robustness import StressTest
from flows import deployed
from flows.failures.errors import InputError, RegistryError
from flows.promotion import find_model
from flows.registry import versions
from flows.registry.champion import move_champion, play_champion, promote, remove_challenger
from flows.registry.evaluation import evaluate
from flows.registry.history import return_to_previous
from flows.registry.lock import PROMOTION_TAG, OvertakenError
from flows.registry.versions import CHALLENGER, CHAMPION, PREVIOUS
from flows.reporting import figures
from tests.support.flows.faults import Breaking
from tests.support.flows.promoting import aliases, began, empty_store, quick
from tests.support.flows.registering import BALANCING, DRIFTING, FALLING, damage, registered
from tests.support.serving.policies import ACROBOT, FALLS, PROPERTIES, SWINGS, linear_model

__all__ = ["empty_store", "quick"]  # the fixtures
promote_policy: Any = deployed.promote_policy
rollback_policy: Any = deployed.rollback_policy
"""Called directly, they return the results of the states."""


def test_a_champion_leaves_a_way_back_and_each_request_takes_it_once(store: MlflowClient) -> None:
    name = "dqn-aliases"
    first, second = registered(store, name, BALANCING), registered(store, name, BALANCING)
    token = began(store, name)
    move_champion(store, name, first, token)
    assert versions.version_of(store, name, CHALLENGER) == second
    move_champion(store, name, second, token)
    assert aliases(store, name) == [second, first, None]
    move_champion(store, name, second, token)  # a retry changes nothing
    assert versions.version_of(store, name, PREVIOUS) == first
    assert return_to_previous(store, name, token, "request") == first
    assert versions.version_of(store, name, CHAMPION) == first
    assert versions.get_version(store, name, second).tags["gate"] == f"rolled back to version {first}"
    assert return_to_previous(store, name, token, "request") == first  # as after a death right after the last write
    with pytest.raises(InputError, match="no earlier champion to return to, version 1 is the first of its champions"):
        return_to_previous(store, name, token, "another request")


def test_a_promotion_that_was_overtaken_changes_nothing(store: MlflowClient) -> None:
    name = "dqn-overtaken"
    first, second = registered(store, name, BALANCING), registered(store, name, BALANCING)
    move_champion(store, name, first, began(store, name))
    store.set_registered_model_tag(name, PROMOTION_TAG, "another")
    with pytest.raises(OvertakenError, match="promotion this of dqn-overtaken was overtaken by promotion another"):
        move_champion(store, name, second, "this")
    versions.set_alias(store, name, PREVIOUS, second)
    with pytest.raises(OvertakenError):
        return_to_previous(store, name, "this", "request")
    with pytest.raises(OvertakenError):
        remove_challenger(store, name, second, "this")
    assert aliases(store, name) == [first, second, second]


@pytest.mark.parametrize("nth", range(1, 8))
def test_a_promotion_that_failed_half_way_is_finished_by_the_next(store: MlflowClient, nth: int) -> None:
    name = f"dqn-half-way-{nth}"
    first, second = registered(store, name, BALANCING), registered(store, name, BALANCING)
    token = began(store, name)
    move_champion(store, name, first, token)
    broken: Any = Breaking(store, nth)
    with suppress(MlflowException):
        move_champion(broken, name, second, token)
    move_champion(store, name, second, token)
    assert aliases(store, name) == [second, first, None]
    broken = Breaking(store, nth)
    try:
        return_to_previous(broken, name, token, "request")
    except MlflowException:
        assert return_to_previous(store, name, token, "request") == first
    assert aliases(store, name) == [first, None, None]
    assert versions.get_version(store, name, second).tags["gate"] == f"rolled back to version {first}"


def test_a_policy_that_cannot_play_the_environment_is_no_champion(store: MlflowClient) -> None:
    name = "dqn-misfit"
    good = registered(store, name, BALANCING)
    challenger = versions.download(name, good).policy.metadata
    for content, fault in (
        (linear_model((0, 0, 1)), "takes 3 numbers and chooses among 2 actions; CartPole-v1 has 4 and 2"),
        (linear_model((0, 0, float("nan"), 0)), "gives Q-values that are not finite"),
        (b"garbage", "is damaged"),
    ):
        damage(store, name, good, content)
        champion = play_champion(name, good, challenger, seed=0, stressed=False)
        assert champion.returns is None
        assert fault in champion.fault
        assert not champion.other_env_id


def test_a_champion_of_another_environment_is_told_from_a_broken_one(store: MlflowClient) -> None:
    name = "dqn-other"
    good = registered(store, name, BALANCING)
    challenger = versions.download(name, good).policy.metadata
    damage(store, name, good, linear_model(SWINGS, actions=3, properties=ACROBOT))
    champion = play_champion(name, good, challenger, seed=0, stressed=False)
    assert (champion.returns, champion.fault, champion.other_env_id) == (None, "", "Acrobot-v1")


def test_the_champion_plays_in_the_challengers_world(store: MlflowClient) -> None:
    name = "dqn-reversed"
    champion = registered(store, name, BALANCING)
    nominal = versions.download(name, champion).policy.metadata
    reversed_motor = dataclasses.replace(nominal, world=World(force_mag=-10.0))
    for challenger, low, high in ((nominal, 475, 500), (reversed_motor, 8, 30)):
        returns = play_champion(name, champion, challenger, seed=0, stressed=False).returns
        assert returns is not None
        assert low <= returns.mean() <= high


def test_what_environment_is_named_decides_where_a_version_is_looked_for(store: MlflowClient) -> None:
    version = registered(store, "dqn-Acrobot-v1", BALANCING)
    assert find_model.fn(version, "Acrobot-v1") == "dqn-Acrobot-v1"
    with pytest.raises(InputError, match="dqn-Acrobot-v1 has no version '99'; registered are: 1"):
        find_model.fn(99, "Acrobot-v1")


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_flows_promote_what_is_better_refuse_what_is_not_and_roll_back(
    empty_store: MlflowClient, prefect_api: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = empty_store
    drawn: list[list[str]] = []
    stress_cells = figures.stress_cells

    def drawing(tests: dict[str, StressTest]) -> Figure:
        drawn.append(list(tests))
        return stress_cells(tests)

    monkeypatch.setattr(figures, "stress_cells", drawing)
    name = "dqn-CartPole-v1"
    weak, bad, good, equal = (registered(store, name, w) for w in (DRIFTING, FALLING, BALANCING, BALANCING))
    first = promote_policy(weak)
    assert first.startswith("passed: mean return 4")
    assert first.endswith("no champion before")
    assert promote_policy(weak) == first  # it is champion already
    assert promote_policy(bad).startswith("refused: mean return ")
    assert versions.version_of(store, name, CHAMPION) == weak
    tags: dict[str, Any] = versions.get_version(store, name, bad).tags
    assert "below the environment's threshold 475" in tags["gate"]
    assert (tags["eval.episodes"], float(tags["eval.mean_return"]) < 50) == ("100", True)
    assert (int(tags["eval.seed"]), len(tags["sha256"])) == (version_seed(bad, episodes=100), 64)
    assert promote_policy(good).startswith("passed: better: mean return 500 over 600 episodes")
    assert aliases(store, name)[:2] == [good, weak]
    assert drawn[0] == [f"version {weak}", "LQR"]
    assert drawn[-1] == [f"version {good}", f"champion, version {weak}", "LQR"]
    assert promote_policy(weak).startswith("refused: not better, the champion stays")
    assert promote_policy(equal).startswith("refused: not better, the champion stays")
    assert aliases(store, name)[:2] == [good, weak]
    forced = promote_policy(equal, force=True)
    assert forced.startswith("forced: the gate said refused: not better")
    assert versions.get_version(store, name, equal).tags["gate"] == forced
    assert aliases(store, name)[:2] == [equal, good]
    assert rollback_policy() == good
    assert rollback_policy() == weak, "one further back"
    with pytest.raises(InputError, match="no earlier champion"):
        rollback_policy()
    page = versions.get_version(store, name, good)
    assert {"test/mean_return", "test/min_return"} <= versions.metrics_of(store, page)
    assert "returns 500 in each of 100 episodes that neither another" in str(page.description)


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_a_broken_champion_gives_way_and_a_broken_challenger_does_not_get_in(
    store: MlflowClient, prefect_api: str
) -> None:
    name = "dqn-CartPole-v1"
    champion, challenger, changed = (registered(store, name, BALANCING) for _ in range(3))
    assert promote_policy(champion, force=True).startswith("forced")
    damage(store, name, champion, b"garbage")
    gate = promote_policy(challenger)
    assert gate.startswith("passed: mean return 500")
    assert f"champion version {champion} cannot be played: the file of version {champion} of {name} is damaged" in gate
    assert aliases(store, name)[:2] == [challenger, champion]
    evaluation = evaluate.fn(name, changed)
    damage(store, name, changed, linear_model(FALLS))
    assert promote(name, changed, evaluation) == (
        f"refused: the file of version {changed} of {name} is not the one that was evaluated any more"
    )
    damage(store, name, changed, linear_model(FALLS, properties=PROPERTIES | {"env_id": "this:CartPole-v1"}))
    with pytest.raises(RegistryError, match="plays this:CartPole-v1; its policies are versions of dqn-this~2"):
        promote_policy(changed)
    damage(store, name, changed, b"garbage")
    with pytest.raises(RegistryError, match=f"the file of version {changed} of {name} is damaged"):
        promote_policy(changed)
    assert versions.version_of(store, name, CHAMPION) == challenger
