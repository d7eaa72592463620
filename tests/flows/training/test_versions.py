"""Versions around a training: one is judged and logged once, and another training starts from one."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from dqn.config import DQNConfig
from dqn.environments.world import NOMINAL, World
from dqn.seeding import version_seed
from dqn.stress.robustness import CELLS, StressTest
from flows.failures.errors import InputError, RegistryError
from flows.registry import evaluation, versions
from flows.registry.evaluation import evaluate, evaluate_elsewhere, read_played, threshold_of, under_stress
from flows.tracking.attempt import Attempt
from flows.training import warm_start
from flows.training.warm_start import find_version, starting_network
from serving.policy import PolicyMetadata
from tests.support.flows.training import a_run, store

__all__ = ["store"]  # the fixture


@pytest.fixture
def version(store: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Version 1 of CartPole's model, which returns 0 to 99; `played` says where and on which episodes."""
    run_id = a_run(store)
    store.get_run(run_id).info.run_name = "the run"
    metadata = PolicyMetadata(
        env_id="CartPole-v1",
        action_meanings=("left", "right"),
        run_id=run_id,
        seed=0,
        config_sha256="",
        observation_shape=(4,),
        world=World(length=0.6),
    )
    found = SimpleNamespace(metadata=metadata, played=[], run_id=run_id, logged=[], described=[], known=set())

    def download(name: str, version: int) -> Any:
        policy: Any = SimpleNamespace(metadata=found.metadata)
        return versions.Artifact(name=name, version=version, policy=policy, content=b"", sha256="s")

    def play(policy: Any, world: World, *, seed: int) -> Any:
        found.played.append((world, seed))
        return np.arange(100.0)

    held = np.ones((len(CELLS), 100), dtype=np.bool_)
    held[1, 50:] = False
    monkeypatch.setattr(versions, "download", download)
    monkeypatch.setattr(versions, "metrics_of", lambda client, version: found.known)
    monkeypatch.setattr(versions, "describe", lambda *_, **texts: found.described.append(texts))
    monkeypatch.setattr(versions, "model_id_of", lambda version: "m")
    monkeypatch.setattr(evaluation, "require_playable", lambda artifact, env_id: None)
    monkeypatch.setattr(evaluation, "play", play)
    monkeypatch.setattr(evaluation, "under_stress", lambda *_, seed: StressTest(balanced=held, push=64))
    monkeypatch.setattr(evaluation, "log_test", lambda *given, model_id: found.logged.append((given[1], model_id)))
    store.version({}, run_id)
    return found


@pytest.mark.parametrize("stressed", [True, False])
def test_a_version_is_judged_in_its_own_world_on_its_own_episodes(stressed: bool, version: Any, store: Any) -> None:
    uri = evaluate.fn("dqn-CartPole-v1", 1, stressed=stressed)
    seed = version_seed(1, episodes=100)
    assert version.played == [(World(length=0.6), seed)]
    assert version.logged == [(version.run_id, "m")]
    tags = store.versions[1].tags
    expected = {
        "eval.mean_return": "49.5",
        "eval.min_return": "0",
        "eval.episodes": "100",
        "eval.seed": str(seed),
        "sha256": "s",
    }
    if stressed:
        expected |= {"eval.robustness": "0.944", "eval.worst_cell": f"{CELLS[1].name}: 50%", "eval.single_push": "64 N"}
    assert tags == expected
    content = store.files[version.run_id]["evaluation/version-1.json"]
    assert (content["seed"], len(content["returns"]), bool(content["stress"])) == (seed, 100, stressed)
    assert (read_played(uri).stress is not None) == stressed
    (texts,) = version.described
    assert texts["training"] == f"run 'the run' (`{version.run_id}`), commit `unknown`."
    assert texts["evaluation"].startswith("mean return 49.5, from 0 to 99, over 100 episodes that neither")
    assert (" Under stress: robustness 0.944" in texts["evaluation"]) == stressed


def test_what_is_logged_once_stays_and_another_environments_policy_is_refused(version: Any) -> None:
    version.known.add("test/mean_return")
    evaluate.fn("dqn-CartPole-v1", 1, stressed=False)
    assert version.logged == []
    with pytest.raises(RegistryError, match="version 1 of dqn-Acrobot-v1 plays CartPole-v1; its policies are"):
        evaluate.fn("dqn-Acrobot-v1", 1)


def test_elsewhere_a_version_plays_the_same_episodes_in_that_world(version: Any, store: Any) -> None:
    adapting = a_run(store)
    world = World(force_mag=-10.0)
    uri = evaluate_elsewhere.fn("dqn-CartPole-v1", 1, world.to_dict(), Attempt(run_id=adapting, token="t"))
    seed = version_seed(1, episodes=100)
    assert version.played == [(world, seed)]
    assert uri == f"memory:/{adapting}/evaluation/version-1.json"
    assert store.files[adapting]["evaluation/version-1.json"]["seed"] == seed
    assert (read_played(uri).stress, store.versions[1].tags) == (None, {})


def test_only_cartpole_is_put_under_stress_and_some_environments_name_no_threshold() -> None:
    acrobot: Any = SimpleNamespace(metadata=SimpleNamespace(env_id="Acrobot-v1"))
    assert under_stress(acrobot, NOMINAL, seed=0) is None
    assert (threshold_of("CartPole-v1"), threshold_of("ProbeActionReward-v0")) == (475.0, None)


@pytest.mark.parametrize(
    ("reference", "changes", "refusal"),
    [
        ("2", {}, None),
        ("champion", {"gamma": 0.5}, None),
        ("9", {}, r"has no version '9' to start from; registered are: 1, 2; an alias"),
        ("missing", {}, r"has no version 'missing' to start from"),
        ("2", {"dueling": True, "hidden_sizes": (7,)}, r"its hidden_sizes is .*, not \(7,\), its dueling is False"),
        ("2", {"num_quantiles": 5, "loss": "quantile"}, "its num_quantiles is 1, not 5; give the"),
    ],
)  # fmt: skip
def test_a_training_starts_from_a_version_of_its_own_shape(
    reference: str, changes: dict[str, Any], refusal: str | None, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        store.version({}, a_run(store))
    store.aliases["champion"] = 2
    config = DQNConfig()
    monkeypatch.setattr(warm_start, "read_config", lambda client, run_id: config)
    wanted: Any = SimpleNamespace(**{**vars(config), **changes})
    if refusal is None:
        assert find_version(store, wanted, reference) == 2
    else:
        with pytest.raises(InputError, match=f"^dqn-CartPole-v1 .*{refusal}"):
            find_version(store, wanted, reference)


def test_all_agents_start_from_the_best_of_the_run_that_is_named(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    store.version({}, a_run(store))
    networks = SimpleNamespace(select=lambda agents: ("selected", agents.tolist()))
    monkeypatch.setattr(warm_start, "read_networks", lambda client, run_id: (networks, None))
    monkeypatch.setattr(
        warm_start, "read_summary", lambda client, run_id: SimpleNamespace(best=SimpleNamespace(agent=3))
    )
    cold, warm = a_run(store), a_run(store, warm_start="1")
    assert starting_network(store, store.get_run(cold), "dqn-CartPole-v1") is None
    start: Any = starting_network(store, store.get_run(warm), "dqn-CartPole-v1")
    assert start == ("selected", [3])


def test_a_training_that_starts_from_a_bank_starts_from_its_champion(
    store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.version({}, trained := a_run(store))
    store.version({versions.BANKED_TAG: "1"}, a_run(store))
    asked: list[str] = []

    def read_networks(client: Any, run_id: str) -> Any:
        asked.append(run_id)
        return SimpleNamespace(select=lambda agents: None), None

    summary = SimpleNamespace(best=SimpleNamespace(agent=0))
    monkeypatch.setattr(warm_start, "read_networks", read_networks)
    monkeypatch.setattr(warm_start, "read_summary", lambda client, run_id: summary)
    starting_network(store, store.get_run(a_run(store, warm_start="2")), "dqn-CartPole-v1")
    assert asked == [trained]


@pytest.mark.parametrize("champion", ["2", "3", "", "one"])
def test_a_bank_whose_tag_names_no_earlier_version_is_refused(champion: str, store: Any) -> None:
    for tags in ({}, {versions.BANKED_TAG: champion}):
        store.version(tags, a_run(store))
    with pytest.raises(RegistryError, match=f"of version 2 of dqn-CartPole-v1 is no earlier version: '{champion}'"):
        versions.trained_by(store, "dqn-CartPole-v1", 2)
