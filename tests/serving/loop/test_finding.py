"""Explanations of a change of the world. In process."""

import dataclasses
import math

import numpy as np
import pytest

from benchmarks.drift import balance
from dqn.environments.making import make
from dqn.environments.world import NOMINAL, World
from serving.loop.cartpole import CartPole
from serving.loop.experience import Experience
from serving.loop.finding import MAX_LAG, Finding, _alternates, _criterion, _motor, _search, _size, _without, explain
from tests.support.serving.steps import step


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
def test_a_change_is_described_in_a_sentence(change: World, sentence: str) -> None:
    finding = found(change, steps=80)
    assert (finding.sentence, finding.sure) == (sentence, True)
    assert finding.evidence["transitions"] == 80
    assert finding.evidence["explained"] > 0.9


def test_explanations_that_cannot_be_distinguished_are_reported_as_unsure() -> None:
    finding = found(World(masscart=3.0), steps=80)
    assert finding.sentence.startswith("not sure yet: ")
    assert "the cart moves like a heavier one (3 kg instead of 1 kg)" in finding.sentence
    assert not finding.sure


def test_noisy_sensors_are_told_from_a_world_that_moves_otherwise() -> None:
    finding = found(World(sensor_noise=(0.3,) * 4), steps=160)
    assert finding.sentence.startswith("the sensors are noisier than the policy knows: about 0.3")


def test_a_record_that_no_change_explains_is_reported_as_unexplained() -> None:
    finding = found(World(push_force=50.0, push_interval=2), steps=80)
    assert finding.sentence.startswith("the cart moves unlike predicted: after a step its speed is off by")
    assert not finding.sure
    assert explain(Experience().columns(0), NOMINAL, 0).sentence == "the cart moves unlike predicted"


def test_a_finding_needs_at_least_two_transitions() -> None:
    change = World(force_mag=0.0)
    one = found(change, steps=1)
    assert (one.sentence, one.evidence, one.sure) == ("the cart moves unlike predicted", {"transitions": 1}, False)
    assert found(change, steps=2).sentence != one.sentence


def test_transitions_with_an_unknown_delayed_action_are_not_used() -> None:
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


def test_an_explanation_is_penalized_for_each_of_its_numbers() -> None:
    for numbers in (0, 1, 2):
        expected = 2 * 50 * math.log(3.0 + 1e-4) + numbers * math.log(100)
        assert _criterion(3.0, 50, numbers) == pytest.approx(expected)


def test_least_squares_find_how_often_an_effect_is_there() -> None:
    effect = np.array([[1.0, 2.0], [3.0, -1.0]])
    rest, share = _without(2.5 * effect + [[2.0, -1.0], [0.0, 0.0]], effect)
    assert share == pytest.approx(2.5)
    assert rest == pytest.approx(np.array([[2.0, -1.0], [0.0, 0.0]]))
    assert _without(effect, np.zeros((2, 2)))[1] == 0


@pytest.mark.parametrize(
    ("name", "sought", "found"),
    [("length", 0.05, 0.05), ("length", 0.333, 0.333), ("length", 9.0, 2.0), ("tau", 0.0543, 0.0543)],
)
def test_a_field_is_searched_to_a_thousandth_within_its_bounds(name: str, sought: float, found: float) -> None:
    own = CartPole.of(NOMINAL)
    assert _search(name, lambda tried: abs(math.log(getattr(tried, name) / sought)), own) == pytest.approx(
        found, rel=1e-3
    )


@pytest.mark.parametrize(
    ("signs", "episodes", "alternates"),
    [
        ([1, -1] * 6, [1] * 12, True),
        ([1, 1] * 6, [1] * 12, False),
        ([1, 1, -1, -1] * 3, [1] * 12, False),
        ([1, -1, -1, 1, -1] * 3, [1] * 15, True),
        ([1, -1] * 5 + [1], [1] * 11, True),
        ([1, -1] * 5, [1] * 10, False),
        ([1, -1] * 6, [*range(12)], False),
    ],
)
def test_a_deviation_that_the_next_step_reverses_is_noise(
    signs: list[int], episodes: list[int], alternates: bool
) -> None:
    residual = np.array(signs, dtype=np.float64)[:, np.newaxis] * [1.0, 2.0]
    assert _alternates(residual, np.array(episodes)) is alternates


@pytest.mark.parametrize(
    ("change", "evidence"),
    [
        (World(force_mag=-20.0), {"force_ratio": -2.0}),
        (World(sensor_bias=(0.0, 0.0, 0.08, 0.0)), {"bias_rad": 0.08}),
        (World(action_delay=2), {"delay": 2.0}),
        (World(wind=-3.0), {"wind": -3.0}),
        (World(gravity=30.0), {"gravity": 30.0}),
        (World(length=0.1, force_mag=30.0), {"length": 0.1, "force_ratio": 3.0}),
        (World(length=0.1, gravity=30.0), {"length": 0.1, "gravity": 30.0}),
    ],
    ids=str,
)
def test_the_numbers_behind_a_sentence_are_those_of_the_change(change: World, evidence: dict[str, float]) -> None:
    told = found(change, steps=80).evidence
    assert {name: told[name] for name in evidence} == pytest.approx(evidence, rel=0.02)
    assert told.keys() == evidence.keys() | {"transitions", "explained"}
