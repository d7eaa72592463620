"""The gate as a pure decision; how it is wired is in test_promote.py."""

import numpy as np
import pytest

from dqn.robustness import StressTest
from dqn.seeding import SELECTION, TEST, TRAINING, stream_seed, version_seed
from flows.gate import RELEVANT_ROBUSTNESS, Champion, difference_interval, should_promote


@pytest.mark.parametrize(
    ("challenger", "threshold", "champion", "promote", "reason"),
    [
        ([500.0] * 100, 475.0, None, True, "no champion before"),
        (
            [500.0] * 100,
            475.0,
            [490.0] * 100,
            True,
            "better: mean return 500 over 100 episodes, threshold 475",
        ),
        ([500.0] * 100, 475.0, [500.0] * 100, False, "tie, the champion stays"),
        ([500.0] * 100, 475.0, [500.0] * 95 + [100.0] * 5, True, "difference 20"),
        ([500.0] * 100, 475.0, [500.0] * 98 + [100.0] * 2, False, "tie, the champion stays"),
        ([500.0] * 95 + [100.0] * 5, 475.0, [500.0] * 100, False, "worse, the champion stays"),
        ([475.0] * 100, 475.0, None, True, "threshold 475"),
        ([474.0] * 100, 475.0, None, False, "below the environment's threshold 475"),
        ([480.0] * 100, 475.0, [481.0] * 100, False, "worse, the champion stays"),
        ([500.0] * 99, 475.0, None, False, "99 episodes, at least 100"),
        ([float("nan")] * 100, None, None, False, "no number to go by"),
        ([-100.0] * 100, None, None, True, "no threshold"),
        ([-100.0] * 100, None, [-90.0] * 100, False, "worse"),
        ([-90.0] * 100, None, [-100.0] * 100, True, "champion version 3 has -100 on the same episodes"),
        ([0.0] * 100, 0.0, None, True, "threshold 0"),
    ],
)
def test_the_gate(
    challenger: list[float], threshold: float | None, champion: list[float] | None, promote: bool, reason: str
) -> None:
    rival = None if champion is None else Champion(version=3, returns=np.array(champion))
    decision = should_promote(np.array(challenger), threshold, rival)
    assert decision.promote is promote
    assert reason in decision.reason
    assert decision.gate.startswith("passed: " if promote else "refused: ")


def stress(lost: int, cells: int = 9) -> StressTest:
    """Of 100 episodes in each cell the first `lost` are not held."""
    held = np.ones((cells, 100), dtype=np.bool_)
    held[:, :lost] = False
    return StressTest(held=held, push=60)


@pytest.mark.parametrize(
    ("mine", "champions", "promote", "reason"),
    [
        (stress(0), stress(5), True, "as good and more robust: mean return 500 over 100 episodes"),
        (stress(5), stress(0), False, "tie, the champion stays"),
        (stress(5), stress(5), False, "under stress it holds 95.0% and the champion 95.0%"),
        (None, stress(5), False, "tie, the champion stays"),
        (stress(0), None, False, "tie, the champion stays"),
    ],
)
def test_robustness_breaks_ties(
    mine: StressTest | None, champions: StressTest | None, promote: bool, reason: str
) -> None:
    champion = Champion(version=3, returns=np.full(100, 500.0), stress=champions)
    decision = should_promote(np.full(100, 500.0), 475.0, champion, mine)
    assert decision.promote is promote
    assert reason in decision.reason


@pytest.mark.parametrize(("lost", "promote"), [(0, False), (1, False), (4, False), (5, True), (50, True)])
def test_a_difference_in_robustness_that_nobody_would_see_changes_nothing(lost: int, promote: bool) -> None:
    """The champion loses so many episodes of 100 and the challenger none: of 4% one cannot be sure that it is 3%."""
    champion = Champion(version=3, returns=np.full(100, 500.0), stress=stress(lost))
    decision = should_promote(np.full(100, 500.0), 475.0, champion, stress(0))
    assert decision.promote is promote
    assert "more than 3% is asked for" in decision.reason


HELD = (0.928, 0.971, 0.984, 0.993, 0.993, 0.994, 0.997, 0.998, 0.999, 1.0, 1.0)
"""Robustness of eleven versions of the preset `cartpole`, seeds 0 to 10, each on 900 episodes."""


@pytest.mark.parametrize(("margin", "settles"), [(RELEVANT_ROBUSTNESS, True), (0.0, False)])
def test_trainings_of_one_configuration_do_not_replace_each_other(
    margin: float, settles: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forty series of twenty versions that all return 500 and differ in robustness as those of one preset do."""
    monkeypatch.setattr("flows.gate._RESAMPLES", 200)
    monkeypatch.setattr("flows.gate.RELEVANT_ROBUSTNESS", margin)
    generator = np.random.default_rng(0)
    returns = np.full(100, 500.0)
    champions = []
    for _ in range(40):
        promoted, champion = 0, None
        for version, robustness in enumerate(generator.choice(HELD, 20)):
            mine, its = generator.random((2, 9, 100))
            rival = None
            if champion is not None:
                rival = Champion(version=version, returns=returns, stress=StressTest(held=its < champion, push=60))
            if should_promote(returns, 475.0, rival, StressTest(held=mine < robustness, push=60)).promote:
                promoted, champion = promoted + 1, robustness
        champions.append(promoted)
    assert (max(champions) <= 2) == settles


def test_robustness_makes_up_for_no_return() -> None:
    fragile = Champion(version=3, returns=np.full(100, 500.0), stress=stress(100))
    assert not should_promote(np.full(100, 490.0), 475.0, fragile, stress(0)).promote
    robust = Champion(version=3, returns=np.full(100, 490.0), stress=stress(0))
    assert should_promote(np.full(100, 500.0), 475.0, robust, stress(100)).promote


@pytest.mark.parametrize(("challenger", "promote"), [(500.0, True), (490.0, False), (470.0, False)])
def test_a_tie_goes_to_who_is_at_home_in_the_world_that_is(challenger: float, promote: bool) -> None:
    champion = Champion(version=1, returns=np.full(100, 500.0))
    decision = should_promote(np.full(100, challenger), 475.0, champion, at_home=True)
    assert decision.promote is promote
    assert ("as good and at home" in decision.reason) is promote


def test_a_champion_that_cannot_be_played_is_replaced_by_whoever_passes_alone() -> None:
    broken = Champion(version=3, returns=None, fault="its file is gone")
    decision = should_promote(np.full(100, 480.0), 475.0, broken)
    assert decision.promote
    assert "champion version 3 cannot be played: its file is gone" in decision.reason
    assert not should_promote(np.full(100, 470.0), 475.0, broken).promote


def test_equals_do_not_replace_each_other_by_luck() -> None:
    generator = np.random.default_rng(3)
    promoted = 0
    for _ in range(300):
        challenger, champion = generator.normal(200.0, 60.0, (2, 100))
        promoted += should_promote(challenger, None, Champion(version=1, returns=champion)).promote
    assert 0 < promoted <= 9  # one in a hundred, give or take


def test_episodes_are_compared_one_by_one() -> None:
    """What both have in common, such as a hard start, hides no difference between them."""
    hard = np.random.default_rng(5).normal(0.0, 100.0, 100)
    challenger, champion = hard + 2.0, hard + np.random.default_rng(6).normal(0.0, 1.0, 100)
    assert should_promote(challenger, None, Champion(version=1, returns=champion)).promote
    assert not should_promote(
        np.random.default_rng(8).permutation(challenger), None, Champion(version=1, returns=champion)
    ).promote


def test_the_bounds_are_those_of_the_mean() -> None:
    difference = np.random.default_rng(0).normal(1.0, 10.0, 400)
    low, high = difference_interval(difference)
    z, error = 2.326, difference.std() / 20  # of a normal distribution at 99%
    assert (low, high) == pytest.approx((difference.mean() - z * error, difference.mean() + z * error), abs=0.1)


def test_no_two_versions_are_judged_on_the_same_episodes() -> None:
    blocks = [set(range(first, first + 100)) for first in (version_seed(v, episodes=100) for v in (1, 2, 3, 1_000_000))]
    assert len(set().union(*blocks)) == 400
    streams = [stream_seed(seed, stream, 0) for seed in range(50) for stream in (TRAINING, SELECTION, TEST)]
    assert all(seed not in block for block in blocks for seed in streams)
    assert all(max(block) < 2**31 for block in blocks)
