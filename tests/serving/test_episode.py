import subprocess
import sys

import gymnasium as gym
import numpy as np
import orjson
import pytest
from gymnasium.envs.classic_control.cartpole import CartPoleEnv

from serving.episodes.environment import Simulation, play
from serving.episodes.physics import Change, Physics, Push, parse_seed
from serving.episodes.recording import frames
from serving.episodes.replay import record
from serving.policy import OnnxPolicy
from tests.policies import BALANCES, FALLS, PROPERTIES, linear_model


def test_an_episode_is_gymnasiums(champion: OnnxPolicy) -> None:
    env = gym.make("CartPole-v1")
    observation, _ = env.reset(seed=3)
    for step in play(champion, seed=3):
        np.testing.assert_array_equal(step.observation, observation)
        assert step.action == champion.act(observation[np.newaxis])[0]
        observation, _, terminated, truncated, _ = env.step(step.action)
        assert (step.terminated, step.truncated) == (terminated, truncated)
    assert (step.index, step.episodic_return, step.truncated) == (499, 500.0, True)


@pytest.mark.parametrize("action", [0, 1])
def test_a_push_is_an_outside_force_for_one_step(champion: OnnxPolicy, action: int) -> None:
    free = list(play(champion, seed=1))
    index = next(step.index for step in free[5:] if step.action == action)
    pushed = list(play(champion, seed=1, pushes=[Push(step=index, force=30), Push(step=index, force=30)]))
    assert [step.observation for step in pushed[: index + 1]] == [step.observation for step in free[: index + 1]]
    # CartPole is linear in force: acceleration = force / total mass, plus the pole's share, for 0.02 s
    theta = free[index].observation[2]
    share = 0.05 * np.cos(theta) ** 2 / (0.5 * (4 / 3 - 0.1 * np.cos(theta) ** 2 / 1.1)) / 1.1
    gained = pushed[index].next_observation[1] - free[index].next_observation[1]
    assert gained == pytest.approx(0.02 * 60 / 1.1 * (1 + share), rel=1e-4)
    assert pushed[index].push == 60


def test_physics_reach_the_dynamics(champion: OnnxPolicy) -> None:
    simulation = Simulation("CartPole-v1")
    simulation.set_physics(Physics(masspole=1.0, length=1.0, gravity=0.0, force_mag=20.0))
    cartpole = simulation.env.unwrapped
    assert isinstance(cartpole, CartPoleEnv)
    assert (cartpole.total_mass, cartpole.polemass_length, cartpole.gravity) == (2.0, 1.0, 0.0)
    simulation.reset(0)
    simulation.step(champion, 50)
    simulation.step(champion)
    assert cartpole.force_mag == 20.0


def test_a_policy_plays_in_the_world_it_was_trained_for() -> None:
    trained = PROPERTIES | {"world": '{"force_mag": -10.0, "length": 0.6}'}
    at_home = OnnxPolicy.load(linear_model(tuple(-gain for gain in BALANCES), properties=trained))
    assert len(list(play(at_home, seed=1))) == 500
    assert len(list(play(at_home, seed=1, physics=Physics(gravity=12)))) == 500  # the rest stays as it was
    abroad = OnnxPolicy.load(linear_model(BALANCES, properties=trained))
    assert len(list(play(abroad, seed=1))) < 30
    replay = record(at_home, model="m", version="1", seed=1)
    assert len(list(frames(replay, stride=500))) == 2
    assert orjson.loads(replay.to_json())["world"] == {"force_mag": -10.0, "length": 0.6}


def test_physics_change_in_the_middle_of_an_episode(champion: OnnxPolicy) -> None:
    free = list(play(champion, seed=1))
    heavy = Physics(gravity=25, length=1.0)
    changed = list(play(champion, seed=1, changes=[Change(step=8, physics=Physics()), Change(step=8, physics=heavy)]))
    assert [step.observation for step in changed[:9]] == [step.observation for step in free[:9]]
    simulation = Simulation("CartPole-v1")
    assert isinstance(simulation.env.unwrapped, CartPoleEnv)
    simulation.reset(0)
    simulation.set_physics(heavy)
    simulation.env.unwrapped.state = np.array(free[8].observation)
    simulation.apply(free[8].action)
    assert changed[8].next_observation == pytest.approx(simulation.observation, abs=1e-6)
    with pytest.raises(ValueError, match="with step and physics"):
        Change.parse({"step": 1})


def test_the_same_request_is_the_same_replay(champion: OnnxPolicy) -> None:
    pushes = [Push(step=10, force=-40)]
    first, second = (
        record(champion, model="m", version="1", seed=5, pushes=pushes, physics=Physics(gravity=12)) for _ in range(2)
    )
    assert first == second
    other = record(champion, model="m", version="1", seed=6, pushes=pushes, physics=Physics(gravity=12))
    assert other.id != first.id
    columns = orjson.loads(first.to_json())
    assert len(columns["observations"]) == len(columns["actions"]) + 1
    assert columns["episodic_return"] == sum(columns["rewards"])


def test_a_policy_that_falls_falls() -> None:
    steps = list(play(OnnxPolicy.load(linear_model(FALLS)), seed=0))
    assert steps[-1].terminated
    assert len(steps) < 100


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"gravity": 99}, "gravity must be between 0 and 30, got 99"),
        ({"length": "long"}, "length must be a finite number"),
        ({"length": True}, "length must be a finite number"),
        ({"wind": 1}, "unknown physics wind"),
        ([1], "physics must be an object"),
    ],
)
def test_impossible_physics_are_named(values: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Physics.parse(values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"step": -1, "force": 1}, "whole number from 0"),
        ({"step": 1.5, "force": 1}, "whole number from 0"),
        ({"step": 1, "force": 1e9}, "between -200 and 200"),
        ({"step": 1}, "with step and force"),
        (7, "with step and force"),
    ],
)
def test_impossible_pushes_are_named(values: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Push.parse(values)


@pytest.mark.parametrize("seed", [-1, 1.0, "1", None, True, 2**31])
def test_impossible_seeds_are_named(seed: object) -> None:
    with pytest.raises(ValueError, match="seed must be a whole number"):
        parse_seed(seed)


def test_only_cartpole_is_pushed() -> None:
    simulation = Simulation("Acrobot-v1")
    simulation.reset(0)
    with pytest.raises(ValueError, match="only CartPole can be pushed"):
        simulation.apply(0, 10.0)
    with pytest.raises(ValueError, match="CartPole alone"):
        simulation.set_physics(Physics(gravity=1))
    with pytest.raises(ValueError, match="environment 'Nowhere-v0' cannot be made"):
        Simulation("Nowhere-v0")


def test_pictures_may_begin_in_several_threads_at_once() -> None:
    """In a process of its own: the module behind the race is loaded once a process."""
    script = """
import sys, threading
from serving.episodes.environment import Simulation
sys.setswitchinterval(1e-6)
simulations = [Simulation("CartPole-v1", render_mode="rgb_array") for _ in range(8)]
for simulation in simulations:
    simulation.reset(0)
barrier = threading.Barrier(len(simulations))
def render(simulation):
    barrier.wait()
    simulation.render()
threads = [threading.Thread(target=render, args=(simulation,)) for simulation in simulations]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""
    finished = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert "Error" not in finished.stderr
