import dataclasses
import json
import math
from typing import Any

import pytest

from dqn.environments.world import MAX_DELAY, NOMINAL, World, WorldError

RANDOMISED = World(
    length=(0.25, 0.75),
    force_mag=-10.0,
    action_delay=(1, 3),
    push_interval=(50, 150),
    sensor_bias=(0.0, 0.0, (-0.1, 0.1), 0.0),
)


@pytest.mark.parametrize("world", [NOMINAL, World(length=1.0), RANDOMISED])
def test_survives_json(world: World) -> None:
    assert World.from_dict(json.loads(json.dumps(world.to_dict()))) == world


def test_only_what_differs_is_written_down() -> None:
    assert NOMINAL.to_dict() == {}
    assert World(wind=0.0, length=0.5).to_dict() == {"length": 0.5}


def test_says_what_it_is() -> None:
    assert str(NOMINAL) == "nominal"
    assert str(RANDOMISED) == (
        "length 0.25 to 0.75, force_mag -10, push_interval 50 to 150, action_delay 1 to 3, "
        "sensor_bias [0, 0, -0.1 to 0.1, 0]"
    )
    assert str(World(sensor_noise=(0.1, 0.2))) == "sensor_noise [0.1, 0.2]", "two entries are no range"


def test_a_world_is_a_value() -> None:
    assert {World(wind=1.0), World(wind=1.0), World(wind=2.0)} == {World(wind=2.0), World(wind=1.0)}
    assert (NOMINAL.wind, NOMINAL.push_force, NOMINAL.push_interval, NOMINAL.action_delay) == (0, 0, 100, 0)


def test_a_change_takes_the_place_of_what_it_names() -> None:
    world = World(length=0.7, wind=2.0, push_force=20.0, push_interval=50, action_delay=2)
    assert world.altered(NOMINAL) == world
    assert world.altered(World(length=0.5, wind=(0.0, 0.0))) == dataclasses.replace(world, length=0.5, wind=(0.0, 0.0))
    assert world.altered(World(push_interval=60)) == dataclasses.replace(world, push_interval=60)
    pushed = world.altered(World(push_force=40.0))
    assert pushed == dataclasses.replace(world, push_force=40.0, push_interval=100), "a push has its own interval"


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"length": 0.0}, "length must be a number above 0"),
        ({"length": (0.0, 1.0)}, "length"),
        ({"masspole": -1.0}, "masspole"),
        ({"masscart": 0}, "masscart"),
        ({"inertia": 0}, "inertia"),
        ({"tau": 0.0}, "tau"),
        ({"tau": (0.2, 0.1)}, "tau"),
        ({"gravity": float("nan")}, "gravity must be a finite number"),
        ({"gravity": "9.8"}, "gravity"),
        ({"gravity": True}, "gravity"),
        ({"gravity": (1.0,)}, "gravity"),
        ({"gravity": (1.0, 2.0, 3.0)}, "gravity"),
        ({"wind": None}, "wind"),
        ({"wind": float("inf")}, "wind"),
        ({"wind": 2**31}, "wind"),
        ({"push_interval": 0}, "push_interval must be a whole number of steps from 1"),
        ({"push_interval": 1.5}, "push_interval"),
        ({"action_delay": -1}, "action_delay"),
        ({"action_delay": (0, MAX_DELAY + 1)}, "action_delay must be a whole number of steps from 0 to 100"),
        ({"sensor_bias": 0.1}, "sensor_bias must be a finite number for each entry"),
        ({"sensor_bias": (0.0, (0.2, 0.1))}, "sensor_bias"),
        ({"sensor_noise": (0.1, -0.1)}, "sensor_noise must be a number from 0"),
    ],
)
def test_refuses_what_cannot_be(values: dict[str, Any], named: str) -> None:
    with pytest.raises(WorldError, match=rf"world\.{named}"):
        World(**values)


def test_accepts_what_lies_on_the_border() -> None:
    World(
        length=math.ulp(0.0),
        action_delay=(0, MAX_DELAY),
        push_interval=1,
        sensor_noise=(0.0,),
        gravity=0,
        wind=(-1, -1),
    )


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ([1], "must be an object with any of length"),
        ({"lenght": 1.0}, "has no lenght; it has length"),
        ({"length": "x"}, "length must be"),
        ({"length": "x" * 99}, f"got '{'x' * 79}$"),
        ({"x" * 99: 1.0}, f"has no {'x' * 80}; it has"),
        (["x" * 99], rf"got \['{'x' * 78}$"),
    ],
)
def test_refuses_json_that_is_no_world(values: object, sentence: str) -> None:
    with pytest.raises(WorldError, match=sentence):
        World.from_dict(values)
