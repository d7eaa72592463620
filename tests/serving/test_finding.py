"""What is said of a world that has changed. In process."""

import dataclasses

import numpy as np
import pytest

from benchmarks.drift import balance
from dqn.simulation import make
from dqn.world import NOMINAL, World
from serving.live.experience import Experience
from serving.live.finding import MAX_LAG, Finding, explain
from tests.serving.test_drift import step


def found(change: World, *, steps: int, real: World = NOMINAL, own: World = NOMINAL) -> Finding:
    """What is said of a change after some steps of it."""
    return explain(lived(change, steps=steps, real=real).columns(0), own, 200)


def lived(change: World, *, steps: int, real: World = NOMINAL) -> Experience:
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
        (World(action_delay=3), "actions arrive 3 steps late"),
        (World(action_delay=1), "actions arrive 1 step late"),
        (World(wind=3.0), "a wind of 3.0 N blows to the right"),
        (World(wind=-3.0), "a wind of 3.0 N blows to the left"),
        (World(length=0.1), "the pole swings like a shorter one (0.2 m instead of 1 m)"),
        (World(length=1.0), "the pole swings like a longer one (2 m instead of 1 m)"),
        (World(gravity=30.0), "gravity is 30.0 m/s² instead of 9.8"),
        (World(tau=0.04), "a step takes 40 ms instead of 20 ms"),
        (World(masspole=1.0), "the pole moves like a heavier one (1 kg instead of 0.1 kg)"),
        (
            World(length=0.1, force_mag=30.0),
            "the pole swings like a shorter one (0.2 m instead of 1 m), and the motor pushes with 3.0 times its force",
        ),
        (
            World(length=0.1, gravity=30.0),
            "the pole swings like a shorter one (0.2 m instead of 1 m), and gravity is 30.0 m/s² instead of 9.8",
        ),
    ],
    ids=str,
)
def test_what_has_changed_is_said(change: World, sentence: str) -> None:
    finding = found(change, steps=80)
    assert (finding.sentence, finding.sure) == (sentence, True)
    assert finding.evidence["transitions"] == 80
    assert finding.evidence["explained"] > 0.9


def test_what_cannot_be_told_apart_is_said_to_be_unsure() -> None:
    finding = found(World(masscart=3.0), steps=80)
    assert finding.sentence.startswith("not sure yet: ")
    assert "the cart moves like a heavier one (3 kg instead of 1 kg)" in finding.sentence
    assert not finding.sure


def test_noisy_sensors_are_told_from_a_world_that_moves_otherwise() -> None:
    finding = found(World(sensor_noise=(0.3,) * 4), steps=160)
    assert finding.sentence.startswith("the sensors are noisier than the policy knows: about 0.3")


def test_what_nothing_explains_is_said_to_be_unexplained() -> None:
    finding = found(World(push_force=50.0, push_interval=2), steps=80)
    assert finding.sentence.startswith("the cart moves unlike predicted: after a step its speed is off by")
    assert not finding.sure
    assert explain(Experience().columns(0), NOMINAL, 0).sentence == "the cart moves unlike predicted"


def test_two_transitions_are_the_least_to_say_anything_of() -> None:
    change = World(force_mag=0.0)
    one = found(change, steps=1)
    assert (one.sentence, one.evidence, one.sure) == ("the cart moves unlike predicted", {"transitions": 1}, False)
    assert found(change, steps=2).sentence != one.sentence


def test_transitions_whose_late_action_is_forgotten_explain_nothing() -> None:
    lately = lived(World(action_delay=3), steps=80)
    columns = lately.columns(200)
    assert columns["step"][0] > MAX_LAG
    finding = explain(columns, NOMINAL, 200)
    assert (finding.sentence, finding.evidence["transitions"]) == ("actions arrive 3 steps late", 80 - MAX_LAG)
    finding = explain(lately.columns(195), NOMINAL, 200)
    assert (finding.sentence, finding.evidence["transitions"]) == ("actions arrive 3 steps late", 80 - MAX_LAG + 5)


def test_a_finding_is_relative_to_the_versions_own_world() -> None:
    own = World(wind=1.0, action_delay=2, sensor_bias=(0.0, 0.3, 0.1, -0.4))
    for delay_, sentence in ((3, "actions arrive 1 step late"), (0, "actions arrive 2 steps early")):
        assert found(dataclasses.replace(own, action_delay=delay_), steps=80, own=own).sentence == sentence
