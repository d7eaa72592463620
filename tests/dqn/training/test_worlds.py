"""Agents of one population are trained in worlds of their own; none is ranked by returns of another world."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dqn.config import ConfigError, DQNConfig
from dqn.environments.world import NOMINAL, World
from dqn.evaluation import greedy
from dqn.evaluation.greedy import greedy_returns
from dqn.presets import PRESETS
from dqn.stress.finalists import stressed
from dqn.training.checkpoint import load_checkpoint, save_checkpoint
from dqn.training.loop import train
from dqn.training.result import TrainingResult
from dqn.training.selection import judge
from dqn.training.state import TrainingState
from tests.support.dqn.training import equal

Make = Callable[..., DQNConfig]

REVERSED, HOPELESS = World(force_mag=-10.0), World(force_mag=0.01)
WORLDS = (NOMINAL, HOPELESS, REVERSED)


@pytest.fixture(scope="module")
def trained() -> TrainingResult:
    config = dataclasses.replace(PRESETS["cartpole"], num_agents=3, max_updates=1_500)
    return train(config, worlds=WORLDS)


def test_each_agent_is_accepted_in_its_own_world_alone(trained: TrainingResult) -> None:
    assert [agent.solved for agent in trained.agents] == [True, False, True]
    own = trained.test_returns(episodes=20).mean(1)
    assert (own >= 475).tolist() == [True, False, True]
    swapped = greedy_returns(trained.best, "CartPole-v1", WORLDS[::-1], episodes=20, seed=1).mean(1)
    assert bool((swapped < 100).all()), "an agent balances the world of another: they were not trained apart"


def test_each_agent_is_judged_and_exported_for_its_own_world(trained: TrainingResult) -> None:
    judged = [agent.judged_return for agent in trained.agents]
    assert all(value is not None for value in judged)
    assert [value == 500 for value in judged] == [True, False, True]
    for agent, world in enumerate(WORLDS):
        assert trained.policy(agent).world == world


def test_no_agent_is_the_best_of_several_worlds(trained: TrainingResult, tmp_path: Path) -> None:
    for rank in (lambda: trained.best_agent, trained.policy, lambda: trained.export(tmp_path / "best.onnx")):
        with pytest.raises(ConfigError, match="3 different worlds, and returns do not rank agents of different worlds"):
            rank()
    assert "2 of 3 agents solved CartPole-v1, in 3 worlds; training" in repr(trained)
    assert stressed(trained) is trained, "a stress test around one world ranks them"
    alike = dataclasses.replace(trained, config=dataclasses.replace(trained.config, worlds=(NOMINAL,) * 3))
    assert alike.best_agent in (0, 2)


def test_every_agent_of_several_worlds_is_judged_however_many_there_are(small_config: Make) -> None:
    worlds = tuple(World(length=0.5 + k / 20) for k in range(12))
    state = TrainingState.begin(small_config(num_agents=12, worlds=worlds, acceptance_return=0.0))
    assert sorted(judge(state)) == list(range(12))  # those of one world end with the first that is accepted
    assert len(judge(TrainingState.begin(small_config(num_agents=12, acceptance_return=0.0)))) == 1


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Acrobot-v1"])  # in arrays, and as single environments
def test_a_resumed_training_in_worlds_ends_as_an_unbroken_one(small_config: Make, tmp_path: Path, env_id: str) -> None:
    worlds = (World(length=(0.3, 0.6)), NOMINAL, World(action_delay=2))
    config = small_config(env_id=env_id, worlds=worlds, acceptance_return=9.0, max_episode_steps=30, max_updates=120)
    unbroken = train(config)
    path = tmp_path / "run.ckpt"

    def stop(state: TrainingState) -> None:
        if state.learner.updates >= 60:
            save_checkpoint(path, state)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(dataclasses.replace(config, checkpoint_interval=0.0), on_checkpoint=stop, now=lambda: 0.0)
    config = dataclasses.replace(config, checkpoint_interval=0.0)
    state, continues = load_checkpoint(path, config)
    assert continues
    assert state.config.worlds == worlds
    assert equal(train(config, state=state), unbroken)
    with pytest.raises(ConfigError, match="state belongs to another configuration: it has worlds"):
        train(dataclasses.replace(config, worlds=worlds[::-1]), state=TrainingState.begin(config))


def test_agents_that_leave_take_their_worlds_along(small_config: Make) -> None:
    worlds = tuple(World(length=length) for length in (1.0, 2.0, 3.0))
    state = TrainingState.begin(small_config(worlds=worlds, num_envs=2))
    state.select(torch.tensor([0, 2]))
    assert state.environment._envs.unwrapped.length.tolist() == [1.0, 1.0, 3.0, 3.0]  # type: ignore[attr-defined]


def test_agents_that_play_after_others_play_in_their_own_worlds(
    small_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    worlds = tuple(World(gravity=gravity) for gravity in (0.001, 0.002, 0.003))
    played: list[object] = []

    def returns(_act: object, _env_id: str, world: object, *, num_episodes: int, **_: object) -> np.ndarray[Any, Any]:
        played.append(world)
        return np.zeros(num_episodes)

    monkeypatch.setattr(greedy, "_OBJECTS", 4)
    monkeypatch.setattr(greedy, "episodic_returns", returns)
    networks = TrainingState.begin(small_config(env_id="MountainCar-v0")).best
    assert greedy_returns(networks, "MountainCar-v0", worlds, episodes=2, seed=0).shape == (3, 2)
    assert played == [worlds[:2], worlds[2:]]


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"worlds": (NOMINAL,)}, r"worlds must be one for each of num_agents = 3 agents, got 1"),
        ({"worlds": (NOMINAL,) * 3, "world": REVERSED}, "worlds must be left out where there is a world, got"),
        ({"worlds": [NOMINAL] * 3}, "worlds must be a tuple, each entry a World"),
        ({"worlds": ({"length": 1.0},) * 3}, "worlds must be a tuple, each entry a World"),
    ],
)
def test_worlds_that_do_not_fit_are_refused(small_config: Make, fields: dict[str, object], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        small_config(**fields)


def test_worlds_go_through_json_and_leave_the_digests_of_others_alone(small_config: Make) -> None:
    config = small_config(worlds=(World(wind=(1.0, 2.0)), NOMINAL, REVERSED), randomisation=World(tau=0.03))
    assert DQNConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert [world.tau for world in config.training_worlds([2, 0])] == [0.03, 0.03]
    assert config.training_worlds([2, 0])[0] == World(force_mag=-10.0, tau=0.03)
    assert config.sha256 != small_config().sha256
    assert PRESETS["cartpole"].sha256 == "86f6c049bad462556443e7a9fdcb5e65021a86bd652526978a1185adbc72b803"
    with pytest.raises(ConfigError, match="a world has no lenght; it has length"):
        DQNConfig.from_dict({"num_agents": 1, "worlds": [{"lenght": 1}]})
