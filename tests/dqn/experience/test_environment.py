import sys
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

from dqn.config import DQNConfig
from dqn.environments.spaces import Spaces
from dqn.environments.spec import EnvironmentUnsupportedError
from dqn.environments.world import World
from dqn.experience.vector import VectorEnvironment, describe
from dqn.training.loop import train
from tests.support.dqn.vector import make, play, same

OWN_VECTOR, SYNC, SYNC_TUPLE_STATE = "CartPole-v1", "Acrobot-v1", "MountainCar-v0"


@pytest.mark.parametrize("env_id", [OWN_VECTOR, "ProbeEndlessReward-v0"])
def test_no_transition_joins_two_episodes(env_id: str) -> None:
    environment = make(env_id)
    transitions = play(environment, 120)
    ended_before = torch.zeros(3, 4, dtype=torch.bool)
    assert any(bool((t.terminated | t.truncated).any()) for t in transitions)
    for previous, current in zip([None, *transitions], transitions, strict=False):
        assert torch.equal(current.valid, ~ended_before)
        if previous is not None:
            assert torch.equal(current.observation, previous.next_observation)
        ended_before = current.terminated | current.truncated
        assert not bool((ended_before & ~current.valid).any())


def test_an_episodes_last_observation_is_its_own() -> None:
    transitions = play(make(OWN_VECTOR), 200)
    for transition in transitions:
        fallen = transition.next_observation[transition.terminated]
        outside = (fallen[:, 0].abs() > 2.4) | (fallen[:, 2].abs() > 12 * 2 * np.pi / 360)
        assert bool(outside.all())


def test_the_episodic_return_is_the_sum_of_its_rewards() -> None:
    environment = make("ProbeEndlessReward-v0")
    returns = []
    for _ in range(14):
        transition = environment.step(torch.zeros(3, 4, dtype=torch.int64))
        if bool(transition.truncated.any()):
            returns.append(environment.episodic_return.clone())
    assert len(returns) == 2
    assert all(bool((r == 5.0).all()) for r in returns)


@pytest.mark.parametrize("env_id", [OWN_VECTOR, SYNC, SYNC_TUPLE_STATE])
def test_agents_that_stay_are_not_disturbed_by_one_that_leaves(env_id: str) -> None:
    whole, narrowed = make(env_id), make(env_id)
    for environment in (whole, narrowed):
        play(environment, 10)
    keep = torch.tensor([0, 2])
    narrowed.select(keep)
    assert narrowed.num_agents == 2
    action = torch.ones(3, 4, dtype=torch.int64)
    for _ in range(6):  # few enough that no episode ends: afterwards the shared generator is drawn from differently
        everyone, remaining = whole.step(action), narrowed.step(action[keep])
        assert torch.equal(everyone.next_observation[keep], remaining.next_observation)
        assert torch.equal(everyone.valid[keep], remaining.valid)
    assert torch.equal(whole.episodic_return[keep], narrowed.episodic_return)


class _Offset(gym.Env[np.ndarray, np.int64]):
    """Actions are 5 and 6; taking 6 earns 1."""

    observation_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = spaces.Discrete(2, start=5)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        return np.zeros(1, dtype=np.float32), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        assert action in (5, 6)
        return np.zeros(1, dtype=np.float32), float(action - 5), False, False, {}


@pytest.mark.parametrize(
    ("env_id", "message"),
    [
        ("NoSuch-v0", "environment 'NoSuch-v0' cannot be made: .*Expected the id of a registered"),
        ("Pendulum-v1", "'Pendulum-v1' has the actions Box.*; supported is a Discrete action space of at least two"),
        ("nomodule:Env-v0", "environment 'nomodule:Env-v0' cannot be made: No module named 'nomodule'"),
        (":Env-v0", "environment ':Env-v0' cannot be made"),
        (".relative:Env-v0", "cannot be made"),
        ("tests.support.dqn.registers_on_import:NoSuch-v0", "cannot be made: Environment `NoSuch` doesn't exist"),
        ("Endless-v0", r"'Endless-v0' has no time limit.*--max-episode-steps 1000 or DQNConfig"),
    ],
)
def test_unsupported_environments_are_refused(env_id: str, message: str) -> None:
    gym.register("Endless-v0", "tests.support.dqn.probes:EndlessReward", disable_env_checker=True)
    try:
        with pytest.raises(EnvironmentUnsupportedError, match=message):
            describe(env_id)
    finally:
        gym.registry.pop("Endless-v0")


@pytest.mark.parametrize(
    ("module", "name"), [("registers_on_import", "RegisteredOnImport-v0"), ("registers_on_call", "RegisteredOnCall-v0")]
)
def test_a_module_before_the_colon_registers_its_environment(
    module: str, name: str, small_config: Callable[..., DQNConfig]
) -> None:
    gym.registry.pop(name, None)
    sys.modules.pop(f"tests.support.dqn.{module}", None)
    env_id = f"tests.support.dqn.{module}:{name}"
    assert describe(env_id) == Spaces(observation_shape=(1,), num_actions=2)
    assert train(small_config(env_id=env_id)).agents[0].selection_return == 5.0


def test_actions_need_not_start_at_zero() -> None:
    gym.register(
        "Beginning-v0", "tests.dqn.experience.test_environment:_Offset", disable_env_checker=True, max_episode_steps=9
    )
    environment = make("Beginning-v0", num_agents=1, num_envs=2)
    assert environment.step(torch.tensor([[0, 1]])).reward.tolist() == [[0.0, 1.0]]
    gym.registry.pop("Beginning-v0")


RANDOMISED = World(length=(0.25, 0.75), push_force=9.0, push_interval=3, action_delay=(0, 2), sensor_noise=(0.1,) * 4)


@pytest.mark.parametrize(
    ("env_id", "world"),
    [
        (OWN_VECTOR, RANDOMISED),
        (SYNC_TUPLE_STATE, World(gravity=(0.002, 0.003), action_delay=1, sensor_noise=(0.1, 0.1))),
    ],
)
def test_a_world_goes_on_from_a_snapshot(env_id: str, world: World) -> None:
    environment, copy = (VectorEnvironment(env_id, world, num_agents=3, num_envs=4, seed=seed) for seed in (0, 1))
    assert environment.not_capturable is None
    play(environment, 40)
    copy.load_state_dict(environment.state_dict())
    assert same(play(environment, 60), play(copy, 60))


@pytest.mark.parametrize(
    ("env_id", "world"),
    [(OWN_VECTOR, World(length=(0.25, 0.75), action_delay=(0, 2))), (SYNC_TUPLE_STATE, World(gravity=(0.002, 0.003)))],
)
def test_agents_that_stay_keep_their_worlds(env_id: str, world: World) -> None:
    whole, some = (VectorEnvironment(env_id, world, num_agents=3, num_envs=2, seed=0) for _ in range(2))
    play(whole, 4)
    play(some, 4)
    kept = torch.tensor([2, 0])
    some.select(kept)
    for _ in range(4):
        action = torch.randint(whole.num_actions, (3, 2), generator=torch.Generator().manual_seed(1))
        assert torch.equal(whole.step(action).next_observation[kept], some.step(action[kept]).next_observation)
