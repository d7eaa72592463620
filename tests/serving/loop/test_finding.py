"""What is said of a change of the world, and of what is undone. In process."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from benchmarks.drift import balance
from dqn.environments.making import make
from dqn.environments.world import NOMINAL, World
from serving.loop.cartpole import CartPole
from serving.loop.experience import Experience
from serving.loop.finding import Finding, _motor, _size, say
from serving.loop.healing import look
from serving.loop.undoing import undone_of
from tests.support.serving.steps import step


def found(change: World, *, steps: int = 80, real: World = NOMINAL, own: World = NOMINAL) -> Finding:
    """What is said of a change after some steps of it, with a linear controller in front of it."""
    return look(played(change, steps=steps, real=real).columns(0), balancing, own, own, 200, "").finding


def balancing(observation: Any) -> Any:
    right = np.array([[float(balance(each))] for each in observation])
    return np.concatenate([1 - right, right], axis=1)


def played(change: World, *, steps: int, real: World = NOMINAL) -> Experience:
    """Two hundred steps in one world and some after a change of it."""
    experience = Experience()
    env = make("CartPole-v1", real)
    over, index, observation, episode = True, 0, np.zeros(4), 0
    for number in range(200 + steps):
        if over:
            episode, index = episode + 1, 0
            observation, _ = env.reset(seed=episode)
        if number == 200:
            env.change(World(**{**real.to_dict(), **change.to_dict()}))
        action = balance(observation)
        after, _, terminated, truncated, _ = env.step(action)
        experience.add(version=1, episode=episode, step=step(index, action, observation, after))
        observation, over, index = after, terminated or truncated, index + 1
    return experience


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (World(force_mag=-10.0), "the motor answers the other way"),
        (World(force_mag=-20.0), "the motor answers the other way, with 2.0 times its force"),
        (World(force_mag=0.0), "the motor does nothing"),
        (World(force_mag=25.0), "the motor pushes with 2.5 times its force"),
        (World(sensor_bias=(0.0, 0.0, 0.0873, 0.0)), "the pole's angle reads 5° off"),
        (World(sensor_bias=(0.0, 0.0, 0.0, 0.4)), "the pole's turning reads 0.4 rad/s off"),
        (World(action_delay=3), "actions arrive 3 steps late"),
        (World(action_delay=1), "actions arrive 1 step late"),
        (World(wind=3.0), "a wind of 3.0 N blows to the right"),
        (World(wind=-3.0), "a wind of 3.0 N blows to the left"),
        (World(length=0.1), "the pole swings like a shorter one (0.2 m instead of 1 m)"),
        (World(gravity=30.0), "gravity is 30.0 m/s² instead of 9.8"),
        (World(tau=0.04), "a step takes 40 ms instead of 20 ms"),
        (World(masspole=1.0), "the pole moves like a heavier one (1 kg instead of 0.1 kg)"),
        (World(masscart=3.0), "the cart moves like a heavier one (3 kg instead of 1 kg)"),
        (
            World(length=0.1, force_mag=30.0),
            "the motor pushes with 3.0 times its force, and the pole swings like a shorter one (0.2 m instead of 1 m)",
        ),
        (
            World(force_mag=5.0, wind=2.0),
            "the motor pushes with 0.5 times its force, and a wind of 2.0 N blows to the right",
        ),
    ],
    ids=str,
)
def test_a_change_is_described_in_a_sentence(change: World, sentence: str) -> None:
    finding = found(change)
    assert finding.sentence.removeprefix("not sure yet: ") == sentence
    assert finding.evidence["transitions"] == 80


@pytest.mark.parametrize("steps", [1, 2])
def test_a_finding_needs_some_transitions(steps: int) -> None:
    finding = found(World(force_mag=0.0), steps=steps)
    assert (finding.sentence, finding.sure) == (
        "the cart moves unlike predicted; no single cause explains it",
        False,
    )
    assert finding.evidence == {"transitions": steps}


def test_noisy_sensors_are_told_from_a_world_that_moves_otherwise() -> None:
    finding = found(World(sensor_noise=(0.3,) * 4), steps=160)
    assert "the sensors are noisier than the policy knows: about 0.3" in finding.sentence
    assert finding.evidence["sensor_noise"] == pytest.approx(0.3, rel=0.2)


def test_a_record_that_no_change_explains_is_reported_as_unexplained() -> None:
    finding = found(World(push_force=50.0, push_interval=2))
    assert finding.sentence == "the cart moves unlike predicted; no single cause explains it"


def test_a_finding_is_relative_to_the_versions_own_world() -> None:
    own = World(wind=1.0, action_delay=2, sensor_bias=(0.0, 0.3, 0.1, -0.4))
    for delay, sentence in ((3, "actions arrive 1 step late"), (0, "actions arrive 2 steps early")):
        assert found(dataclasses.replace(own, action_delay=delay), own=own).sentence == sentence
    assert found(dataclasses.replace(own, wind=3.0), own=own).sentence == "a wind of 2.0 N blows to the right"


def test_evidence_has_the_changed_values() -> None:
    change = World(force_mag=21.234, sensor_bias=(0.0, 0.0, 0.0456789, 0.0), action_delay=2)
    assert found(change).evidence == {"transitions": 80, "force_ratio": 2.12, "bias_rad": 0.0457, "delay": 2}


def test_nothing_is_said_of_no_explanation() -> None:
    assert not say((), NOMINAL, sure=True, transitions=5).sure


@pytest.mark.parametrize(
    ("ratio", "sentence"),
    [
        (0.09, "the motor does nothing"),
        (-0.09, "the motor does nothing"),
        (0.11, "the motor pushes with 0.1 times its force"),
        (1.09, "the motor pushes with its own force"),
        (0.89, "the motor pushes with 0.9 times its force"),
        (-1.09, "the motor answers the other way"),
        (-1.11, "the motor answers the other way, with 1.1 times its force"),
    ],
)
def test_a_motor_is_said_by_its_side_and_its_strength(ratio: float, sentence: str) -> None:
    assert _motor(ratio) == sentence


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("length", 0.25, "the pole swings like a shorter one (0.5 m instead of 1 m)"),
        ("length", 0.75, "the pole swings like a longer one (1.5 m instead of 1 m)"),
        ("tau", 0.03, "a step takes 30 ms instead of 20 ms"),
        ("masspole", 0.05, "the pole moves like a lighter one (0.05 kg instead of 0.1 kg)"),
        ("masspole", 0.1, "the pole moves like a heavier one (0.1 kg instead of 0.1 kg)"),
        ("masscart", 0.5, "the cart moves like a lighter one (0.5 kg instead of 1 kg)"),
        ("masscart", 2.0, "the cart moves like a heavier one (2 kg instead of 1 kg)"),
    ],
)
def test_a_size_is_said_beside_the_versions_own(name: str, value: float, sentence: str) -> None:
    assert _size(name, value, CartPole.of(NOMINAL)) == sentence


BIASED = (0.0, 0.0, 0.0873, 0.0)


@pytest.mark.parametrize(
    ("world", "own", "undone"),
    [
        (World(wind=5.0), NOMINAL, ""),
        (World(force_mag=-3.0), NOMINAL, "the motor's sign undone"),
        (World(force_mag=-3.0), World(force_mag=-10.0), ""),
        (World(sensor_bias=BIASED), NOMINAL, "5° of the angle's reading subtracted"),
        (World(sensor_bias=(0.0, 0.0, 0.01, 0.0)), NOMINAL, ""),
        (World(sensor_bias=BIASED), World(sensor_bias=BIASED), ""),
        (World(sensor_bias=(0.0, 0.5, 0.0, 0.0)), NOMINAL, "the bias of a velocity's sensor subtracted"),
        (World(action_delay=1), NOMINAL, "1 step of delay bridged by the equations of motion"),
        (
            World(action_delay=4, force_mag=-10.0),
            World(action_delay=1),
            "the motor's sign undone, 3 steps of delay bridged by the equations of motion",
        ),
        (World(action_delay=1), World(action_delay=4), ""),
    ],
)
def test_what_is_undone_is_said_relative_to_the_policys_own_world(world: World, own: World, undone: str) -> None:
    assert undone_of(world, own) == undone
