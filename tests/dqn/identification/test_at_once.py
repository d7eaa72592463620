"""Identification from a handful of transitions. In process."""

import dataclasses

import numpy as np
import pytest

from benchmarks.drift import balance
from dqn.environments.making import make
from dqn.environments.world import NOMINAL, World
from dqn.identification.at_once import Explanation, explain, same_motion
from dqn.identification.record import Experience


def record(
    change: World,
    *,
    steps: int,
    known: World = NOMINAL,
    seed: int = 1,
    side: int | None = None,
    last: tuple[int, ...] = (),
) -> Experience:
    """Sixty transitions in a known world and some after a change of it.

    `side` is pushed to after the change; `last` are the last actions.
    """
    env = make("CartPole-v1", known)
    rows = []
    over, episode, index = True, 0, 0
    observation = np.zeros(4)
    generator = np.random.default_rng(seed)
    for number in range(60 + steps):
        if over:
            episode, index = episode + 1, 0
            observation, _ = env.reset(seed=100 * seed + episode)
        if number == 60:
            env.change(dataclasses.replace(known, **change.to_dict()))
        action = int(generator.integers(2)) if generator.random() < 0.3 else balance(observation)
        action = side if side is not None and number >= 60 else action
        action = last[number - 60 - steps] if number >= 60 + steps - len(last) else action
        after, _, terminated, truncated, _ = env.step(action, 50.0 if number == 65 else 0.0)
        rows.append((observation, action, 50.0 if number == 65 else 0.0, after, episode, index))
        observation, over, index = after, terminated or truncated, index + 1
    before, actions, pushes, afters, episodes, indices = zip(*rows, strict=True)
    return Experience(
        observation=np.array(before, dtype=np.float64),
        action=np.array(actions),
        push=np.array(pushes),
        next_observation=np.array(afters, dtype=np.float64),
        episode=np.array(episodes),
        step=np.array(indices),
    )


def best(change: World, *, steps: int, known: World = NOMINAL, seed: int = 1) -> tuple[Explanation, bool]:
    found, sure = explain(record(change, steps=steps, known=known, seed=seed), known, 60)
    return found[0], sure


CHANGES = [
    World(force_mag=-10.0),
    World(force_mag=-10.0, action_delay=2),
    World(length=0.1, force_mag=30.0),
    World(action_delay=3),
    World(wind=5.0),
    World(gravity=29.4),
    World(wind=3.0, force_mag=5.0),
    World(masscart=3.0, action_delay=2),
    World(gravity=29.4, length=0.2),
    World(tau=0.03),
    World(masspole=0.6),
    World(length=0.2, gravity=20.0, wind=2.0),
]


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_a_change_is_found_in_twenty_transitions(change: World) -> None:
    found, sure = best(change, steps=20)
    assert found.changed == pytest.approx(change.to_dict(), rel=1e-2)
    assert found.explained
    assert found.weight > 0.5
    for name, value in change.to_dict().items():
        assert getattr(found.world, name) == pytest.approx(value, rel=1e-2)
    assert sure or len(found.changed) > 1


def test_a_bias_belongs_to_the_sensors_of_the_found_world() -> None:
    found, _ = best(World(sensor_bias=(0.0, 0.0, 0.08, 0.0)), steps=20)
    assert found.changed == {"bias 2": pytest.approx(0.08, rel=1e-3)}
    assert np.array(found.world.sensor_bias) == pytest.approx([0.0, 0.0, 0.08, 0.0], rel=1e-3)


def test_nothing_has_changed_where_nothing_has() -> None:
    found, sure = best(NOMINAL, steps=20)
    assert (found.changed, found.world, sure) == ({}, NOMINAL, True)


def test_a_change_is_relative_to_the_known_world() -> None:
    known = World(wind=2.0, action_delay=1, length=0.8, push_force=30.0, push_interval=25)
    found, _ = best(World(action_delay=3), steps=20, known=known)
    assert found.changed == {"action_delay": 3}
    assert found.world == dataclasses.replace(known, action_delay=3)


def test_a_motor_that_pushes_to_one_side_only_leaves_the_explanation_open() -> None:
    found, sure = explain(record(World(force_mag=-10.0), steps=7, side=1), NOMINAL, 60)
    assert not sure, "it might be a wind, and the delay is unknown"
    assert found[0].changed == {"force_mag": pytest.approx(-10.0, rel=1e-3)}
    winds = [each.weight for each in found if abs(each.changed.get("wind", 0.0)) > 10]
    assert sum(winds) < 0.2 * found[0].weight, "no wind is stronger than the motor"
    assert all(abs(each.changed.get("force_mag", 10.0)) >= 1.0 for each in found), "no motor near 0 beside a wind"


def test_transitions_of_fresh_episodes_are_used_alone_once_there_are_ten() -> None:
    lived = record(World(force_mag=-10.0), steps=60)
    mixed = dataclasses.replace(lived, action=np.where(np.arange(120) < 66, 1 - lived.action, lived.action))
    found, _ = explain(mixed, NOMINAL, 60)
    assert found[0].changed == {"force_mag": pytest.approx(-10.0, rel=1e-3)}


def test_a_few_transitions_explain_nothing() -> None:
    assert explain(record(World(force_mag=-10.0), steps=3), NOMINAL, 60) == ((), False)
    assert explain(record(World(force_mag=-10.0), steps=4), NOMINAL, 60)[0]


def test_a_push_is_left_out_and_its_force_is_not_read() -> None:
    seen = record(World(length=0.3), steps=20)
    assert np.flatnonzero(seen.push).tolist() == [65]
    found, sure = explain(seen, NOMINAL, 60)
    assert sure
    assert found[0].changed == {"length": pytest.approx(0.3, rel=1e-2)}
    assert explain(dataclasses.replace(seen, push=7 * seen.push), NOMINAL, 60) == (found, sure)


def test_a_delay_is_open_where_all_actions_are_the_same() -> None:
    for side, expected in ((1, False), (None, True)):
        found, sure = explain(record(World(gravity=29.4), steps=16, side=side), NOMINAL, 60)
        assert sure is expected
        assert found[0].changed == {"gravity": pytest.approx(29.4, rel=1e-2)}


def test_a_delay_that_no_hypothesis_has_leaves_everything_open() -> None:
    known = World(action_delay=12)
    assert explain(record(World(gravity=29.4), steps=20, known=known), known, 60) == ((), False)


def test_a_world_of_another_kind_is_not_explained() -> None:
    found, _ = best(World(push_force=40.0, push_interval=2), steps=40)
    assert not found.explained


@pytest.mark.parametrize("change", [World(force_mag=-10.0), World(wind=5.0), World(action_delay=3)], ids=str)
def test_noise_is_estimated_and_does_not_count_as_change(change: World) -> None:
    known = World(sensor_noise=(0.02,) * 4)
    found, _ = best(change, steps=60, known=known)
    assert found.changed == pytest.approx(change.to_dict(), rel=0.1)
    assert found.noise == pytest.approx(0.02, rel=0.4)
    assert found.world.sensor_noise == (found.noise,) * 4


@pytest.mark.parametrize(
    "change", [World(sensor_bias=(0.0, 0.0, 0.0873, 0.0)), World(force_mag=-10.0), World(wind=5.0)], ids=str
)
def test_much_noise_does_not_hide_a_change(change: World) -> None:
    known = World(sensor_noise=(0.05,) * 4)
    found, _ = best(change, steps=80, known=known)
    name, value = next(iter(change.to_dict().items()))
    assert found.changed == {
        "bias 2" if name == "sensor_bias" else name: pytest.approx(
            value[2] if isinstance(value, tuple) else value, rel=0.2
        )
    }
    unchanged, _ = best(NOMINAL, steps=80, known=known)
    assert unchanged.changed == {}


@pytest.mark.parametrize("seed", range(1, 5))
def test_a_reversed_motor_and_a_bias_are_no_sure_delay(seed: int) -> None:
    """The action before the change is delayed by seven steps, or the motor reversed: the same eight pushes."""
    change = World(force_mag=-10.0, sensor_bias=(0.0, 0.0, 0.07, 0.0))
    found, sure = explain(record(change, steps=8, seed=seed, last=(0, 1, 1, 1, 1, 1, 1, 1, 0)), NOMINAL, 60)
    assert found[0].explained
    assert not sure or same_motion(found[0].world, change)
