import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from gymnasium.envs.classic_control.cartpole import CartPoleEnv, CartPoleVectorEnv
from gymnasium.vector import VectorEnv

from dqn.environments.making import make, make_vec
from dqn.environments.spec import EnvironmentUnsupportedError
from dqn.environments.world import NOMINAL, World
from dqn.environments.wrappers import WorldEnv

Envs = VectorEnv[Any, Any, Any]


@pytest.mark.parametrize(
    "world",
    [
        World(length=1.0, masspole=0.3, masscart=2.0, gravity=5.0, force_mag=-7.0, tau=0.01),
        World(wind=3.0),
        World(action_delay=2),
        World(sensor_bias=(0.1, 0.0, -0.2, 0.0)),
    ],
)
def test_one_and_many_play_the_same_world(world: World) -> None:
    one, many = make("CartPole-v1", world), make_vec("CartPole-v1", world, num_envs=3)
    many.reset(seed=0)
    one.reset(seed=0)
    state = np.array([0.01, 0.02, -0.03, 0.04])
    cart, carts = one.unwrapped, many.unwrapped
    assert isinstance(cart, CartPoleEnv)
    assert isinstance(carts, CartPoleVectorEnv)
    cart.state = state
    carts.state = np.repeat(state[:, None], 3, axis=1)  # type: ignore[assignment] # Gymnasium declares None
    for action in (1, 0, 0, 1, 1, 0, 1):
        alone = one.step(action)[0]
        together = many.step(np.full(3, action))[0]
        assert together.dtype == alone.dtype == np.float32
        np.testing.assert_array_equal(together, np.repeat(alone[None], 3, axis=0))


def forces(envs: Envs, action: int, steps: int) -> np.ndarray[Any, Any]:
    """Newtons `[steps, N]` on carts of 1 kg with poles of next to no mass, from what they gain in speed."""
    envs.reset(seed=0)
    speeds = [envs.unwrapped.state[1].copy()]  # type: ignore[attr-defined]
    for _ in range(steps):
        envs.step(np.full(envs.num_envs, action))
        envs.unwrapped.state[2:] = 0.0  # type: ignore[attr-defined]
        speeds.append(envs.unwrapped.state[1].copy())  # type: ignore[attr-defined]
    return np.diff(speeds, axis=0) / 0.02


def light(**values: Any) -> World:
    """A world in which forces other than the motor's move the cart alone."""
    return World(masspole=1e-12, force_mag=1e-9, **values)


def test_pushes_come_at_their_interval_from_either_side() -> None:
    pushed = forces(make_vec("CartPole-v1", light(push_force=5.0, push_interval=3), num_envs=64), 1, 8)
    np.testing.assert_allclose(np.abs(pushed[[3, 6]]), 5.0, rtol=1e-6)
    np.testing.assert_allclose(pushed[[0, 1, 2, 4, 5, 7]], 0.0, atol=1e-6)
    assert {-5, 5} == set(pushed[3].round())
    assert (pushed[3].round() != pushed[6].round()).any()


@pytest.mark.parametrize("action", [0, 1])
def test_wind_blows_to_the_right_whatever_the_action(action: int) -> None:
    blown = forces(make_vec("CartPole-v1", light(wind=2.0, push_force=1.0, push_interval=2), num_envs=8), action, 3)
    np.testing.assert_allclose(blown[:2], 2.0, rtol=1e-6)
    np.testing.assert_allclose(np.abs(blown[2] - 2.0), 1.0, rtol=1e-6)


def test_a_push_on_a_single_cart_adds_to_the_worlds_wind() -> None:
    for wind in (2.0, 0.0):
        env = make("CartPole-v1", light(wind=wind))
        env.reset(seed=0)
        cart = env.unwrapped
        assert isinstance(cart, CartPoleEnv)
        for action, push in ((0, 5.0), (1, -5.0), (1, 0.0), (0, 0.0)):
            assert cart.state is not None
            cart.state[2:] = 0.0
            before = cart.state[1]
            env.step(action, push)
            assert (cart.state[1] - before) / 0.02 == pytest.approx(wind + push, rel=1e-6, abs=1e-6)


def test_actions_take_effect_when_they_are_due() -> None:
    envs = make_vec("CartPole-v1", World(action_delay=2, masspole=1e-12), num_envs=1)
    envs.reset(seed=0)
    cart = envs.unwrapped
    assert isinstance(cart, CartPoleVectorEnv)
    gained: list[int] = []
    for action in (1, 0, 0, 1, 0):
        assert cart.state is not None
        cart.state[2:] = 0.0
        before = cart.state[1, 0]
        envs.step(np.array([action]))
        gained.append(int(np.sign(cart.state[1, 0] - before)))
    assert gained == [1, 1, 1, -1, -1]  # the first action holds until the second is due


def test_ranges_are_drawn_anew_at_each_reset_and_for_each_environment() -> None:
    world = World(length=(0.25, 0.75), action_delay=(0, 2), sensor_bias=(0.0, 0.0, (-0.1, 0.1), 0.0))
    envs = make_vec("CartPole-v1", world, num_envs=64)
    cart = envs.unwrapped
    assert isinstance(cart, CartPoleVectorEnv)
    envs.reset(seed=0)
    first = np.array(cart.length)
    assert first.min() >= 0.25
    assert first.max() <= 0.75
    assert len(set(first)) == 64
    np.testing.assert_array_equal(cart.polemass_length, cart.masspole * first)
    ended = np.zeros(64, dtype=np.bool_)
    for _ in range(60):
        _, _, terminated, truncated, _ = envs.step(np.zeros(64, dtype=np.int64))
        np.testing.assert_array_equal(np.array(cart.length)[~ended], first[~ended])
        before = ended | terminated | truncated
        if before.any():
            break
        ended = before
    envs.step(np.zeros(64, dtype=np.int64))  # the step in which Gymnasium resets
    redrawn = np.array(cart.length) != first
    np.testing.assert_array_equal(redrawn, before)
    np.testing.assert_array_equal(cart.polemass_length, cart.masspole * np.array(cart.length))


def test_a_delay_that_is_drawn_includes_both_ends() -> None:
    envs = make_vec("CartPole-v1", World(action_delay=(0, 2), masspole=1e-12), num_envs=200)
    envs.reset(seed=0)
    envs.step(np.zeros(200, dtype=np.int64))
    arrived = []
    for _ in range(3):
        before = envs.unwrapped.state[1].copy()  # type: ignore[attr-defined]
        envs.step(np.ones(200, dtype=np.int64))
        arrived.append((envs.unwrapped.state[1] > before).mean())  # type: ignore[attr-defined]
    assert 0.2 < arrived[0] < 0.45 < 0.55 < arrived[1] < 0.8
    assert arrived[2] == 1.0


def test_what_is_sensed_is_biased_and_noisy_and_the_state_is_not() -> None:
    world = World(sensor_bias=(1.0, 0.0, 0.0, -2.0), sensor_noise=(0.0, 0.5, 0.0, 0.0))
    envs = make_vec("CartPole-v1", world, num_envs=2000)
    observation, _ = envs.reset(seed=0)
    error = observation - envs.unwrapped.state.T  # type: ignore[attr-defined]
    np.testing.assert_allclose(error[:, [0, 2, 3]], np.tile([1.0, 0.0, -2.0], (2000, 1)), atol=1e-6)
    assert error[:, 1].std() == pytest.approx(0.5, rel=0.1)
    assert abs(error[:, 1].mean()) < 0.05


@pytest.mark.parametrize("env_id", ["CartPole-v1", "MountainCar-v0"])
def test_a_seed_gives_the_same_world_again(env_id: str) -> None:
    size = 4 if env_id == "CartPole-v1" else 2
    world = World(gravity=(1.0, 2.0), sensor_noise=(0.1,) * size, sensor_bias=((0.0, 1.0),) * size)
    runs = []
    for seed in (1, 1, 2):
        envs = make_vec(env_id, world, num_envs=3)
        observations = [envs.reset(seed=seed)[0]]
        observations += [envs.step(np.ones(3, dtype=np.int64))[0] for _ in range(5)]
        runs.append(np.stack(observations))
    np.testing.assert_array_equal(runs[0], runs[1])
    assert not np.array_equal(runs[0], runs[2])
    assert not np.array_equal(runs[0][:, 0] - runs[0][:1, 0], runs[0][:, 1] - runs[0][:1, 1])


def test_what_a_seed_draws_stays_what_it_is() -> None:
    """Versions are compared by episodes of recorded seeds, also with those that an older release has judged."""
    world = World(length=(0.25, 0.75), push_force=5.0, push_interval=1, sensor_noise=(1.0,) * 4)
    envs = make_vec("CartPole-v1", world, num_envs=8)
    observation, _ = envs.reset(seed=5)
    lengths, sides, noise = (np.random.default_rng((0x77, 5, stream)) for stream in range(3))
    cart: Any = envs.unwrapped
    assert np.array_equal(cart.length, lengths.uniform(0.25, 0.75, 8))
    np.testing.assert_allclose(observation - cart.state.T, noise.standard_normal((8, 4), dtype=np.float32), atol=1e-6)
    sides.integers(0, 2, 8, dtype=np.bool_)  # of the first step, in which no cart is pushed
    right = np.where(sides.integers(0, 2, 8, dtype=np.bool_), 1, -1)
    envs.step(np.ones(8, dtype=np.int64))
    assert cart.force_mag == 10.0
    envs.step(np.zeros(8, dtype=np.int64))
    assert (cart.force_mag == 10.0 - 5.0 * right).all()


def test_an_episode_without_a_seed_is_another_one() -> None:
    env = make("CartPole-v1", World(length=(0.25, 0.75)))
    cart: Any = env.unwrapped
    drawn = []
    for seed in (1, None, None, 1):
        env.reset(seed=seed)
        drawn.append(cart.length)
    assert drawn[0] == drawn[3]
    assert len(set(drawn)) == 3


def test_a_world_changes_in_mid_episode_and_a_refused_one_changes_nothing() -> None:
    env = make("CartPole-v1")
    env.reset(seed=0)
    cart = env.unwrapped
    assert isinstance(cart, CartPoleEnv)
    env.change(World(length=1.0, gravity=(20.0, 30.0), action_delay=1))
    assert cart.length == 1.0
    assert 20.0 <= cart.gravity <= 30.0
    assert cart.polemass_length == 0.1
    for action, sign in ((1, 1), (0, 1), (0, -1)):
        assert cart.state is not None
        cart.state[2:] = 0.0
        before = cart.state[1]
        env.step(action)
        assert np.sign(cart.state[1] - before) == sign
    with pytest.raises(EnvironmentUnsupportedError):
        env.change(World(sensor_bias=(1.0,)))
    assert env.world.length == cart.length == 1.0
    env.change(NOMINAL)
    assert (cart.length, cart.gravity, cart.force_mag) == (0.5, 9.8, 10.0)


def test_other_environments_change_by_their_own_attributes() -> None:
    acrobot: Any = make("Acrobot-v1", World(length=1.5, masspole=2.0, inertia=0.5, tau=0.1)).unwrapped
    assert (acrobot.LINK_LENGTH_1, acrobot.LINK_LENGTH_2) == (1.5, 1.5)
    assert (acrobot.LINK_MASS_1, acrobot.LINK_MASS_2, acrobot.LINK_MOI, acrobot.dt) == (2.0, 2.0, 0.5, 0.1)
    car: Any = make("MountainCar-v0", World(gravity=0.003, force_mag=-0.001)).unwrapped
    assert (car.gravity, car.force) == (0.003, -0.001)


@pytest.mark.parametrize(
    ("env_id", "world", "sentence"),
    [
        ("Acrobot-v1", World(gravity=1.0), "Acrobot-v1 has no gravity for a world to change; it has action_delay,"),
        ("MountainCar-v0", World(wind=1.0, push_force=2.0), "has no wind and no push_force"),
        ("LunarLander-v3", World(length=1.0), "has no length"),
        ("CartPole-v1", World(inertia=1.0), "has no inertia"),
        (
            "CartPole-v1",
            World(sensor_noise=(0.1, 0.1)),
            "sensor_noise has 2 entries and CartPole-v1 has",
        ),
    ],
)
def test_refuses_what_an_environment_does_not_have(env_id: str, world: World, sentence: str) -> None:
    for attempt in (lambda: make(env_id, world), lambda: make_vec(env_id, world, num_envs=2)):
        with pytest.raises(EnvironmentUnsupportedError, match=sentence):
            attempt()


@pytest.mark.parametrize(("env_id", "limit"), [("CartPole-v1", 600), ("Acrobot-v1", 7)])
def test_another_time_limit(env_id: str, limit: int) -> None:
    envs = make_vec(env_id, num_envs=1, max_episode_steps=limit)
    envs.reset(seed=0)
    for step in range(1, limit + 1):
        if env_id == "CartPole-v1":
            envs.unwrapped.state[:] = 0.0  # type: ignore[attr-defined]
        truncated = envs.step(np.zeros(1, dtype=np.int64))[3]
        assert bool(truncated[0]) == (step == limit)


def test_needs_no_torch() -> None:
    code = (
        "import sys; sys.modules['torch'] = None; "
        "from dqn.environments.making import make; make('CartPole-v1').reset(seed=0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_knows_what_can_be_pushed() -> None:
    assert make("CartPole-v1").can_be_pushed
    assert not make("Acrobot-v1").can_be_pushed
    assert isinstance(make("Acrobot-v1"), WorldEnv)
