import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dqn.environments.world import NOMINAL, World
from dqn.identification.identify import LEAST_TRANSITIONS, Estimate, identify
from dqn.identification.record import MAX_DELAY, Experience, UnexplainedError
from dqn.identification.trajectories import SCALES, play, values_of
from tests.support.dqn.living import balancing, joined, live

BIAS = 0.0873
"""Five degrees."""
BIASED = World(sensor_bias=(0.0, 0.0, BIAS, 0.0))
REVERSED = World(force_mag=-10.0)
KINDS = {
    "reversed motor": REVERSED,
    "sensor bias": BIASED,
    "delay": World(action_delay=3),
    "short pole, strong motor": World(length=0.1, force_mag=30.0),
    "short pole, gravity": World(length=0.1, gravity=30.0),
    "wind": World(wind=-4.0),
    "slow clock": World(tau=0.03),
    "heavy pole": World(masspole=0.5),
    "heavy cart": World(masscart=3.0),
    "gyroscope": World(sensor_bias=(0.0, 0.0, 0.0, 0.2)),
    "speedometer": World(sensor_bias=(0.0, -0.3, 0.0, 0.0)),
    "three at once": World(force_mag=-14.0, length=0.3, sensor_bias=(0.0, 0.0, -0.05, 0.0)),
    "delayed and weak": World(action_delay=2, force_mag=6.0),
    "nothing": NOMINAL,
}


@pytest.mark.parametrize("world", KINDS.values(), ids=KINDS.keys())
def test_a_change_is_identified_from_what_a_failing_policy_lived_through(world: World) -> None:
    found = identify(live(world, balancing(), 300), NOMINAL)
    assert found.transitions == 300
    assert_close(found.world, world)
    assert min(found.explained) > 0.999
    assert len(found.changed) == len(world.to_dict())
    assert found.world.action_delay == world.action_delay


@pytest.mark.parametrize("delay", [1, 4, 8])
def test_a_delay_is_exact(delay: int) -> None:
    world = World(action_delay=delay, gravity=2.0)
    found = identify(live(world, balancing(exploring=1.0), 300), NOMINAL)
    assert found.world == dataclasses.replace(world, gravity=found.world.gravity)
    assert_close(found.world, world)


@pytest.mark.slow
@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    changes=st.fixed_dictionaries(
        {},
        optional={
            "force_mag": st.sampled_from((-1.0, 1.0)).flatmap(lambda side: st.floats(3, 40).map(lambda f: side * f)),
            "length": st.floats(0.1, 2.0),
            "masspole": st.floats(0.03, 1.0),
            "gravity": st.floats(2.0, 30.0),
            "tau": st.floats(0.01, 0.04),
            "wind": st.floats(-6.0, 6.0),
            "angle": st.floats(-0.1, 0.1),
        },
    ),
    seed=st.integers(0, 1_000),
)
def test_any_few_changes_are_identified(changes: dict[str, Any], seed: int) -> None:
    names = sorted(changes)[seed % 3 :][:3]
    chosen = {name: changes[name] for name in names}
    if "angle" in chosen:
        chosen["sensor_bias"] = (0.0, 0.0, chosen.pop("angle"), 0.0)
    world = World(**chosen)
    found = identify(live(world, balancing(exploring=0.1, seed=seed), 300, seed=seed), NOMINAL)
    assert_close(found.world, world)


@pytest.mark.parametrize("noise", [0.01, 0.03])
@pytest.mark.parametrize("world", [REVERSED, BIASED, KINDS["short pole, strong motor"], KINDS["delay"]])
def test_noise_is_told_from_a_change(world: World, noise: float) -> None:
    noisy = dataclasses.replace(world, sensor_noise=(noise,) * 4)
    found = identify(live(noisy, balancing(exploring=0.1), 300), NOMINAL)
    assert set(world.to_dict()) <= set(found.world.to_dict())
    assert found.world.action_delay == world.action_delay
    assert found.world.sensor_noise == pytest.approx((noise,) * 4, rel=0.25)
    for name, estimate in found.changed.items():
        truth = BIAS if name == "sensor_bias of the pole angle" else getattr(world, name)
        assert estimate.low - 0.02 * abs(truth) <= truth <= estimate.high + 0.02 * abs(truth)


def test_intervals_hold_the_truth_and_become_ranges_where_they_are_wide() -> None:
    held, ranges = 0, 0
    for seed in range(10):
        world = World(force_mag=-10.0, sensor_noise=(0.05,) * 4)
        found = identify(live(world, balancing(exploring=0.1, seed=seed), 60, seed=seed), NOMINAL)
        estimate = found.changed["force_mag"]
        held += estimate.low <= -10 <= estimate.high
        if isinstance(found.world.force_mag, tuple):
            ranges += 1
            assert found.world.force_mag == pytest.approx((estimate.low, estimate.high), rel=0.005)
            assert estimate.high - estimate.low > 0.02 * abs(estimate.value)
    assert held >= 8
    assert ranges


def test_what_was_known_stays_and_what_is_back_to_normal_is_seen() -> None:
    known = World(length=0.3, force_mag=-10.0, sensor_bias=(0.1, 0.0, 0.05, 0.0), sensor_noise=(0.02,) * 4)
    same = identify(live(known, balancing(exploring=0.2), 200), known)
    assert same.changed == {}
    assert same.world == dataclasses.replace(known, sensor_noise=same.world.sensor_noise)
    back = identify(live(dataclasses.replace(known, force_mag=10.0), balancing(exploring=0.2), 200), known)
    assert list(back.changed) == ["force_mag"]
    assert back.world.force_mag == pytest.approx(10.0, rel=0.02)
    assert back.world.length == 0.3
    quick = identify(live(NOMINAL, balancing(), 200), World(action_delay=3, sensor_noise=(0.02,) * 4))
    assert quick.world == NOMINAL
    assert quick.changed == {"action_delay": Estimate(value=0, low=0, high=0)}


def test_of_a_known_range_the_middle_is_where_it_starts() -> None:
    found = identify(live(World(length=0.55), balancing(), 200), World(length=(0.5, 0.6)))
    assert found.changed == {}
    assert found.world == World(length=(0.5, 0.6))


def test_known_pushes_are_accounted_for_and_tell_the_masses_apart() -> None:
    world = World(masscart=2.0, masspole=0.2, force_mag=20.0)
    scaled = identify(live(world, balancing(exploring=0.1), 300), NOMINAL)
    assert scaled.changed == {}, "twice everything moves alike"
    found = identify(live(world, balancing(exploring=0.1), 300, push=15.0), NOMINAL)
    assert_close(found.world, world)


def test_pushes_of_the_known_world_are_left_out() -> None:
    pushed = World(push_force=20.0, push_interval=10, force_mag=-10.0)
    lived = live(pushed, balancing(exploring=0.5), 300)
    found = identify(lived, World(push_force=20.0, push_interval=10))
    assert found.world == pushed
    assert found.transitions == 300 - np.sum((lived.step > 0) & (lived.step % 10 == 0))
    with pytest.raises(UnexplainedError, match=r"contradicts itself|no world explains"):
        identify(lived, NOMINAL)
    with pytest.raises(UnexplainedError, match="draws its push intervals"):
        identify(lived, World(push_force=20.0, push_interval=(5, 15)))


def test_an_episode_without_its_beginning_does_not_confuse_the_delay() -> None:
    world = World(action_delay=4, gravity=2.0)
    lived = live(world, balancing(exploring=0.3), 120)
    assert lived.step[2] == 2
    late = lived.newest(118)
    found = identify(late, NOMINAL)
    assert found.world.action_delay == 4
    beginning = np.flatnonzero(late.episode != late.episode[0])
    first = int(beginning[0]) if len(beginning) else len(late.step)
    assert found.transitions == 118 - min(first, MAX_DELAY)


def test_of_ranges_the_middle_is_a_worlds_value() -> None:
    world = World(length=(0.4, 0.8), force_mag=-3.0, wind=(1.0, 3.0), sensor_bias=(9.0, (1.0, 2.0), 3.0, 4.0))
    nominal = {"masspole": 0.1, "masscart": 1.0, "gravity": 9.8, "tau": 0.02}
    biases = {"bias 1": 1.5, "bias 2": 3.0, "bias 3": 4.0}
    assert values_of(world) == {"length": pytest.approx(0.6), "force_mag": -3.0, "wind": 2.0, **nominal, **biases}
    zero = {"wind": 0.0, "bias 1": 0.0, "bias 2": 0.0, "bias 3": 0.0}
    assert values_of(NOMINAL) == {"length": 0.5, "force_mag": 10.0, **nominal, **zero}


def test_what_was_identified_is_said_in_a_line() -> None:
    found = identify(live(REVERSED, balancing(), 30), NOMINAL)
    explained = "30 transitions, 100.0% of the cart's and 100.0% of the pole's acceleration explained"
    assert str(found) == f"force_mag {found.changed['force_mag']}; {explained}"
    assert str(found.changed["force_mag"]) == "-10 (-10 to -10)"
    assert str(identify(live(NOMINAL, balancing(), 30), NOMINAL)) == f"nothing has changed; {explained}"
    with pytest.raises(UnexplainedError, match="29 of 29 transitions can be used, at least 30 are needed"):
        identify(live(NOMINAL, balancing(), 29), NOMINAL)


def test_trajectories_are_those_of_the_environment() -> None:
    world = World(length=0.3, force_mag=-7.0, wind=1.5, masspole=0.3, masscart=1.5, gravity=12.0, tau=0.03)
    lived = live(world, balancing(), 60, push=9.0)
    values = {name: float(getattr(world, name, 0.0) or 0.0) for name in SCALES}
    direction = np.where(lived.action == 1, 1.0, -1.0)[:, np.newaxis]
    played = play(values, lived.observation[np.newaxis], direction, lived.push[:, np.newaxis])
    np.testing.assert_allclose(played[0, :, 1], lived.next_observation, atol=2e-6)


def exploring(seed: int = 0) -> Any:
    return balancing(exploring=0.1, seed=seed)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("second", "first"),
    [
        (REVERSED, 75),
        (REVERSED, 140),
        (BIASED, 75),
        (World(action_delay=3), 130),
        (KINDS["short pole, strong motor"], 75),
    ],
)
def test_two_worlds_in_one_experience_are_refused(second: World, first: int) -> None:
    mixed = joined(live(NOMINAL, exploring(), first, seed=1), live(second, exploring(), 150 - first, seed=2))
    with pytest.raises(UnexplainedError, match=r"contradicts itself|no world explains this"):
        identify(mixed, NOMINAL)


def as_one_episode(observations: Any) -> Experience:
    N = len(observations) - 1
    action = np.random.default_rng(1).integers(2, size=N)
    return Experience(
        observation=observations[:-1],
        next_observation=observations[1:],
        action=action,
        push=np.zeros(N),
        episode=np.zeros(N, dtype=np.int64),
        step=np.arange(N),
    )


POISONS = {
    "noise": (
        lambda draw: draw.normal(size=(301, 4)),
        r"no world explains this: -?\d+% of the cart's and -?\d+% of the pole's acceleration are predicted, "
        r"60% are needed; the best try is (\w+ [0-9.e+-]+, )+delay \d+$",
    ),
    "little noise": (lambda draw: 0.01 * draw.normal(size=(301, 4)), "no world explains this"),
    "large numbers": (lambda draw: 1e5 * draw.normal(size=(301, 4)), "no world explains this"),
    "random walk": (lambda draw: draw.normal(size=(301, 4)).cumsum(0), "no world explains this"),
    "constant": (lambda _: np.ones((301, 4)), "change of the cart velocity is always the same"),
    "not a number": (lambda _: np.full((301, 4), np.nan), "observation has values that are not finite"),
    "infinite": (lambda _: np.full((301, 4), np.inf), "observation has values that are not finite"),
    "too short": (lambda draw: draw.normal(size=(21, 4)), f"20 of 20 .* at least {LEAST_TRANSITIONS} are needed"),
    "nothing": (lambda _: np.ones((1, 4)), "0 of 0 transitions can be used"),
    "five entries": (lambda draw: draw.normal(size=(301, 5)), r"shape \[300, 5\], expected \[300, 4\]"),
}


@pytest.mark.slow
@pytest.mark.parametrize(("poison", "sentence"), POISONS.values(), ids=POISONS.keys())
def test_what_no_world_explains_is_refused_in_a_sentence(poison: Any, sentence: str) -> None:
    with pytest.raises(UnexplainedError, match=sentence):
        identify(as_one_episode(poison(np.random.default_rng(0))), NOMINAL)


@pytest.mark.slow
def test_a_forged_record_is_refused() -> None:
    lived = live(NOMINAL, exploring(), 200)
    shuffled = dataclasses.replace(lived, action=np.random.default_rng(0).permutation(lived.action))
    with pytest.raises(UnexplainedError, match="no world explains this"):
        identify(shuffled, NOMINAL)
    for change, sentence in (
        ({"action": lived.action + 1}, "action has values other than 0 and 1"),
        ({"action": lived.action[:-1]}, r"observation has the shape \[200, 4\], expected \[199, 4\]"),
        ({"next_observation": lived.next_observation + 0.001}, "an observation differs from the previous next_obs"),
        ({"push": np.full(200, np.nan)}, "push has values that are not finite"),
        ({"push": np.full(200, -1e6)}, r"push has values that are not finite or beyond 1e\+06"),
    ):
        with pytest.raises(UnexplainedError, match=sentence):
            dataclasses.replace(lived, **change)


def test_strong_unreported_pushes_are_not_taken_for_another_world() -> None:
    for world in (World(push_force=60.0, push_interval=20), World(push_force=30.0, push_interval=10)):
        with pytest.raises(UnexplainedError, match=r"contradicts itself|no world explains this"):
            identify(live(world, exploring(), 300), NOMINAL)


def assert_close(found: World, truth: World) -> None:
    """Equal but for 5% of each number, and what is too small to matter."""
    for name, scale in (*((name, SCALES[name]) for name in SCALES if "bias" not in name),):
        default = getattr(NOMINAL, name) or scale
        wanted, got = (getattr(world, name) or default for world in (truth, found))
        assert got == pytest.approx(wanted, rel=0.05, abs=0.02 if name == "wind" else 0), name
    wanted, got = (world.sensor_bias or (0.0,) * 4 for world in (truth, found))
    assert got == pytest.approx(wanted, rel=0.05, abs=1e-3)
