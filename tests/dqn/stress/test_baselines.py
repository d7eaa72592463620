import functools
from typing import Any

import numpy as np
import pytest
from gymnasium.envs.classic_control.cartpole import CartPoleEnv
from scipy.linalg import solve_discrete_are  # type: ignore[import-untyped]

from dqn.environments.making import make
from dqn.environments.world import NOMINAL, World
from dqn.evaluation.returns import Act, episodic_returns
from dqn.stress import baselines
from dqn.stress.baselines import SEARCHED_IN, linear_policy, lqr, search_linear, stressed_baselines
from dqn.stress.robustness import CELLS, Cell, StressTest, balances


def one_step(state: np.ndarray, force: float, world: World) -> np.ndarray:
    """The state `[4]` after a step of Gymnasium's CartPole under a force in newtons."""
    env = make("CartPole-v1", world)
    env.reset(seed=0)
    cart = env.unwrapped
    assert isinstance(cart, CartPoleEnv)
    cart.state, cart.force_mag = state, force
    env.step(1)
    return np.array(cart.state)


@pytest.mark.parametrize(
    "world",
    [
        NOMINAL,
        World(length=2.0, masspole=0.3, masscart=2.0, gravity=30.0, tau=0.04),
        World(length=(0.5, 1.5), wind=3.0, sensor_bias=(0.1, 0.0, 0.0, 0.0)),
    ],
)
def test_the_lqr_is_the_optimum_of_gymnasiums_own_steps(world: World) -> None:
    middle = World(length=1.0) if isinstance(world.length, tuple) else world
    tiny, origin = 1e-6, np.zeros(4)
    A = np.stack([one_step(origin + tiny * axis, 0.0, middle) / tiny for axis in np.eye(4)], axis=1)
    B = (one_step(origin, tiny, middle) / tiny)[:, np.newaxis]
    P = solve_discrete_are(A, B, np.diag([10.0, 1.0, 1.0, 1.0]), np.array([[0.01]]))
    gain = np.linalg.solve(0.01 + B.T @ P @ B, B.T @ P @ A)[0]
    np.testing.assert_allclose(lqr(world), -gain, rtol=1e-4)


def test_a_reversed_motor_reverses_the_lqr() -> None:
    np.testing.assert_allclose(lqr(World(force_mag=-10.0)), -lqr())
    world = World(force_mag=-10.0)
    held = balances(linear_policy(lqr(world)), world, CELLS[1:2], episodes=20, seed=0)
    assert held.all()


def survives_from_rest(push: float) -> bool:
    """Whether the LQR, which pushes to the left at exact rest, holds on for 250 steps after a push in the first one."""
    env = make("CartPole-v1")
    env.reset(seed=0)
    cart = env.unwrapped
    assert isinstance(cart, CartPoleEnv)
    cart.state = np.zeros(4)
    observation, act = np.zeros((1, 4), dtype=np.float32), linear_policy(lqr())
    for step in range(250):
        action = int(act(observation)[0])
        observation_, _, terminated, _, _ = env.step(action, push=push if step == 0 else 0.0)
        observation = observation_[np.newaxis]
        if terminated:
            return False
    return True


@pytest.mark.parametrize(("push", "survived"), [(84, True), (86, False), (-65, True), (-67, False)])
def test_the_greatest_push_the_lqr_survives_from_rest(push: int, survived: bool) -> None:
    """Against its own force of 10 N to the left it is 84 N, with it 20 N less."""
    assert survives_from_rest(push) is survived


def test_a_linear_policy_acts_by_the_sign_of_its_product() -> None:
    observation = np.array([[1.0, -2.0], [3.0, 1.0], [2.0, 1.0]], dtype=np.float32)
    assert linear_policy(np.array([1.0, 1.0]))(observation).tolist() == [0, 1, 1]
    assert linear_policy(np.array([1.0, -2.0]))(observation).tolist() == [1, 1, 0]  # 0 is not above 0
    each = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]])
    assert linear_policy(each)(observation).tolist() == [1, 0, 1]
    assert linear_policy(each)(np.concatenate([observation, -observation])).tolist() == [1, 0, 1, 0, 1, 0]


def test_a_search_finds_a_policy_that_holds_and_the_same_one_again() -> None:
    search = functools.partial(search_linear, max_episode_steps=200)
    found = search(seed=3)
    assert np.array_equal(search(seed=3), found)
    assert not np.array_equal(search(seed=4), found)
    assert np.linalg.norm(found) == pytest.approx(1.0)
    assert not np.array_equal(search_linear(seed=3), found)
    policy = linear_policy(found)
    returns = episodic_returns(policy, "CartPole-v1", num_episodes=100, seed=10**6, max_episode_steps=200)
    assert (returns == 200).all()


def test_a_search_moves_to_the_best_of_its_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 64 the ten best, on 8 episodes each, twelve times; the next are drawn around their mean, scaled to 1."""
    generations: list[np.ndarray] = []
    seeds: list[int] = []

    def returns(weights: np.ndarray, *_: Any, num_episodes: int, seed: int, **__: Any) -> np.ndarray:
        candidates = weights.reshape(64, 8, 4)
        assert (candidates == candidates[:, :1]).all()
        generations.append(candidates[:, 0])
        seeds.append(seed)
        assert num_episodes == 512
        return np.asarray(weights @ np.array([1.0, 2.0, 0.0, 0.0]) + np.tile(np.arange(8.0), 64))

    monkeypatch.setattr(baselines, "linear_policy", lambda weights: weights)
    monkeypatch.setattr(baselines, "episodic_returns", returns)
    found = search_linear(seed=5)
    assert seeds == [5 + 512 * generation for generation in range(12)]
    generator = np.random.default_rng(5)
    mean, deviation = np.zeros(4), np.ones(4)
    for candidates in generations:
        np.testing.assert_allclose(candidates, mean + deviation * generator.standard_normal((64, 4)))
        elites = candidates[np.argsort(candidates @ [1.0, 2.0, 0.0, 0.0])[-10:]]
        length = np.linalg.norm(elites.mean(0))
        mean, deviation = elites.mean(0) / length, elites.std(0) / length + 0.02
    np.testing.assert_allclose(found, mean)


def test_what_is_kept_of_a_search_is_what_it_finds() -> None:
    np.testing.assert_allclose(baselines._FOUND, search_linear(SEARCHED_IN, seed=baselines._SEED), rtol=1e-6)


def test_a_search_plays_in_its_world() -> None:
    reversed_motor = World(force_mag=-10.0)
    policy = linear_policy(search_linear(reversed_motor, seed=0))
    assert (episodic_returns(policy, "CartPole-v1", reversed_motor, num_episodes=20, seed=1) == 500).all()


def test_what_stands_beside_a_version_is_played_in_its_world(monkeypatch: pytest.MonkeyPatch) -> None:
    searched, played = [], []

    def search(world: World, *, seed: int) -> np.ndarray:
        searched.append(world)
        return np.array([0.0, 0.0, 1.0, 0.0])

    def stress_tests(act: Act, world: World, *, policies: int, episodes: int, seed: int) -> list[StressTest]:
        leaning = np.array([[0.0, 0.0, 0.1, 0.0], [5.0, 0.0, -0.1, 0.0]], dtype=np.float32)
        rows = np.concatenate([np.tile(row, (policies * episodes, 1)) for row in leaning])
        played.append((act(rows).reshape(2, policies, episodes), world, episodes))
        return [StressTest(balanced=np.ones((len(CELLS), 1), dtype=np.bool_), push=push) for push in (2, 4)]

    monkeypatch.setattr(baselines, "search_linear", search)
    monkeypatch.setattr(baselines, "stress_tests", stress_tests)
    world = World(length=3.0, wind=0.25)
    assert {name: tested.push for name, tested in stressed_baselines(world, episodes=7).items()} == {
        "LQR": 2,
        "linear, searched": 4,
    }
    assert searched == [World(**{**SEARCHED_IN.to_dict(), "wind": 0.25})]
    assert str(SEARCHED_IN) == (
        "length 0.5 to 2, gravity 9.8 to 20, push_force 40 to 70, push_interval 50 to 150, "
        "sensor_bias [0, 0, -0.03 to 0.03, 0]"
    )
    ((actions, *where),) = played
    assert where == [world, 7]
    assert actions.tolist() == [[[1] * 7, [1] * 7], [[1] * 7, [0] * 7]]
    assert stressed_baselines(world, episodes=7) is stressed_baselines(world, episodes=7)
    assert len(played) == 1


def test_what_four_numbers_withstand() -> None:
    pushed = Cell(name="pushes 80 N", change=World(push_force=80.0, push_interval=100))
    cells = [*CELLS, pushed]
    held = balances(linear_policy(lqr()), NOMINAL, cells, episodes=50, seed=0).mean((1, 2))
    shares = {cell.name: share for cell, share in zip(cells, held, strict=True)}
    assert shares["pushes 60 N"] == 1.0
    assert shares["gravity 30"] == 1.0
    assert shares["length 2 m"] == 0.0
    assert shares["pushes 80 N"] < 0.2
