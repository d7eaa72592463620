"""The nominal environment is Gymnasium's, and any other makes its steps."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from dqn.environments.cartpole import CartPoles
from dqn.environments.making import make, make_vec
from dqn.environments.spec import EnvironmentUnsupportedError
from dqn.environments.world import NOMINAL, World
from dqn.environments.wrappers import is_in_arrays

EXPLICIT = World(length=0.5, masspole=0.1, masscart=1.0, gravity=9.8, force_mag=10.0, tau=0.02, push_interval=7)
Envs = VectorEnv[Any, Any, Any]


def gymnasiums(num_envs: int) -> Envs:
    return gym.make_vec("CartPole-v1", num_envs=num_envs, vectorization_mode="vector_entry_point")


def test_the_nominal_world_has_no_wrapper() -> None:
    assert type(make_vec("CartPole-v1", num_envs=2)) is CartPoles
    envs: Any = make_vec("Acrobot-v1", num_envs=2)
    assert str(envs.envs[0]) == "<TimeLimit<OrderEnforcing<AcrobotEnv<Acrobot-v1>>>>", "and no checker"


def test_a_world_leaves_what_gymnasium_says_of_its_environments() -> None:
    envs = make_vec("CartPole-v1", World(wind=1.0), num_envs=2)
    assert envs.metadata["autoreset_mode"] == AutoresetMode.NEXT_STEP
    assert is_in_arrays(envs.unwrapped)
    assert not is_in_arrays(make_vec("Acrobot-v1", num_envs=1))
    assert make("CartPole-v1", render_mode="rgb_array").render_mode == "rgb_array"
    assert make("CartPole-v1").render_mode is None


class Opaque(VectorEnv[Any, Any, Any]):
    """A vector implementation that cannot be divided into its sub-environments."""

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012 # as Gymnasium declares it
    closings = 0

    def __init__(self, num_envs: int, **_: Any) -> None:
        self.num_envs = num_envs

    def close(self, **_: Any) -> None:
        Opaque.closings += 1


def test_a_vector_implementation_that_cannot_be_narrowed_is_not_used() -> None:
    gym.register(
        "Opaque-v0",
        "gymnasium.envs.classic_control:CartPoleEnv",
        vector_entry_point="tests.dqn.environments.test_gymnasium:Opaque",
        max_episode_steps=9,
    )
    try:
        assert isinstance(make_vec("Opaque-v0", num_envs=2), SyncVectorEnv)
        assert Opaque.closings == 1
    finally:
        gym.registry.pop("Opaque-v0")


def test_an_environment_without_its_code_is_refused_in_a_sentence() -> None:
    gym.register("Missing-v0", "nowhere:Env", max_episode_steps=9)
    try:
        for attempt in (lambda: make("Missing-v0"), lambda: make_vec("Missing-v0", num_envs=1)):
            with pytest.raises(
                EnvironmentUnsupportedError, match="'Missing-v0' cannot be made: No module named 'nowhe"
            ):
                attempt()
    finally:
        gym.registry.pop("Missing-v0")


@pytest.mark.parametrize("world", [NOMINAL, EXPLICIT])
def test_gymnasiums_values_give_gymnasiums_episodes_bit_for_bit(world: World) -> None:
    play_alike(make_vec("CartPole-v1", world, num_envs=50), gymnasiums(50))


def test_steps_are_gymnasiums_whatever_the_parameters() -> None:
    generator = np.random.default_rng(1)
    ours, theirs = CartPoles(50), gymnasiums(50)
    for name in ("length", "masspole", "total_mass", "polemass_length", "gravity", "force_mag", "tau"):
        drawn = getattr(ours, name) * generator.uniform(0.5, 2.0, 50)
        setattr(ours, name, drawn)
        setattr(theirs, name, drawn)
    play_alike(ours, theirs)


def play_alike(ours: Envs, theirs: Envs) -> None:
    """Play both with the same actions, through ends of both kinds, in which they must not differ."""
    generator = np.random.default_rng(0)
    for envs in (ours, theirs):
        envs.unwrapped.max_episode_steps = 30  # type: ignore[attr-defined]
        envs.unwrapped.x_threshold = 0.3  # type: ignore[attr-defined]
    assert np.array_equal(ours.reset(seed=3)[0], theirs.reset(seed=3)[0])
    ended = np.zeros(2)
    for action in generator.integers(0, 2, (200, 50)):
        own, given = ours.step(action)[:4], theirs.step(action)[:4]
        for mine, other in zip(own, given, strict=True):
            assert np.array_equal(mine, other)
            assert mine.dtype == other.dtype
        ended += own[2].sum(), own[3].sum()
    assert ended.all(), "no pole fell, or no episode lasted: the test tests less than it says"
    assert np.array_equal(ours.unwrapped.state, theirs.unwrapped.state)  # type: ignore[attr-defined]


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Acrobot-v1", "MountainCar-v0"])
def test_a_single_nominal_environment_is_gymnasiums_bit_for_bit(env_id: str) -> None:
    ours, theirs = make(env_id), gym.make(env_id)
    assert np.array_equal(ours.reset(seed=1)[0], theirs.reset(seed=1)[0])
    for _ in range(9):
        own, given = ours.step(1), theirs.step(1)
        assert np.array_equal(own[0], given[0])
        assert own[1:4] == given[1:4]
