"""Observations of every space keep their values and their type from the environment to a sampled batch."""

import math
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.spaces.utils import flatten
from hypothesis import given, settings
from hypothesis import strategies as st

from dqn.environments.making import make
from dqn.environments.spaces import spaces_of
from dqn.environments.spec import EnvironmentUnsupportedError
from dqn.environments.world import NOMINAL, World
from dqn.experience.buffer import ReplayBuffer, replay_bytes
from dqn.experience.nstep import NStepAccumulator
from dqn.experience.transitions import Batch, Transition
from dqn.experience.vector import VectorEnvironment, describe
from dqn.finite import EnvironmentFaultError
from tests.support.dqn.spaces import DTYPES, LENGTH, SPACES, Shown
from tests.support.dqn.vector import play, same

NAMES = sorted(SPACES)


def high(space: spaces.Space[Any]) -> Any:
    flat: Any = spaces.flatten_space(space)
    return flat.high.flatten()


@pytest.mark.parametrize("name", NAMES)
def test_a_space_has_a_shape_and_a_type(name: str) -> None:
    found, space = describe(f"Shown-{name}-v0"), SPACES[name]
    shape = space.shape if isinstance(space, spaces.Box) and space.shape else (spaces.flatdim(space),)
    assert (found.observation_shape, found.dtype) == (shape, DTYPES.get(name, "float32"))
    assert found.is_image == (len(shape) > 1)
    assert found.observation_size == math.prod(shape)
    greatest = np.ones(found.observation_size)
    if found.dtype == "uint8":
        greatest = np.maximum(high(space), 1)
    assert np.array_equal(found.divisors or np.ones(found.observation_size), greatest)


@pytest.mark.parametrize("name", NAMES)
def test_a_flattened_observation_is_gymnasiums(name: str) -> None:
    """One of the vector environment is one of the environment itself, flattened by Gymnasium, in a row."""
    plain = gym.make(f"Shown-{name}-v0")
    environment = VectorEnvironment(f"Shown-{name}-v0", num_agents=1, num_envs=2, seed=3)
    single = make(f"Shown-{name}-v0")
    for env, seed in ((0, 3), (1, 4)):
        observation, _ = plain.reset(seed=seed)
        expected = np.asarray(flatten(plain.observation_space, observation)).astype(np.float32)
        assert environment.observation[0, env].float().tolist() == expected.tolist()
        assert np.asarray(single.reset(seed=seed)[0]).ravel().tolist() == expected.tolist()
    assert single.observation_space.shape == environment.spaces.observation_shape
    assert environment.observation.dtype == getattr(torch, environment.spaces.dtype)
    environment.close()


@pytest.mark.parametrize("name", NAMES)
def test_every_space_goes_on_from_a_snapshot_and_without_an_agent(name: str) -> None:
    first, second = (VectorEnvironment(f"Shown-{name}-v0", num_agents=3, num_envs=2, seed=s) for s in (0, 1))
    assert first.not_capturable is None
    play(first, LENGTH // 2)
    second.load_state_dict(first.state_dict())
    second.select(torch.tensor([0, 2]))
    first.select(torch.tensor([0, 2]))
    assert same(play(first, 2 * LENGTH), play(second, 2 * LENGTH))


DTYPE = st.sampled_from([torch.float32, torch.uint8, torch.bool])


def observations(dtype: torch.dtype, *shape: int, seed: int) -> torch.Tensor:
    """Any bytes: a copy by way of float32 must keep those of NaN and of denormal numbers too."""
    generator = torch.Generator().manual_seed(seed)
    if dtype == torch.float32:
        return torch.randn(shape, generator=generator)
    return torch.randint(256 if dtype == torch.uint8 else 2, shape, generator=generator).to(dtype)


@settings(deadline=None, max_examples=60)
@given(dtype=DTYPE, obs=st.integers(1, 9), steps=st.integers(1, 12), n_step=st.integers(1, 4), seed=st.integers(0, 99))
def test_what_is_sampled_is_what_was_observed(dtype: torch.dtype, obs: int, steps: int, n_step: int, seed: int) -> None:
    """Through accumulator and buffer, for every type and width: the same values, in the same type."""
    A, E = 2, 3
    accumulator = NStepAccumulator(
        n_step=n_step, gamma=0.5, bootstrap_on_truncation=True, num_agents=A, num_envs=E, obs=obs, dtype=dtype
    )
    generator = torch.Generator().manual_seed(seed)
    replay = ReplayBuffer(num_agents=A, capacity=E * steps, obs=obs, generator=generator, dtype=dtype)
    assert replay.nbytes == replay_bytes(num_agents=A, capacity=E * steps, obs=obs, itemsize=dtype.itemsize)
    given_observations = observations(dtype, steps + n_step, A, E, obs, seed=seed)
    for step in range(steps + n_step - 1):
        replay.insert(*accumulator.push(_transition(given_observations, step)))
    batch = replay.sample(64)
    assert batch.observation.dtype == batch.next_observation.dtype == dtype
    for agent in range(A):
        for row in range(64):
            step, env = divmod(int(batch.action[agent, row]), E)
            assert torch.equal(batch.observation[agent, row], given_observations[step, agent, env])
            assert torch.equal(batch.next_observation[agent, row], given_observations[step + n_step, agent, env])
    if steps * E < 50:
        ranges = replay.observation_range(torch.arange(A))
        stored = given_observations[:steps].float()
        assert torch.equal(ranges[..., 0], stored.amin((0, 2)))
        assert torch.equal(ranges[..., 1], stored.amax((0, 2)))


def _transition(given_observations: torch.Tensor, step: int) -> Transition:
    _, A, E, _ = given_observations.shape
    nothing = torch.zeros(A, E, dtype=torch.bool)
    return Transition(
        observation=given_observations[step],
        action=(step * E + torch.arange(E)).expand(A, E),
        reward=torch.zeros(A, E),
        next_observation=given_observations[step + 1],
        terminated=nothing,
        truncated=nothing,
        valid=~nothing,
    )


def test_every_byte_survives_the_buffer() -> None:
    """Four bytes in a float32 may be a NaN, an infinity or a denormal number."""
    values = torch.arange(256, dtype=torch.uint8)
    observation = torch.cartesian_prod(values[::5], values[::5], values[-4:], values[-4:])[None]
    count = observation.shape[1]
    replay = ReplayBuffer(num_agents=1, capacity=count, obs=4, generator=torch.Generator(), dtype=torch.uint8)
    index = torch.arange(count)[None]
    zeros = torch.zeros(1, count)
    batch = Batch(
        observation=observation, action=index, reward=zeros, next_observation=255 - observation, discount=zeros
    )
    replay.insert(batch, torch.ones(1, count, dtype=torch.bool))
    sampled = replay.sample(5_000)
    assert torch.equal(sampled.observation[0], observation[0, sampled.action[0]])
    assert torch.equal(sampled.next_observation[0], 255 - observation[0, sampled.action[0]])


@pytest.mark.parametrize("value", [-1, 256])
def test_a_number_that_is_no_byte_is_refused(value: int, monkeypatch: pytest.MonkeyPatch) -> None:
    env = VectorEnvironment("Shown-whole-v0", num_agents=2, num_envs=3, seed=0)
    at_once = iter(range(6))
    monkeypatch.setattr(Shown, "_show", lambda self: np.full((2, 2), value if next(at_once) == 4 else 1))
    said = rf"observation from {value} to {value}, .* in sub-environment 1 of agent 01 at step 1"
    with pytest.raises(EnvironmentFaultError, match=said):
        env.step(torch.zeros(2, 3, dtype=torch.int64))
    env.close()


DISCRETE = spaces.Discrete(2)


@pytest.mark.parametrize(
    ("observation", "action", "message"),
    [
        (spaces.Box(0, 1, (3,)), spaces.Box(-1, 1, (2,)), r"has the actions Box\(.*; supported is a Discrete action"),
        (spaces.Box(0, 1, (3,)), spaces.MultiDiscrete([2, 2]), "has the actions MultiDiscrete"),
        (spaces.Box(0, 1, (3,)), spaces.MultiBinary(2), "has the actions MultiBinary"),
        (spaces.Box(0, 1, (3,)), spaces.Dict(a=DISCRETE), "has the actions Dict"),
        (spaces.Box(0, 1, (3,)), spaces.Discrete(1), "has the actions .* of at least two"),
        (spaces.Box(0, 1, (0,)), DISCRETE, "has the observations Box.* a Box of at least one number"),
        (spaces.Box(0, 1, (3, 0)), DISCRETE, "has the observations Box.* a Box of at least one number"),
        (spaces.Sequence(DISCRETE), DISCRETE, "has the observations Sequence.*; supported are a Box"),
        (spaces.Graph(spaces.Box(0, 1, (2,)), None), DISCRETE, "has the observations Graph"),
        (spaces.Dict(a=spaces.Sequence(DISCRETE)), DISCRETE, "has the observations Dict"),
    ],
    ids=str,
)
def test_a_space_that_is_not_supported_is_refused_in_a_sentence(
    observation: spaces.Space[Any], action: spaces.Space[Any], message: str
) -> None:
    with pytest.raises(EnvironmentUnsupportedError, match=rf"^environment 'X-v0' {message}") as refused:
        spaces_of(observation, action, "X-v0")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", NAMES)
def test_a_world_delays_actions_in_any_space_and_disturbs_flat_floats_alone(name: str) -> None:
    """A delayed environment shows the same observations, in the same type, and rewards the action before."""
    late, plain = (
        VectorEnvironment(f"Shown-{name}-v0", world, num_agents=1, num_envs=3, seed=0)
        for world in (World(action_delay=1), NOMINAL)
    )
    spaces_found = plain.spaces
    for delayed, direct in zip(play(late, LENGTH), play(plain, LENGTH), strict=True):
        assert torch.equal(delayed.next_observation, direct.next_observation)
        assert delayed.next_observation.dtype == getattr(torch, spaces_found.dtype)
    noisy = World(sensor_noise=(0.1,) * spaces_found.observation_size)
    if spaces_found.dtype == "float32" and name not in ("film", "signed"):
        describe(f"Shown-{name}-v0", noisy)
    else:
        with pytest.raises(
            EnvironmentUnsupportedError, match="has no sensor_noise for a world to change; it has action"
        ):
            describe(f"Shown-{name}-v0", noisy)
    for each in (late, plain):
        each.close()
