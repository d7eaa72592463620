"""Attributes of environments as a part of their world: in serving's simulation and in training's environments."""

from typing import Any

import numpy as np
import pytest

from dqn.environments.making import make, make_vec
from dqn.environments.snapshot import capture, restore
from dqn.environments.spec import EnvironmentUnsupportedError
from dqn.environments.world import NOMINAL, World, WorldError
from serving.episodes.limits import parse_world
from serving.episodes.simulation import Simulation
from tests.support.serving.policies import ACROBOT, SWINGS
from tests.support.serving.stepped import Stepped

WORLDS = [
    ("Acrobot-v1", World(attributes={"LINK_LENGTH_1": 1.7})),
    ("Acrobot-v1", World(attributes={"LINK_MASS_1": 2.0, "LINK_COM_POS_1": 0.7})),
    ("Acrobot-v1", World(inertia=0.5, attributes={"LINK_MASS_2": 0.4})),
    ("MountainCar-v0", World(attributes={"goal_position": 0.3})),
    ("MountainCar-v0", World(attributes={"goal_velocity": 0.06})),
    ("MountainCar-v0", World(force_mag=0.0016, gravity=0.002, attributes={"max_speed": 0.04})),
]


def push_on(observation: tuple[float, ...], step: int) -> int:
    """Swings car and link up: pushes the way that they move, and from time to time not at all."""
    return 1 if step % 7 == 6 else 2 if observation[-1] >= 0 else 0


def served(env_id: str, world: World, *, seed: int) -> list[Any]:
    """An episode of serving's simulation."""
    simulation = Simulation(env_id, world)
    steps: list[Any] = []
    simulation.reset(seed)
    while not simulation.over:
        reward, terminated, truncated = simulation.apply(push_on(simulation.observation, len(steps)))
        steps.append((simulation.observation, reward, terminated, truncated))
    return steps


def trained(env_id: str, world: World, *, seed: int) -> list[Any]:
    """The same episode of training's environments."""
    envs = make_vec(env_id, world, num_envs=1)
    steps: list[Any] = []
    observation, _ = envs.reset(seed=seed)
    while not steps or not (steps[-1][2] or steps[-1][3]):
        action = push_on(tuple(map(float, observation[0])), len(steps))
        observation, reward, terminated, truncated, _ = envs.step(np.array([action]))
        steps.append((tuple(map(float, observation[0])), float(reward[0]), bool(terminated[0]), bool(truncated[0])))
    return steps


@pytest.mark.parametrize(("env_id", "world"), WORLDS)
@pytest.mark.parametrize("seed", [0, 1])
def test_serving_and_training_play_the_same_changed_environment(env_id: str, world: World, seed: int) -> None:
    steps = served(env_id, world, seed=seed)
    assert steps == trained(env_id, world, seed=seed)
    assert len(steps) >= 30
    assert steps != served(env_id, NOMINAL, seed=seed), "and it is another one"


def test_the_velocity_at_the_goal_ends_an_episode() -> None:
    for velocity, ends in ((0.0, True), (0.06, False)):
        env: Any = make("MountainCar-v0", World(attributes={"goal_velocity": velocity}))
        env.reset(seed=0)
        env.unwrapped.state = (0.49, 0.03)
        assert env.step(2)[2] is ends


def test_a_viewer_changes_an_attribute_of_the_environment_that_plays(stepped: Stepped) -> None:
    stepped.swap(SWINGS, NOMINAL, ACROBOT, actions=3)
    stepped.play(1)
    acrobot: Any = stepped.show.players[0].simulation.env.unwrapped
    assert stepped.client.put("/api/world", json={"attributes": {"LINK_MASS_1": 2}}).status_code == 200
    assert acrobot.LINK_MASS_1 == 2.0
    for values, sentence in (
        ({"attributes": {"LINK_MASS": 2}}, "Acrobot-v1 has no 'LINK_MASS' among the attributes"),
        ({"attributes": {"LINK_MASS_1": "2"}}, "world.attributes.LINK_MASS_1 must be a finite number"),
        ({"attributes": {"LINK_MASS_1": 1e9}}, "world.attributes must be between -1e+06 and 1e+06 here"),
        ({"attributes": {"LINK_MASS_1": 9}}, "world.attributes.LINK_MASS_1 must be from 0.25 to 4 in Acrobot-v1"),
        ({"attributes": [1]}, "world.attributes must be numbers by the names of attributes"),
    ):
        refused = stepped.client.put("/api/world", json=values)
        assert refused.status_code == 400
        assert sentence in refused.json()["error"]
    assert acrobot.LINK_MASS_1 == 2.0
    assert stepped.client.put("/api/world", json={}).status_code == 200
    assert acrobot.LINK_MASS_1 == 1.0


def test_an_attribute_that_is_not_named_any_more_has_its_own_value_again() -> None:
    env = make("Acrobot-v1", World(masspole=1.5, attributes={"LINK_MASS_1": 2.0}))
    acrobot: Any = env.unwrapped
    assert (acrobot.LINK_MASS_1, acrobot.LINK_MASS_2) == (2.0, 1.5), "an attribute is stronger than a field"
    env.change(World(attributes={"LINK_MASS_2": 0.5}))
    assert (acrobot.LINK_MASS_1, acrobot.LINK_MASS_2) == (1.0, 0.5)
    with pytest.raises(EnvironmentUnsupportedError):
        env.change(World(attributes={"LINK_MASS_1": 2.0, "nothing": 1.0}))
    assert (acrobot.LINK_MASS_1, acrobot.LINK_MASS_2) == (1.0, 0.5), "a refused change changes nothing"
    env.change(World(masspole=3.0))
    assert (acrobot.LINK_MASS_1, acrobot.LINK_MASS_2) == (3.0, 3.0), "a field changes what was an attribute's"
    with pytest.raises(EnvironmentUnsupportedError, match="must be from"):
        env.change(World(attributes={"LINK_MASS_1": 5.0}))
    env.change(World(masspole=3.0, attributes={"LINK_MASS_1": 4.0}))
    assert (acrobot.LINK_MASS_1, acrobot.LINK_MASS_2) == (4.0, 3.0)
    env.change(NOMINAL)
    assert (acrobot.LINK_MASS_1, acrobot.LINK_MASS_2) == (1.0, 1.0)


def test_a_step_of_acrobot_ends_in_every_world() -> None:
    env: Any = make("Acrobot-v1", World(masspole=4.0, tau=1.6, attributes={"LINK_MASS_1": 0.25}))
    env.reset(seed=0)
    for state in np.random.default_rng(1).uniform(-1, 1, (20, 4)) * np.pi * [1, 1, 4, 9]:
        env.unwrapped.state = state
        assert np.isfinite(env.step(0)[0]).all()


def test_a_range_is_drawn_at_each_reset_and_survives_a_checkpoint() -> None:
    envs = make_vec("MountainCar-v0", World(attributes={"max_speed": (0.05, 0.09)}), num_envs=3)
    envs.reset(seed=4)

    def speeds(these: Any) -> list[float]:
        return [env.unwrapped.max_speed for env in these.envs]

    first = speeds(envs)
    assert len({*first}) == 3
    assert all(0.05 <= speed <= 0.09 for speed in first)
    assert speeds(restore(capture(envs))) == first
    envs.reset(seed=5)
    assert speeds(envs) != first


@pytest.mark.parametrize(
    ("env_id", "attributes", "sentence"),
    [
        (
            "MountainCar-v0",
            {"wheels": 4.0},
            "MountainCar-v0 has no 'wheels' among the attributes for a world to change",
        ),
        (
            "MountainCar-v0",
            {"gravity": 0.002},
            "no 'gravity' among the attributes for a world to change; use world.grav",
        ),
        ("Acrobot-v1", {"LINK_MOI": 2.0}, "use world.inertia"),
        ("Acrobot-v1", {"SCREEN_DIM": 100.0}, "it has LINK_COM_POS_1, LINK_COM_POS_2, LINK_LENGTH_1"),
        ("Acrobot-v1", {"np_random_seed": 1.0}, "no 'np_random_seed'"),
        ("Acrobot-v1", {"LINK_MASS_1": 4.1}, "LINK_MASS_1 must be from 0.25 to 4 in Acrobot-v1, got 4.1"),
        ("Acrobot-v1", {"LINK_MASS_1": (-1.0, 2.0)}, "must be from 0.25 to 4"),
        ("MountainCar-v0", {"goal_velocity": 2.0}, "must be from -1 to 1"),
        (
            "CartPole-v1",
            {"x_threshold": 1.0},
            "no 'x_threshold' among the attributes for a world to change; it has none",
        ),
        ("CartPole-v1", {"force_mag": 1.0}, "use world.force_mag"),
    ],
)
def test_an_attribute_that_an_environment_does_not_have_is_refused_in_a_sentence(
    env_id: str, attributes: dict[str, Any], sentence: str
) -> None:
    world = World(attributes=attributes)
    with pytest.raises(EnvironmentUnsupportedError) as refused:
        make(env_id, world)
    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)
    with pytest.raises(EnvironmentUnsupportedError) as in_training:
        make_vec(env_id, world, num_envs=2)
    assert str(in_training.value) == str(refused.value)


@pytest.mark.parametrize(
    ("attributes", "sentence"),
    [
        ({"a": float("nan")}, "world.attributes.a must be a finite number, or a range from low to high, got nan"),
        ({"a": float("inf")}, "got inf"),
        ({"a": "1"}, "world.attributes.a must be a finite number, or a range from low to high, got '1'"),
        ({"a": None}, "got None"),
        ({"a": True}, "got True"),
        ({"a": (2.0, 1.0)}, "world.attributes.a must be a finite number, or a range"),
        ({"_a": 1.0}, "world.attributes must be numbers by the names of attributes"),
        ({"a.b": 1.0}, "world.attributes must be numbers by the names of attributes"),
        ([1.0], "world.attributes must be numbers by the names of attributes"),
    ],
)
def test_what_is_no_number_is_refused(attributes: Any, sentence: str) -> None:
    with pytest.raises(WorldError) as refused:
        World(attributes=attributes)
    assert sentence in str(refused.value)
    with pytest.raises(WorldError) as in_a_request:
        parse_world({"attributes": attributes})
    assert sentence in str(in_a_request.value)


def test_a_request_names_at_most_so_many() -> None:
    with pytest.raises(WorldError, match="has 33 numbers, at most 32 may change"):
        parse_world({"attributes": {f"a{index}": 1.0 for index in range(33)}})


def test_equal_attributes_are_equal_worlds() -> None:
    one, other = World(attributes={"b": 1, "a": 2}), World(attributes={"a": 2.0, "b": 1.0})
    assert (one, str(one), hash(one)) == (other, "attributes {a 2, b 1}", hash(other))
    assert World.from_dict(one.to_dict()) == one
    assert World.from_dict({"attributes": {"a": [1, 2]}}) == World(attributes={"a": (1.0, 2.0)})
    written: Any = {"a": [1, 2]}
    assert World(attributes=written) == World(attributes={"a": (1.0, 2.0)}), "as the command line reads a range"
    assert World(attributes={}).to_dict() == {}
    assert one.altered(World(attributes={"b": 3.0, "c": 4.0})).attributes == {"a": 2.0, "b": 3.0, "c": 4.0}
