import subprocess
import sys

import gymnasium as gym
import msgspec
import numpy as np
import orjson
import pytest
from gymnasium.envs.classic_control.cartpole import CartPoleEnv

from dqn.environments.world import World
from serving.episodes.limits import MAX_SEED, Change, Push, Seed, parse_world
from serving.episodes.recording import frames
from serving.episodes.replay import record
from serving.episodes.replays import EpisodeRequest
from serving.episodes.simulation import Simulation, play
from serving.errors import RequestError
from serving.policy import OnnxPolicy
from serving.web.decoding import decode, fit
from tests.support.serving.policies import BALANCES, FALLS, PROPERTIES, linear_model


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
    simulation.change(World(masspole=1.0, length=1.0, gravity=0.0, force_mag=20.0))
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
    assert len(list(play(at_home, seed=1, world=World()))) < 30
    abroad = OnnxPolicy.load(linear_model(BALANCES, properties=trained))
    assert len(list(play(abroad, seed=1))) < 30
    replay = record(at_home, model="m", version="1", seed=1)
    assert len(list(frames(replay, stride=500))) == 2
    assert orjson.loads(replay.to_json())["world"] == {"force_mag": -10.0, "length": 0.6}


def test_the_world_changes_in_the_middle_of_an_episode(champion: OnnxPolicy) -> None:
    free = list(play(champion, seed=1))
    heavy = World(gravity=25.0, length=1.0)
    changes = [Change(step=8, world={}), Change(step=8, world=heavy.to_dict())]
    changed = list(play(champion, seed=1, changes=changes))
    assert [step.observation for step in changed[:9]] == [step.observation for step in free[:9]]
    simulation = Simulation("CartPole-v1")
    assert isinstance(simulation.env.unwrapped, CartPoleEnv)
    simulation.reset(0)
    simulation.change(heavy)
    simulation.env.unwrapped.state = np.array(free[8].observation)
    simulation.apply(free[8].action)
    assert changed[8].next_observation == pytest.approx(simulation.observation, abs=1e-6)


def test_the_same_request_is_the_same_replay(champion: OnnxPolicy) -> None:
    pushes = [Push(step=10, force=-40)]
    first, second = (
        record(champion, model="m", version="1", seed=5, pushes=pushes, world=World(gravity=12.0)) for _ in range(2)
    )
    assert first == second
    other = record(champion, model="m", version="1", seed=6, pushes=pushes, world=World(gravity=12.0))
    assert other.id != first.id
    columns = orjson.loads(first.to_json())
    assert len(columns["observations"]) == len(columns["actions"]) + 1
    assert columns["episodic_return"] == sum(columns["rewards"])


def test_a_policy_that_falls_ends_its_episode_early() -> None:
    steps = list(play(OnnxPolicy.load(linear_model(FALLS)), seed=0))
    assert steps[-1].terminated
    assert len(steps) < 100


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"world": {"gravity": 99}}, "world.gravity must be between 0 and 50 here, got 99"),
        ({"world": {"gravity": [-1, 9]}}, "world.gravity must be between 0 and 50 here, got -1"),
        ({"world": {"sensor_bias": [0, [1, 6]]}}, "world.sensor_bias must be between -5 and 5 here, got 6"),
        ({"world": {"length": "long"}}, "world.length must be a number above 0"),
        ({"world": {"length": True}}, "world.length must be a number above 0"),
        ({"world": {"colour": 1}}, "a world has no colour"),
        ({"world": [1]}, "world must be an object or null, got a list of length 1"),
        ({"changes": [{"step": 1, "world": {"tau": 1.0}}]}, "world.tau must be between 0.001 and 0.1 here, got 1"),
        ({"pushes": [{"step": -1, "force": 1}]}, "pushes[0].step must be a whole number of at least 0, got -1"),
        ({"pushes": [{"step": 2000, "force": 1}]}, "pushes[0].step must be a whole number of at most 1999, got 2000"),
        ({"pushes": [{"step": 1.5, "force": 1}]}, "must be a whole number, got 1.5"),
        ({"pushes": [{"step": 1, "force": 1e9}]}, "pushes[0].force must be a number of at most 200, got 1000000000.0"),
        ({"pushes": [{"step": 1, "force": -201}]}, "must be a number of at least -200, got -201"),
        ({"pushes": [{"step": 1}]}, "pushes[0] has no field 'force', which is required: add it"),
        ({"pushes": [7]}, "pushes[0] must be an object, got 7"),
        (
            {"pushes": [{"step": 1, "force": 1}] * 1001},
            "of length at most 1000, got a list of length 1001",
        ),
        ({"changes": [{"step": 1}]}, "changes[0] has no field 'world'"),
        ({"changes": [{"step": 1, "world": {}}] * 1001}, "changes must be a list of length at most 1000"),
        ({"version": 1.5}, "version must be a whole number, a string or null, got 1.5"),
        ({"speed": 2}, "the request has a field 'speed', which is unknown: leave it out"),
        ([], "the request must be an object, got a list of length 0"),
        *(({"seed": seed}, "seed must be a whole number") for seed in (-1, 1.5, "1", None, True, 2**31)),
    ],
)
def test_an_impossible_episode_is_named(request_: object, message: str) -> None:
    with pytest.raises(RequestError) as caught:
        decode(msgspec.json.Decoder(EpisodeRequest), orjson.dumps(request_))
    assert message in str(caught.value)


def test_a_value_at_its_limit_is_taken() -> None:
    assert parse_world({"gravity": [0.0, 50.0], "action_delay": 100}) == World(gravity=(0.0, 50.0), action_delay=100)


def test_an_error_does_not_repeat_a_megabyte() -> None:
    with pytest.raises(RequestError) as caught:
        decode(msgspec.json.Decoder(EpisodeRequest), orjson.dumps({"x" * 1_000_000: 1}))
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(("text", "seed"), [("0", 0), ("2147483647", MAX_SEED)])
def test_a_seed_may_be_text_on_a_command_line(text: str, seed: int) -> None:
    assert fit(text, Seed) == seed
    for wrong in ("-1", "2147483648", "x", "1.5", ""):
        with pytest.raises(RequestError, match=r"^the query must be a whole number"):
            fit(wrong, Seed)


def test_only_cartpole_is_pushed() -> None:
    simulation = Simulation("Acrobot-v1")
    simulation.reset(0)
    with pytest.raises(ValueError, match="only CartPole can be pushed"):
        simulation.apply(0, 10.0)
    with pytest.raises(ValueError, match="has no wind"):
        simulation.change(World(wind=1.0))
    with pytest.raises(ValueError, match="environment 'Nowhere-v0' cannot be made"):
        Simulation("Nowhere-v0")


def test_pictures_may_begin_in_several_threads_at_once() -> None:
    """In a process of its own: the module behind the race is loaded once a process."""
    script = """
import sys, threading
from serving.episodes.simulation import Simulation
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
