import dataclasses
import fcntl
import itertools
import re
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from prefect.client.orchestration import SyncPrefectClient

from dqn.environments.world import World
from dqn.evaluation.returns import Act, episodic_returns
from dqn.seeding import version_seed
from dqn.stress.robustness import CELLS, StressTest
from flows.deployed import promote_policy, rollback_policy
from flows.failures.errors import InputError, RegistryError
from flows.promotion import find_model
from flows.registry import machine_lock, versions
from flows.registry.champion import move_champion, play_champion, promote, remove_challenger, return_to_previous
from flows.registry.evaluation import evaluate
from flows.registry.lock import PROMOTION_TAG, OvertakenError, hold, promotion, promotion_lock
from flows.registry.versions import CHALLENGER, CHAMPION, PREVIOUS
from flows.reporting import animations, figures
from flows.reporting.draw import STRESS, draw_version
from flows.tracking.attempt import StaleAttemptError, begin
from tests.support.flows.faults import Breaking
from tests.support.flows.registering import BALANCING, DRIFTING, FALLING, damage, registered
from tests.support.serving.policies import ACROBOT, FALLS, PROPERTIES, SWINGS, linear_model

LOST = np.zeros((len(CELLS), 100), dtype=np.bool_)


def test_a_champion_leaves_a_way_back_and_it_is_taken_once(store: MlflowClient) -> None:
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
    assert return_to_previous(store, name, token, "request") == first  # whoever died right after its last write
    with pytest.raises(InputError, match="no previous champion to return to"):
        return_to_previous(store, name, token, "another request")


def began(store: MlflowClient, name: str) -> str:
    store.set_registered_model_tag(name, PROMOTION_TAG, "this")
    return "this"


def aliases(store: MlflowClient, name: str) -> list[int | None]:
    return [versions.version_of(store, name, alias) for alias in (CHAMPION, PREVIOUS, CHALLENGER)]


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


@pytest.mark.parametrize("nth", range(1, 6))
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


class Recorded:
    """A client that knows which of its methods were called, in order."""

    def __init__(self, client: MlflowClient) -> None:
        self._client = client
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        self.calls.append(name)
        return getattr(self._client, name)


@pytest.fixture
def empty_store(store: MlflowClient) -> MlflowClient:
    """The registry without CartPole's model: a version's number decides on its episodes."""
    with suppress(MlflowException):
        store.delete_registered_model("dqn-CartPole-v1")
    return store


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What was emitted by promotions in a flow run; their lock, which takes Prefect, is open."""
    emitted: list[dict[str, Any]] = []

    def emit(event: str, *, resource: dict[str, str], payload: dict[str, Any]) -> None:
        emitted.append({"event": event, **resource, **payload})

    monkeypatch.setattr("prefect.events.emit_event", emit)
    monkeypatch.setattr("flows.registry.champion.flow_run_id", lambda: "a flow run")
    monkeypatch.setattr("flows.registry.lock.promotion_lock", lambda name: nullcontext())
    return emitted


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stress test that only asks whether an episode lasts, and no animation: what they show is tested elsewhere."""

    def held(act: Act, world: World, *, episodes: int, seed: int) -> StressTest:
        returns = episodic_returns(act, "CartPole-v1", world, num_episodes=episodes, seed=seed)
        return StressTest(balanced=np.tile(returns == 500, (len(CELLS), 1)), push=60)

    monkeypatch.setattr("flows.registry.evaluation.stress_test", held)
    monkeypatch.setattr(
        "flows.registry.evaluation.stressed_baselines", lambda *_, **__: {"LQR": StressTest(balanced=LOST, push=0)}
    )
    monkeypatch.setattr(animations, "episode_gif", lambda *_, **__: None)


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
    assert all(STRESS in files_of(empty_store, name, version) for version in (weak, good, bad))
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
    assert [event["version"] for event in events] == [bad, good], "who is champion already is not promoted"
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
    """A gate that was passed says against whom, also where the attempt that promoted it died right afterwards."""
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
def test_every_write_of_a_promotion_is_preceded_by_a_look_at_whose_turn_it_is(
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
    assert written == 4 + 4


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


def test_what_environment_is_named_decides_where_a_version_is_looked_for(store: MlflowClient) -> None:
    version = registered(store, "dqn-Acrobot-v1", BALANCING)
    assert find_model.fn(version, "Acrobot-v1") == "dqn-Acrobot-v1"
    with pytest.raises(RegistryError, match="dqn-Acrobot-v1 has no version 99"):
        find_model.fn(99, "Acrobot-v1")


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
    with pytest.raises(InputError, match="no previous champion"):
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
