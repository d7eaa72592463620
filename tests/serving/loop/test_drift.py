"""The predicted step, and the sequential tests that detect a drift. In process."""

import math

import numpy as np
import pytest

from benchmarks.drift import CHANGES, NOISY, balance, delay, play
from dqn.environments.making import make
from dqn.environments.world import NOMINAL, World
from serving.loop.cartpole import CartPole
from serving.loop.drift import EpisodeTest, Rise, StepTest, _capped, can_predict
from tests.support.serving.steps import step


@pytest.mark.parametrize("seed", range(6))
def test_a_rise_is_reported_when_the_excess_of_consecutive_numbers_reaches_the_threshold(seed: int) -> None:
    generator = np.random.default_rng(seed)
    series = np.concatenate([generator.normal(size=300), generator.normal(2.0, size=60)])
    test = Rise(allowed=0.3, threshold=12.0)
    told = next(n for n, number in enumerate(series.tolist(), start=1) if test.update(number))
    excess = {(n, k): (series[n - k : n] - 0.3).sum() for n in range(1, told + 1) for k in range(1, n + 1)}
    assert 300 < told < 330
    assert {n for (n, _), by in excess.items() if by > 12.0} == {told}
    assert test.lasted == max((k for k in range(1, told + 1)), key=lambda k: excess[told, k])


def test_a_rise_says_how_long_it_has_lasted() -> None:
    test = Rise(allowed=1.5, threshold=3.0)
    assert not any(test.update(1.0) for _ in range(100))
    assert [test.update(2.5) for _ in range(4)] == [False, False, False, True]
    assert test.lasted == 4
    test.reset()
    assert [test.update(2.5) for _ in range(4)] == [False, False, False, True]
    assert test.lasted == 4


def test_a_rise_may_begin_with_the_first_number() -> None:
    test = Rise(allowed=0.5, threshold=2.0)
    assert test.update(2.6)
    test.reset()
    assert not test.update(2.5), "the threshold itself is let pass"
    assert test.update(0.75)
    assert test.lasted == 2
    test.reset()
    assert not test.update(0.5)
    assert test.lasted == 0, "a sum of 0 is no beginning"


def test_a_step_is_predicted_as_gymnasium_takes_it() -> None:
    world = World(length=0.3, masspole=0.4, masscart=2.0, gravity=12.0, force_mag=-7.0, tau=0.03)
    env = make("CartPole-v1", world)
    cartpole = CartPole.of(world)
    observation, _ = env.reset(seed=1)
    for index in range(12):
        found, *_ = env.step(index % 2, index - 5.0)
        force = (-7.0 if index % 2 else 7.0) + index - 5.0
        _, x_dot, theta, theta_dot = observation.tolist()
        assert cartpole.velocities(x_dot, theta, theta_dot, force) == pytest.approx(found[[1, 3]].tolist(), abs=1e-5)
        observation = found


OWN = [
    NOMINAL,
    World(action_delay=3),
    World(wind=2.0, force_mag=-10.0),
    World(sensor_bias=(0.1, -0.2, 0.05, 0.1)),
    World(length=(0.4, 0.6), force_mag=(9.0, 11.0), sensor_bias=(0.0, 0.0, (-0.02, 0.02), 0.0)),
    World(wind=(-1.0, 1.0), gravity=(9.0, 11.0), masspole=(0.05, 0.2), masscart=(0.8, 1.2), tau=(0.019, 0.021)),
    World(push_force=60.0, push_interval=50),
    World(sensor_noise=(0.2,) * 4),
    NOISY,
]


@pytest.mark.parametrize("own", OWN, ids=str)
def test_a_version_at_home_raises_no_alarm_however_it_is_pushed(own: World) -> None:
    played = play(balance, own, steps=4_000, seed=3)
    assert (played.alarms, played.episode_alarms) == ((), 0)


@pytest.mark.slow
def test_noise_that_the_stress_test_demands_is_no_alarm_in_any_of_some_minutes() -> None:
    played = play(balance, NOMINAL, real=NOISY, steps=20_000, seed=7)
    assert (played.alarms, played.episode_alarms) == ((), 0)
    assert played.episodes > 30


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("real", [NOMINAL, NOISY], ids=["perfect sensors", "noise"])
@pytest.mark.parametrize("name", list(CHANGES))
def test_a_change_is_noticed_within_three_seconds(name: str, real: World, seed: int) -> None:
    noticed = delay(balance, CHANGES[name], real=real, seed=seed)
    assert noticed is not None
    assert noticed <= 100, "one second remains for the transitions that identify the change"


ELSEWHERE = [
    World(force_mag=(-10.5, -9.5)),
    World(action_delay=3),
    World(wind=2.0),
    World(push_force=60.0, push_interval=50),
    NOISY,
]


@pytest.mark.parametrize("own", ELSEWHERE, ids=str)
def test_a_version_of_another_world_notices_the_nominal_one(own: World) -> None:
    played = play(balance, own, real=World(force_mag=20.0), steps=300, seed=1)
    assert played.alarms


def test_a_range_is_predicted_by_its_middle_and_a_missing_value_by_gymnasiums_default() -> None:
    found = CartPole.of(World(length=(0.2, 0.8), force_mag=(-9.0, -3.0), tau=0.03))
    own = CartPole(length=0.5, masspole=0.1, masscart=1.0, gravity=9.8, force_mag=-6.0, tau=0.03)
    assert found == own


def test_random_effects_are_not_predicted() -> None:
    assert can_predict("CartPole-v1", World(push_force=10.0, action_delay=2))
    assert not can_predict("CartPole-v1", World(action_delay=(0, 2)))
    assert not can_predict("CartPole-v1", World(push_force=10.0, push_interval=(50, 100)))
    assert can_predict("CartPole-v1", World(push_interval=(50, 100)))
    assert not can_predict("Acrobot-v1", NOMINAL)


def test_a_residual_is_divided_by_the_deviation_that_noise_causes() -> None:
    noise = (0.9, 0.1, 0.2, 0.3)
    still, leaning = (CartPole.of(NOMINAL).velocities(0.0, theta, 0.0, 0.0) for theta in (0.0, 1e-3))
    effects = [1e3 * abs(leaning[entry] - still[entry]) for entry in (0, 1)]
    for world, (cart, angle, turn) in ((World(sensor_noise=noise), noise[1:]), (NOMINAL, (0.05,) * 3)):
        expected = (math.hypot(cart, cart, effects[0] * angle), math.hypot(turn, turn, effects[1] * angle))
        assert StepTest(world).scales == pytest.approx(expected, rel=1e-4)
    ranged = World(sensor_noise=((0.0, 0.9), (0.0, 0.1), (0.1, 0.2), 0.3))
    assert StepTest(ranged).scales == StepTest(World(sensor_noise=noise)).scales


def test_a_residual_within_a_range_is_tolerated() -> None:
    """A newton more or less is the same whether wind or motor leaves it open, and two ranges leave open their sum."""
    own = CartPole.of(NOMINAL)
    one, other = (own.velocities(0.0, 0.2, 1.0, force) for force in (10.0, 11.0))
    newton = [abs(other[entry] - one[entry]) for entry in (0, 1)]
    upright, leaning = (own.velocities(0.0, theta, 0.0, 0.0) for theta in (0.0, 0.02))
    lean = [abs(leaning[entry] - upright[entry]) for entry in (0, 1)]
    for world, expected in (
        (World(wind=(-1.0, 1.0)), newton),
        (World(wind=(2.0, 4.0)), newton),
        (World(force_mag=(9.0, 11.0)), newton),
        (World(wind=(-1.0, 1.0), force_mag=(9.0, 11.0)), [2 * size for size in newton]),
        (World(sensor_bias=(0.0, 0.0, (0.01, 0.05), 0.0)), lean),
        (World(sensor_bias=((0.0, 9.0), (0.0, 9.0), 0.02, (0.0, 9.0))), [0.0, 0.0]),
        (World(wind=2.0, sensor_bias=(0.0, 0.0, (0.01, 0.05), 0.0)), lean),
    ):
        assert StepTest(world)._slack == pytest.approx(expected), world


@pytest.mark.parametrize(
    ("residual", "slack", "size"),
    [(3.0, 1.0, 1.0), (-3.0, 1.0, -1.0), (1.0, 1.0, 0.0), (99.0, 1.0, 4.0), (-9.1, 1.0, -4.0)],
)
def test_a_residual_beyond_the_tolerance_counts_up_to_four_deviations(
    residual: float, slack: float, size: float
) -> None:
    assert _capped(residual, slack, 2.0) == size


def off(test: StepTest, index: int, cart: float, pole: float) -> int:
    """What the test returns for a step with velocities that are off by so many standard deviations."""
    velocities = CartPole.of(NOMINAL).velocities(0.0, 0.0, 0.0, 10.0)
    after = [0, velocities[0] + cart * test.scales[0], 0, velocities[1] + pole * test.scales[1]]
    return test.update(step(index, 1, [0] * 4, after))


@pytest.mark.parametrize(("cart", "pole"), [(1.0, 0.0), (-1.0, 0.0), (0.0, 1.0), (0.0, -1.0)])
def test_a_lasting_deviation_is_reported_in_the_fifteenth_step(cart: float, pole: float) -> None:
    test = StepTest(NOMINAL)
    told = [off(test, index, cart, pole) for index in range(30)]
    assert told == [*[0] * 14, 15, *[0] * 14, 15], "0.17 a step are let pass, and 12 in all; then it begins anew"


@pytest.mark.parametrize(("square", "told"), [(28.5, [0, 0, 3]), (27.5, [0, 0, 0])])
def test_deviations_to_either_side_add_up_by_their_squares(square: float, told: list[int]) -> None:
    test = StepTest(NOMINAL)
    last = (4.0, math.sqrt(square - 16))
    assert [off(test, index, *each) for index, each in enumerate([(4, 4), (-4, -4), last])] == told


def test_an_alarm_for_one_quantity_resets_the_sums_of_the_others() -> None:
    test = StepTest(NOMINAL)
    told = [off(test, index, 1.0, 0.9) for index in range(15)]
    assert told == [*[0] * 14, 15]
    assert [off(test, index, 0.0, 0.9) for index in range(15, 31)] == [0] * 16


def test_an_episode_begins_with_actions_of_its_own() -> None:
    test = StepTest(World(action_delay=2))
    for episode in range(20):
        velocities = CartPole.of(NOMINAL).velocities(0.0, 0.0, 0.0, 10.0 if episode % 2 else -10.0)
        after = [0, velocities[0], 0, velocities[1]]
        assert not any(test.update(step(index, episode % 2, [0] * 4, after)) for index in range(3))


def test_a_single_outlier_is_no_alarm() -> None:
    test = StepTest(NOMINAL)
    still = CartPole.of(NOMINAL).velocities(0.0, 0.0, 0.0, 10.0)
    assert not any(test.update(step(index, 1, [0] * 4, [0, still[0], 0, still[1]])) for index in range(50))
    assert not test.update(step(50, 1, [0] * 4, [0, 100.0, 0, 100.0]))
    assert not any(test.update(step(index, 1, [0] * 4, [0, still[0], 0, still[1]])) for index in range(51, 100))


def test_a_test_that_begins_in_mid_episode_waits_for_the_actions_on_their_way() -> None:
    test = StepTest(World(action_delay=2))
    wrong = [0, 5.0, 0, 5.0]
    assert [bool(test.update(step(index, 1, [0] * 4, wrong))) for index in range(7, 12)] == [False] * 4 + [True]


def test_returns_that_fall_are_noticed_and_one_bad_episode_is_not() -> None:
    test = EpisodeTest()
    assert not any(test.update(500.0) for _ in range(40))
    assert not test.update(9.0)
    assert not any(test.update(500.0) for _ in range(8))
    assert [test.update(9.0) for _ in range(5)] == [False, False, False, False, True]
    assert test.usual > 480


def test_the_first_ten_episodes_define_the_usual_return() -> None:
    test = EpisodeTest()
    assert not any(test.update(-80.0 - index % 3) for index in range(40))
    assert not any(test.update(-60.0) for _ in range(20)), "better is no alarm"
    assert any(test.update(-200.0) for _ in range(6))


def test_a_fall_of_returns_is_measured_in_a_twentieth_of_the_mean_at_least() -> None:
    test = EpisodeTest()
    returns = [100.0] * 10 + [0.0] * 4 + [97.0]
    assert [test.update(each) for each in returns] == [False] * 14 + [True], "4 x (4 - 0.5) + (0.6 - 0.5) exceeds 14"
    assert test.usual == 100.0


def test_a_fall_of_returns_is_measured_in_their_spread() -> None:
    test = EpisodeTest()
    assert not any(test.update(100.0 - 10.0 * (-1) ** index) for index in range(30))
    assert [test.update(80.0) for _ in range(10)] == [False] * 9 + [True], "each is two deviations below"
    assert [test.update(80.0) for _ in range(3)] == [False] * 3, "and it begins anew"


def test_returns_near_zero_have_a_spread_too() -> None:
    test = EpisodeTest()
    assert not any(test.update(0.0) for _ in range(10))
    assert [test.update(-1e-9 * 3) for _ in range(6)] == [False] * 5 + [True]


def test_the_usual_return_is_that_of_the_hundred_episodes_before_the_last_ten() -> None:
    test = EpisodeTest()
    returns = [110.0] + [100.0] * 105 + [0.0] * 4 + [97.0]
    assert [test.update(each) for each in returns] == [False] * 110 + [True]
    assert test.usual == 100.0, "the first one is no longer among them"


def test_a_push_that_is_known_is_no_change_however_often_it_comes() -> None:
    pushed = CartPole.of(NOMINAL).velocities(0.0, 0.0, 0.0, 10.0 + 60.0)
    test = StepTest(NOMINAL)
    assert not any(test.update(step(index, 1, [0] * 4, [0, pushed[0], 0, pushed[1]], push=60.0)) for index in range(50))
