"""Worlds side by side, and environments of which some go on."""

import dataclasses
import pickle
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv

from dqn.environments.making import make_vec
from dqn.environments.world import NOMINAL, World
from dqn.environments.wrappers import narrowed
from dqn.experience.vector import _narrow

Envs = VectorEnv[Any, Any, Any]


def test_narrowed_environments_go_on_as_they_were() -> None:
    world = World(length=(0.25, 0.75), push_force=9.0, push_interval=2, action_delay=(0, 2))
    whole = make_vec("CartPole-v1", world, num_envs=6)
    whole.reset(seed=0)
    actions = np.random.default_rng(0).integers(0, 2, (7, 6))
    for action in actions[:3]:
        whole.step(action)
    source = pickle.loads(pickle.dumps(whole))
    kept = narrowed(source, np.array([4, 1]))
    assert kept.num_envs == kept.action_space.shape[0] == kept.observation_space.shape[0] == 2  # type: ignore[index]
    for action in actions[3:4]:  # before the next push: its side is drawn for each of those that are left
        np.testing.assert_array_equal(kept.step(action[[4, 1]])[0], whole.step(action)[0][[4, 1]])


WORLDS = (
    World(length=(0.25, 0.75), sensor_noise=(0.0, 0.1, 0.0, 0.0)),
    NOMINAL,
    World(push_force=(9.0, 30.0), push_interval=(2, 4), action_delay=(0, 3), sensor_bias=(0.0, 0.0, (0.1, 0.2), 0.0)),
    World(wind=2.0, gravity=30.0, push_force=20.0, push_interval=5),
)


def play(envs: Envs, actions: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Observations `[T + 1, N, 4]`, and where the first episode is over by then, `[T + 1, N]`."""
    observations, over = [envs.reset(seed=3)[0]], [np.zeros(envs.num_envs, dtype=np.bool_)]
    for action in actions:
        observation, _, terminated, truncated, _ = envs.step(action)
        observations.append(observation)
        over.append(over[-1] | terminated | truncated)
    return np.stack(observations), np.stack(over)


def test_worlds_side_by_side_are_what_each_is_alone() -> None:
    actions = np.random.default_rng(0).integers(0, 2, (60, 7))
    together, _ = play(make_vec("CartPole-v1", WORLDS, num_envs=7), np.tile(actions, len(WORLDS)))
    rows = np.split(together, len(WORLDS), axis=1)
    for world, mine in zip(WORLDS, rows, strict=True):
        alone, over = play(make_vec("CartPole-v1", world, num_envs=7), actions)
        assert over.any(), "no episode ended: the test tests less than it says"
        before = ~np.concatenate([over[:1], over[:-1]])  # later ones start from what the others leave of the generator
        np.testing.assert_array_equal(mine[before], alone[before])


def test_an_episode_is_the_same_whenever_the_others_end() -> None:
    """Whatever is random in it: two policies that play the same seed are compared on the same episodes."""
    world = dataclasses.replace(WORLDS[2], sensor_noise=(0.1,) * 4)
    seen = []
    for others in (0, 1):
        actions = np.full((300, 6), others)
        actions[:, 0] = np.arange(300) % 2
        envs = make_vec("CartPole-v1", world, num_envs=6)
        envs.unwrapped.theta_threshold_radians = np.array([1e9] + [0.2] * 5)  # type: ignore[attr-defined]
        envs.unwrapped.x_threshold = np.array([1e9] + [2.4] * 5)  # type: ignore[attr-defined]
        observations, over = play(envs, actions)
        assert over[-1].tolist() == [False] + [True] * 5
        seen.append((observations[:, 0], over[:, 1:]))
    assert not np.array_equal(seen[0][1], seen[1][1])
    np.testing.assert_array_equal(seen[0][0], seen[1][0])


def test_some_of_the_worlds_go_on_as_they_were() -> None:
    whole = make_vec("CartPole-v1", WORLDS, num_envs=3)
    whole.reset(seed=0)
    actions = np.random.default_rng(0).integers(0, 2, (9, 12))
    for action in actions[:4]:
        whole.step(action)
    rows = np.array([0, 1, 2, 6, 7, 8])
    kept = narrowed(pickle.loads(pickle.dumps(whole)), rows)
    for action in actions[4:]:
        np.testing.assert_array_equal(kept.step(action[rows])[0], whole.step(action)[0][rows])
    carts: list[Any] = [kept.unwrapped, whole.unwrapped]
    before, ended = carts[0].length.copy(), carts[0].prev_done.copy()
    while not (ended[:3].any() and ended[3:].any()):  # what begins draws from its world's generator
        observations = [kept.step(np.ones(6, dtype=np.int64))[0], whole.step(np.ones(12, dtype=np.int64))[0][rows]]
        ended |= carts[0].prev_done
    for _ in range(2):
        observations = [kept.step(np.ones(6, dtype=np.int64))[0], whole.step(np.ones(12, dtype=np.int64))[0][rows]]
    np.testing.assert_array_equal(carts[0].length, carts[1].length[rows])
    assert (carts[0].length[:3] != before[:3]).any()
    bias = [observations[0][3:] - carts[0].state.T[3:], observations[1][3:] - carts[1].state.T[rows[3:]]]
    np.testing.assert_allclose(bias[0], bias[1], atol=1e-6)
    one = narrowed(kept, np.array([0, 1, 2]))
    assert one.num_envs == 3


def test_worlds_stand_side_by_side_where_the_environment_is_not_in_arrays_too() -> None:
    envs: Any = make_vec("Acrobot-v1", (NOMINAL, World(length=2.0)), num_envs=2)
    assert [env.unwrapped.LINK_LENGTH_1 for env in envs.envs] == [1.0, 1.0, 2.0, 2.0]
    kept: Any = _narrow(envs, np.array([2, 3]))
    assert [env.unwrapped.LINK_LENGTH_1 for env in kept.envs] == [2.0, 2.0]
