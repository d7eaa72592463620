"""Promotion with policies that play: what it writes, tells and shows, in and after every attempt."""

import itertools
import re
from contextlib import suppress
from typing import Any

import pytest
from matplotlib.figure import Figure
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from dqn.stress.robustness import StressTest
from flows.registry import versions
from flows.registry.champion import promote
from flows.registry.evaluation import evaluate
from flows.registry.history import return_to_previous
from flows.registry.lock import OvertakenError, hold, promotion
from flows.registry.versions import CHALLENGER, CHAMPION
from flows.reporting import figures
from flows.reporting.card import CARD
from flows.reporting.draw import STRESS, draw_version
from flows.tracking.attempt import StaleAttemptError, begin
from tests.support.flows.faults import Breaking
from tests.support.flows.promoting import aliases, began, empty_store, events, quick
from tests.support.flows.registering import BALANCING, DRIFTING, FALLING, registered

__all__ = ["empty_store", "events", "quick"]  # the fixtures


class Recorded:
    """A client that knows which of its methods were called, in order."""

    def __init__(self, client: MlflowClient) -> None:
        self._client = client
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        self.calls.append(name)
        return getattr(self._client, name)


def files_of(store: MlflowClient, name: str, version: int) -> set[str]:
    run_id = str(versions.get_version(store, name, version).run_id)
    return {file.path for file in store.list_artifacts(run_id)}


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_what_is_better_is_promoted_told_and_shown_beside_the_champion(
    empty_store: MlflowClient, events: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "dqn-CartPole-v1"
    drawn: list[list[str]] = []
    shown = figures.stress_cells

    def drawing(tests: dict[str, StressTest]) -> Figure:
        drawn.append(list(tests))
        return shown(tests)

    monkeypatch.setattr(figures, "stress_cells", drawing)
    weak, good, bad = (registered(empty_store, name, weights) for weights in (DRIFTING, BALANCING, FALLING))
    gates = []
    for version in (weak, good, bad):
        evaluation = evaluate.fn(name, version)
        gates.append(promote.fn(name, version, evaluation))
        draw_version.fn(name, version, evaluation)
    assert "no champion before" in gates[0]
    assert gates[1].startswith("passed: better")
    assert gates[2].startswith("refused: mean return")
    assert [versions.get_version(empty_store, name, version).tags["gate"] for version in (weak, good, bad)] == gates
    assert aliases(empty_store, name) == [good, weak, bad]
    assert drawn == [
        [f"version {weak}", "LQR"],
        [f"version {good}", f"champion, version {weak}", "LQR"],
        [f"version {bad}", f"champion, version {good}", "LQR"],
    ]
    assert all({STRESS, CARD} <= files_of(empty_store, name, version) for version in (weak, good, bad))
    told = [str(versions.get_version(empty_store, name, version).description) for version in (good, bad)]
    assert "returns 500 in each of 100 episodes" in told[0]
    assert re.search(r"mean return [\d.]+, from \d+ to \d+, over 100 episodes", told[1])
    assert events == [
        {
            "event": "dqn.policy.promoted",
            "prefect.resource.id": f"mlflow.model.{name}",
            "prefect.resource.name": name,
            "model": name,
            "version": version,
            "uri": f"models:/{name}@champion",
            "reason": gate,
        }
        for version, gate in ((weak, gates[0]), (good, gates[1]))
    ]


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_a_person_promotes_whatever_the_gate_says_and_a_champion_again(
    empty_store: MlflowClient, events: list[dict[str, Any]]
) -> None:
    name = "dqn-CartPole-v1"
    bad, good = registered(empty_store, name, FALLING), registered(empty_store, name, BALANCING)
    evaluations = {version: evaluate.fn(name, version) for version in (bad, good)}
    versions.set_alias(empty_store, name, CHAMPION, good)  # by hand: it has not been through the gate
    assert "no champion before" in promote.fn(name, good, evaluations[good])  # it is not compared with itself
    assert promote.fn(name, bad, evaluations[bad]).startswith("refused")
    assert promote.fn(name, bad, evaluations[bad], force=True).startswith("forced: the gate said refused: mean")
    assert aliases(empty_store, name)[:2] == [bad, good]
    forced = promote.fn(name, good, evaluations[good], force=True)
    assert forced.startswith("forced: the gate said passed: better")
    assert promote.fn(name, good, evaluations[good]) == forced, "it is champion already"
    assert [event["version"] for event in events] == [bad, good], "the version that is champion already is not promoted"
    assert promote.fn(name, bad, evaluations[bad]).startswith("refused")
    assert aliases(empty_store, name)[0] == good


@pytest.mark.usefixtures("quick", "events")
def test_a_tie_in_the_world_that_is_goes_to_the_challenger(empty_store: MlflowClient) -> None:
    name = "dqn-CartPole-v1"
    champion, equal = (registered(empty_store, name, BALANCING) for _ in range(2))
    versions.set_alias(empty_store, name, CHAMPION, champion)
    evaluation = evaluate.fn(name, equal)
    assert promote.fn(name, equal, evaluation).startswith("refused: not better")
    assert promote.fn(name, equal, evaluation, world={}).startswith("passed: not worse and at home")
    assert aliases(empty_store, name)[0] == equal


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_a_promotion_says_the_same_whichever_of_its_writes_failed(
    empty_store: MlflowClient, events: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gate that was passed names the rival, also where the attempt that promoted it died right afterwards."""
    name = "dqn-CartPole-v1"
    weak, good = registered(empty_store, name, DRIFTING), registered(empty_store, name, BALANCING)
    evaluation = evaluate.fn(name, good)
    nth = 0
    while True:
        nth += 1
        versions.set_alias(empty_store, name, CHAMPION, weak)
        versions.set_alias(empty_store, name, CHALLENGER, good)
        versions.set_tags(empty_store, name, good, {"gate": "not evaluated yet"})
        broken: Any = Breaking(empty_store, nth)
        monkeypatch.setattr("flows.registry.champion.connect", lambda broken=broken: broken)
        with suppress(MlflowException):
            promote.fn(name, good, evaluation)
        monkeypatch.setattr("flows.registry.champion.connect", lambda: empty_store)
        gate = promote.fn(name, good, evaluation)
        assert gate.startswith(
            f"passed: better: mean return 500 over 600 episodes, threshold 475; champion version {weak}"
        )
        assert versions.get_version(empty_store, name, good).tags["gate"] == gate
        assert aliases(empty_store, name) == [good, weak, None]
        if broken.left > 0:
            break
    assert nth > 5  # the token, the tag, three aliases, the figure


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_every_write_of_a_promotion_is_preceded_by_a_look_at_which_promotion_is_the_latest(
    empty_store: MlflowClient, events: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "dqn-CartPole-v1"
    weak, good = registered(empty_store, name, DRIFTING), registered(empty_store, name, BALANCING)
    versions.set_alias(empty_store, name, CHAMPION, weak)
    evaluation = evaluate.fn(name, good)
    client: Any = Recorded(empty_store)
    monkeypatch.setattr("flows.registry.champion.connect", lambda: client)
    promote.fn(name, good, evaluation)
    return_to_previous(client, name, began(empty_store, name), "request")
    written = 0
    for before, call in itertools.pairwise(client.calls):
        if call in ("set_registered_model_alias", "delete_registered_model_alias", "set_model_version_tag"):
            assert before == "get_registered_model", call
            written += 1
    assert written == 5 + 5


@pytest.mark.usefixtures("quick")
def test_a_stale_attempt_promotes_nothing(empty_store: MlflowClient, events: list[dict[str, Any]]) -> None:
    name = "dqn-CartPole-v1"
    good = registered(empty_store, name, BALANCING)
    evaluation = evaluate.fn(name, good)
    stale = begin(empty_store, str(versions.get_version(empty_store, name, good).run_id))
    newest = begin(empty_store, stale.run_id)
    with pytest.raises(StaleAttemptError, match="was replaced by attempt"):
        promote.fn(name, good, evaluation, stale)
    assert (aliases(empty_store, name), events) == ([None, None, good], [])
    assert promote.fn(name, good, evaluation, newest).startswith("passed")


@pytest.mark.usefixtures("events")
def test_a_promotion_that_begins_overtakes_the_one_before(store: MlflowClient) -> None:
    name = "dqn-two-at-once"
    registered(store, name, BALANCING)
    with promotion(store, name) as first:
        hold(store, name, first)
        with promotion(store, name) as second:
            hold(store, name, second)
            with pytest.raises(OvertakenError, match=f"promotion {first} of {name} was overtaken by .* {second}"):
                hold(store, name, first)
