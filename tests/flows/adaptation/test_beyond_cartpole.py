"""What an adaptation of MountainCar and Acrobot decides: no server, no store."""

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from dqn.environments.making import make
from dqn.environments.world import NOMINAL, World
from dqn.identification.record import UnexplainedError
from dqn.presets import PRESETS
from flows.adaptation import beyond_cartpole, known_worlds, watch
from flows.adaptation.beyond_cartpole import distance, identify_from, verdict, warm
from flows.adaptation.known_worlds import near_versions
from flows.adaptation.watch import watched
from flows.registry.champion import decide
from flows.registry.evaluation import Played
from flows.registry.gate import Champion
from flows.registry.versions import WORLD_TAG
from flows.training.warm_start import WARM_START_TAG
from tests.support.flows.adapting import Page, adapting

WEAK = World(force_mag=0.0007)


def answered(**changes: Any) -> dict[str, Any]:
    env = make("MountainCar-v0", WEAK)
    columns: dict[str, list[Any]] = {"observation": [], "action": [], "next_observation": []}
    observation, _ = env.reset(seed=0)
    for step in range(60):
        action = int(observation[1] >= 0) * 2 if step % 7 else 1
        following, *_ = env.step(action)
        for column, value in zip(columns.values(), (observation.tolist(), action, following.tolist()), strict=True):
            column.append(value)
        observation = following
    return {"env_id": "MountainCar-v0", "world": {}, "transitions": columns | changes}


def test_the_world_is_identified_from_the_servers_answer() -> None:
    found = identify_from(json.loads(json.dumps(answered())))
    assert found == {
        "world": {"force_mag": pytest.approx(0.0007, rel=1e-3)},
        "text": "force_mag 0.0007: by the environment's own step",
        "refusal": "",
    }


@pytest.mark.parametrize(
    "changes", [{"action": None}, {"action": [1] * 59}, {"observation": [[0.0]] * 60}, {"next_observation": ["x"] * 60}]
)
def test_an_answer_that_is_no_table_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(UnexplainedError, match="the experience is not a table of transitions"):
        identify_from(answered(**changes))


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (NOMINAL, NOMINAL, 0.0),
        (WEAK, NOMINAL, 1.0),
        (WEAK, World(force_mag=0.0014), np.log(2)),
        (WEAK, World(force_mag=0.007), 1.0),
        (WEAK, World(force_mag=-0.0007), 1.0),
        (WEAK, World(force_mag=(0.0006, 0.0008)), 1.0),
        (World(attributes={"a": 1.0, "b": 2.0}), World(attributes={"a": 1.0}), 1.0),
        (World(attributes={"a": 1.0}, gravity=1.0), World(attributes={"b": 1.0}, gravity=1.0), np.sqrt(2)),
    ],
)
def test_worlds_are_apart_by_the_ratios_of_their_values(one: World, other: World, expected: float) -> None:
    assert distance(one, other) == distance(other, one) == pytest.approx(expected)


def test_the_nearest_version_is_tried_first(monkeypatch: pytest.MonkeyPatch) -> None:
    worlds = (NOMINAL, World(force_mag=0.0008), World(gravity=0.003))
    tags = [{WORLD_TAG: json.dumps(world.to_dict()), "eval.mean_return": "-100"} for world in worlds]
    found = [SimpleNamespace(version=str(k), tags=each) for k, each in enumerate(tags, start=1)]
    registry: Any = SimpleNamespace(search_model_versions=lambda query: found)
    assert near_versions(registry, "dqn-MountainCar-v0", WEAK) == [2, 1, 3]
    assert near_versions(registry, "dqn-MountainCar-v0", NOMINAL)[0] == 1
    monkeypatch.setattr(known_worlds, "distance", lambda *_: pytest.fail("CartPole's"))
    near_versions(registry, "dqn-Acrobot-v1", NOMINAL)


@pytest.mark.parametrize(
    ("returns", "expected"),
    [
        ([], "unsure"),
        ([-100.0] * 2, "unsure"),
        ([-100.0] * 3, "recovered"),
        ([-117.0] * 3, "recovered"),
        ([-120.0] * 3, "unsure"),
        ([-120.0] * 7, "unsure"),
        ([-120.0] * 8, "fell"),
        ([-200.0, -100.0, -110.0, -100.0, -100.0, -100.0, -100.0, -100.0], "fell"),
        ([-125.0, -100.0, -110.0], "recovered"),
    ],
)
def test_a_version_recovers_if_it_returns_what_it_did_at_the_gate(returns: list[float], expected: str) -> None:
    gate = np.array([-90.0, -110.0] * 50)
    assert verdict(returns, gate) == expected


@pytest.mark.parametrize(
    ("returns", "stage", "said"),
    [
        ([-105.0] * 3, "recovered", "version 2 returns what it did at the gate (-100)"),
        ([-150.0] * 8, "rolled back", "returned -150 on stage, version 1 -140"),
    ],
)
def test_an_episode_that_is_truncated_is_no_recovery(
    returns: list[float], stage: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "roll_back_from", lambda model, version: 1)
    monkeypatch.setattr("flows.adaptation.watch.time.time", lambda: 1000.0)
    played = [(2, 1001.0 + k, value) for k, value in enumerate(returns)] + [(1, 999.0, -120.0), (1, 1000.5, -140.0)]
    episodes = [
        {"version": str(version), "ended_at": at, "episodic_return": value, "disturbed": False, "truncated": True}
        for version, at, value in played
    ]
    page = Page({"recent_episodes": episodes, "episode": {"version": "2", "step": 400, "disturbed": False}})
    gate = np.array([-90.0, -110.0] * 50)
    ended, text = watched(adapting(page), "dqn-MountainCar-v0", 2, 1, WEAK.to_dict(), gate)
    assert ended == stage
    assert said in text


def test_training_begins_with_the_champions_network_in_its_own_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    source = PRESETS["mountaincar"]
    registered = SimpleNamespace(run_id="r")
    monkeypatch.setattr(beyond_cartpole, "read_config", lambda client, run_id: source)
    monkeypatch.setattr("flows.registry.versions.get_version", lambda client, name, version: registered)
    monkeypatch.setattr(beyond_cartpole, "find_version", lambda client, config, reference: int(reference))
    client: Any = None
    config, preset, tags = warm(client, "MountainCar-v0", 3, WEAK)
    assert (preset, tags) == ("mountaincar", {WARM_START_TAG: "3"})
    assert (config.seed, config.world, config.max_updates) == (3, WEAK, source.max_updates // beyond_cartpole.SHARE)
    assert config.hidden_sizes == source.hidden_sizes
    assert config.learning_rate_decay_updates == config.max_updates


@pytest.mark.parametrize(
    ("env_id", "world", "passes"),
    [
        ("MountainCar-v0", WEAK, True),
        ("MountainCar-v0", NOMINAL, False),
        ("CartPole-v1", World(force_mag=-10.0), False),
    ],
)
def test_the_threshold_is_of_the_nominal_world_except_of_cartpole(env_id: str, world: World, passes: bool) -> None:
    metadata = SimpleNamespace(environment=env_id, env_id=env_id, world=NOMINAL, members=())
    challenger: Any = SimpleNamespace(policy=SimpleNamespace(metadata=metadata), sha256="s", version=2, name="n")
    before = Champion(version=1, returns=np.full(1_000, -200.0))
    mine = Played(returns=np.full(1_000, -150.0), stress=None, seed=0)
    decision = decide(challenger, "s", before, mine, world.to_dict())
    assert decision.promote is passes, decision.reason
    if not passes:
        assert "is below the environment's threshold" in decision.reason
