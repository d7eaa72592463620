"""Changes undone in front of a policy, a regulator, and their rehearsal. In process."""

from typing import Any

import numpy as np
import pytest

from dqn.environments.making import make
from dqn.environments.world import NOMINAL, World
from serving.loop.rehearsal import candidates, choose, rehearse
from serving.loop.undoing import Plant, Undone, filter_gain, regulator, riccati
from tests.support.serving.policies import BALANCES


def linear(observation: Any) -> Any:
    right = np.asarray(observation) @ np.array(BALANCES)
    return np.stack([-right, right], axis=1)


def play(world: World, act: Any, *, seed: int) -> int:
    """Steps of an episode in Gymnasium's environment."""
    env = make("CartPole-v1", world)
    observation, _ = env.reset(seed=seed)
    steps, over = 0, False
    while not over:
        observation, _, terminated, truncated, _ = env.step(int(act(observation[np.newaxis])[0].argmax()))
        steps, over = steps + 1, terminated or truncated
    return steps


def test_a_step_of_a_plant_is_the_environments() -> None:
    world = World(length=0.3, force_mag=-7.0, wind=2.0, gravity=12.0, tau=0.03, masscart=2.0)
    env = make("CartPole-v1", world)
    state: Any = tuple(env.reset(seed=3)[0].tolist())
    plant = Plant.of(world)
    for action in (1, 0, 0, 1, 1):
        observation, *_ = env.step(action, 4.0)
        state = plant.step(state, 2 * action - 1, 4.0)
        assert state == pytest.approx(observation.tolist(), abs=1e-5)
    states: Any = tuple(np.full(3, value) for value in state)
    many = plant.step(states, np.ones(3))
    assert [entry[2] for entry in many] == pytest.approx(list(plant.step(state, 1.0)))


@pytest.mark.parametrize(
    "change",
    [
        World(force_mag=-10.0),
        World(sensor_bias=(0.0, 0.2, 0.15, -0.3)),
        World(action_delay=5),
        World(action_delay=2, force_mag=-10.0, sensor_bias=(0.0, 0.0, -0.07, 0.0)),
    ],
    ids=str,
)
def test_a_policy_balances_a_changed_world_that_is_undone(change: World) -> None:
    plant = Plant.of(change)
    for seed in range(3):
        assert play(change, linear, seed=seed) < 400
        assert play(change, Undone(linear, plant, Plant.of(NOMINAL)).q_values, seed=seed) == 500


def test_undoing_is_relative_to_the_world_of_the_policy() -> None:
    own = World(force_mag=-10.0, action_delay=1)
    undone = Undone(linear, Plant.of(World(force_mag=-20.0, action_delay=3)), Plant.of(own))
    assert (undone.swapped, undone.bridged) == (False, 2)
    assert Undone(linear, Plant.of(own), Plant.of(World(action_delay=4))).bridged == 0


def test_actions_on_their_way_are_played_ahead() -> None:
    seen: list[Any] = []

    def policy(observation: Any) -> Any:
        seen.append(np.array(observation))
        return np.array([[0.0, 1.0]])

    plant = Plant.of(World(action_delay=2))
    undone = Undone(policy, plant, Plant.of(NOMINAL), actions=[0, 0, 1])
    state = (0.1, 0.2, 0.01, -0.2)
    undone.q_values(np.array([state]))
    assert seen[-1][0] == pytest.approx(plant.step(plant.step(state, -1.0), -1.0))
    undone.q_values(np.array([state]))
    assert seen[-1][0] == pytest.approx(plant.step(plant.step(state, -1.0), 1.0))
    undone.reset()
    undone.q_values(np.array([state]))
    assert seen[-1][0] == pytest.approx(state), "no action is on its way at the beginning"
    undone.q_values(np.array([state]))
    assert seen[-1][0] == pytest.approx(plant.step(plant.step(state, 1.0), 1.0)), "the first one applies until then"


def test_noise_is_filtered() -> None:
    world = World(sensor_noise=(0.05,) * 4, action_delay=2, force_mag=-10.0)
    errors: list[list[float]] = []

    def policy(observation: Any) -> Any:
        errors[-1].append(float(np.abs(observation[0] - env.unwrapped.state).max()))  # type: ignore[attr-defined] # CartPole
        return linear(observation)

    for filtered in (True, False):
        errors.append([])
        env = make("CartPole-v1", World(sensor_noise=world.sensor_noise))
        plant = Plant.of(World(sensor_noise=world.sensor_noise if filtered else ()))
        undone = Undone(policy, plant, Plant.of(NOMINAL))
        observation, _ = env.reset(seed=5)
        for _ in range(200):
            observation, *_ = env.step(int(undone.q_values(observation[np.newaxis])[0].argmax()))
    assert np.mean(errors[0][50:]) < 0.7 * np.mean(errors[1][50:])


def test_a_regulator_balances_what_the_policy_does_not() -> None:
    world = World(length=0.1, force_mag=-30.0)
    tried = candidates(linear, world, NOMINAL)
    assert [bool(each.begin) for each in tried] == [False, True, True]
    shares = rehearse(linear, tried, world)
    assert shares[2] == 1.0
    assert shares[0] < 0.1
    assert tried[2].begin
    assert play(world, tried[2].begin(()).q_values, seed=1) == 500


def test_a_riccati_equation_is_solved() -> None:
    a, b = Plant.of(NOMINAL).linear()
    p = riccati(a, b @ b.T / 0.01, np.diag([10.0, 1.0, 1.0, 1.0]))
    right = a.T @ p @ np.linalg.inv(np.eye(4) + b @ b.T / 0.01 @ p) @ a + np.diag([10.0, 1.0, 1.0, 1.0])
    assert p == pytest.approx(right, rel=1e-6)
    gain = np.linalg.solve(b.T @ p @ b + 0.01, b.T @ p @ a)
    assert np.abs(np.linalg.eigvals(a - b @ gain)).max() < 1
    assert np.abs(np.linalg.eigvals(a - filter_gain(Plant.of(World(sensor_noise=(0.05,) * 4))) @ a)).max() < 1
    assert regulator(Plant.of(NOMINAL))(np.array([[0.0, 0.0, 0.1, 0.0]]))[0].argmax() == 1
    assert regulator(Plant.of(World(force_mag=-10.0)))(np.array([[0.0, 0.0, 0.1, 0.0]]))[0].argmax() == 0


@pytest.mark.parametrize(
    "world",
    [NOMINAL, World(force_mag=-10.0), World(action_delay=3), World(sensor_bias=(0.0, 0.0, 0.08, 0.0)), World(wind=7.0)],
    ids=str,
)
def test_a_rehearsal_lasts_as_long_as_the_environment(world: World) -> None:
    tried = candidates(linear, world, NOMINAL)
    shares = rehearse(linear, tried, world)
    for share, each in zip(shares, tried, strict=True):
        played = [play(world, each.begin(()).q_values if each.begin else linear, seed=seed) for seed in range(3)]
        assert 500 * share == pytest.approx(np.mean(played), abs=0.25 * float(np.mean(played)))


def test_noise_is_rehearsed() -> None:
    tried = candidates(linear, NOMINAL, NOMINAL)[:1]
    assert rehearse(linear, tried, World(sensor_noise=(1.0,) * 4))[0] < rehearse(linear, tried, NOMINAL)[0] == 1.0


@pytest.mark.parametrize(
    ("shares", "playing", "chosen"),
    [
        ([1.0, 1.0, 1.0], "", 0),
        ([1.0, 1.0, 1.0], "undone", 0),
        ([0.96, 1.0, 1.0], "", 1),
        ([0.96, 1.0, 1.0], "lqr", 2),
        ([0.02, 0.99, 0.985], "lqr", 2),
        ([0.02, 0.99, 0.97], "lqr", 1),
        ([0.02, 0.5, 0.97], "", 2),
        ([0.02, 0.02, 0.02], "undone", 1),
        ([0.5, 0.6, 0.7], "", 0),
        ([0.1, 0.6, 0.7], "", 2),
        ([0.1, 0.6, 0.7], "undone", 1),
        ([0.02, 1.0, 1.0], "what played before", 1),
    ],
)
def test_the_one_that_balances_longest_plays(shares: list[float], playing: str, chosen: int) -> None:
    assert choose(np.array(shares), ["", "undone", "lqr"], playing) == chosen
