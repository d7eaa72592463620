"""The fit beneath an identification: its windows, its residuals and its intervals."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from dqn.environments.world import NOMINAL, World
from dqn.identification import identify as identification
from dqn.identification import trajectories
from dqn.identification.identify import Estimate, _rounded, identify
from dqn.identification.record import MAX_DELAY, Experience, UnexplainedError, Windows, cut
from dqn.identification.trajectories import SCALES, Fit, values_of
from tests.support.dqn.living import balancing, live


def test_every_transition_is_in_one_window() -> None:
    lived = live(NOMINAL, balancing((0, 0, 1, 0)), 100)
    left_out = np.zeros(100, dtype=np.bool_)
    left_out[[15, 40]] = True
    windows = cut(lived, left_out=left_out)
    assert windows.transitions == 98
    starts = windows.observed[:, :-1][windows.present[:, 1:]]
    np.testing.assert_array_equal(starts, lived.observation[~left_out])
    ends = windows.observed[:, 1:][windows.present[:, 1:]]
    np.testing.assert_array_equal(ends, lived.next_observation[~left_out])
    np.testing.assert_array_equal(windows.directions[0][windows.present[:, 1:]] > 0, lived.action[~left_out] == 1)


def test_windows_are_short_and_know_which_action_took_effect() -> None:
    begun = np.repeat([0, 13], [13, 12])
    index = np.arange(25)
    generator = np.random.default_rng(0)
    observed = generator.normal(size=(26, 4))
    lived = Experience(
        observation=observed[:-1],
        next_observation=observed[1:],
        action=generator.integers(2, size=25),
        push=generator.normal(size=25),
        episode=np.repeat([5, 6], [13, 12]),
        step=index - begun + np.repeat([7, 0], [13, 12]),  # the beginning of the first is not there
    )
    windows = cut(lived, left_out=np.zeros(25, dtype=np.bool_))
    rows = [range(10, 13), range(13, 23), range(23, 25)]
    assert windows.present.sum(1).tolist() == [len(row) + 1 for row in rows]
    assert windows.transitions == 15
    for w, row in enumerate(rows):
        K = len(row)
        np.testing.assert_array_equal(windows.observed[w, : K + 1], observed[row[0] : row[-1] + 2])
        assert (windows.observed[w, K:] == observed[row[-1] + 1]).all(), "where there is nothing it stands still"
        np.testing.assert_array_equal(windows.push[w], [*lived.push[row], *[0.0] * (10 - K)])
        for delay in range(MAX_DELAY + 1):
            effective = np.maximum(np.array(row) - delay, begun[row])
            expected = [*(2.0 * lived.action[effective] - 1.0), *[1.0] * (10 - K)]
            assert windows.directions[delay, w].tolist() == expected
    newest = lived.newest(3)
    assert (newest.step.tolist(), newest.push.tolist()) == ([9, 10, 11], lived.push[-3:].tolist())


@pytest.mark.parametrize(
    ("value", "low", "high", "rounded"),
    [
        (123.456, 123.0, 124.0, 123.0),
        (-100.0, -101.0, -99.0, -100.0),
        (100.0, 98.9, 101.0, (98.9, 101.0)),
        (-1.0, -1.23456, -0.91234, (-1.23, -0.912)),
    ],
)
def test_an_interval_within_a_fiftieth_is_a_number_of_three_digits(
    value: float, low: float, high: float, rounded: Any
) -> None:
    assert _rounded(Estimate(value=value, low=low, high=high)) == rounded


def windows(*lengths: int) -> Windows:
    """Windows of so many transitions in which nothing was observed."""
    present = np.arange(max(lengths) + 1) <= np.array(lengths)[:, np.newaxis]
    W, K = len(lengths), max(lengths)
    return Windows(
        observed=np.zeros((W, K + 1, 4)),
        present=present,
        push=np.zeros((W, K)),
        directions=np.ones((MAX_DELAY + 1, W, K)),
    )


def test_noise_and_smoothness_are_those_of_what_is_left() -> None:
    pieces = windows(3, 1)
    left = np.zeros((2, 4, 4))
    left[0, :, 0] = 2.0
    left[0, :, 1] = [1.0, -1.0, 1.0, -1.0]
    left[:, :2, 2] = 3.0
    variance = trajectories._variance(pieces, left)
    np.testing.assert_allclose(variance, [16 / 4 + 1e-8, 4 / 4 + 1e-8, 36 / 4 + 1e-8, 1e-8], rtol=1e-12)
    assert trajectories._deviance(pieces, np.array([1.0, np.e, np.e, 1.0])) == pytest.approx(4 * 2)
    # differences, of 4 transitions, over values, of 6 observations
    expected = [0.0, (3 * 4 / 4) / (4 / 6), (9 / 4) / (36 / 6), 2.0]
    np.testing.assert_allclose(trajectories._smoothness(pieces, left), expected, rtol=1e-6, atol=1e-6)


def fitted(**found: Any) -> Fit:
    P = len(SCALES)
    fields: dict[str, Any] = {
        "free": (),
        "values": values_of(NOMINAL),
        "deviance": 0.0,
        "noise": np.ones(4),
        "deviation": np.ones(1),
        "smoothness": np.full(4, 2.0),
        "gradient": np.zeros(P),
        "information": np.eye(P),
    }
    return Fit(**(fields | found))


def test_an_interval_is_1_96_standard_errors_of_what_is_free() -> None:
    names = list(SCALES)
    information = np.diag([4.0] * len(names))
    wind, length = names.index("wind"), names.index("length")
    information[wind, length] = information[length, wind] = 2.0
    found = fitted(free=("wind",), values={**values_of(NOMINAL), "wind": 3.0}, information=information)
    assert found.interval("wind") == pytest.approx((3 - 0.98, 3 + 0.98)), "what is held costs nothing"
    both = fitted(free=("length", "wind"), information=information)
    error = 1.96 * (4 / 12) ** 0.5  # of the inverse of [[4, 2], [2, 4]]
    assert both.interval("wind") == pytest.approx((-error, error))
    assert both.interval("length") == pytest.approx((0.5 * np.exp(-error), 0.5 * np.exp(error)))
    unseen = fitted(free=("force_mag",), information=1e-9 * np.eye(len(names)))
    assert unseen.interval("force_mag") == pytest.approx((10 - 100, 10 + 100)), "ten times its size, no more"


def test_a_gain_is_the_fall_of_a_quadratic() -> None:
    names = list(SCALES)
    gradient = np.zeros(len(names))
    gradient[names.index("wind")], gradient[names.index("tau")] = 6.0, 2.0
    found = fitted(gradient=gradient, information=2.0 * np.eye(len(names)))
    assert found.gain("wind") == pytest.approx(6.0**2 / 2)
    assert found.gain("gravity") == 0.0
    assert dataclasses.replace(found, free=("tau",)).gain("wind") == pytest.approx(6.0**2 / 2 + 2.0**2 / 2)


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        ({"deviation": np.array([1.0, 8.0])}, None),
        ({"deviation": np.array([1.0, 8.1])}, "some steps deviate 2.8 times as much as the average, and chance .* 2.8"),
        ({"smoothness": np.array([2.0, 1.2, 2.0, 2.0])}, None),  # 2 less four standard errors of 2 / 10
        ({"smoothness": np.array([2.0, 1.1, 2.0, 2.0])}, "the cart velocity deviates in the same direction"),
    ],
)
def test_what_is_left_may_be_chance_up_to_a_limit(
    found: dict[str, Any], sentence: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identification, "_search", lambda *_, **__: (0, fitted(**found)))
    monkeypatch.setattr(identification, "explain", lambda *_: ((), False))
    lived = live(NOMINAL, balancing(), 100)
    if sentence is None:
        assert identify(lived, NOMINAL).transitions == 100
        return
    with pytest.raises(UnexplainedError, match=sentence):
        identify(lived, NOMINAL)


@pytest.mark.parametrize("world", [World(length=0.1, force_mag=-30.0), World(force_mag=-10.0, action_delay=2)], ids=str)
def test_where_the_search_fails_it_begins_at_what_explains_single_transitions(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identification, "_search", lambda *_, **__: (0, fitted(deviation=np.array([1.0, 8.1]))))
    assert identify(live(world, balancing(exploring=0.3), 100), NOMINAL).world == world
