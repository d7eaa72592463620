"""What settles a tie at the gate: robustness, the world, and the margin that is left."""

import math

import numpy as np
import pytest

from benchmarks.gate import ROBUSTNESS, settled
from dqn.stress.robustness import StressTest
from flows.registry.gate import MARGIN, RELEVANT_ROBUSTNESS, Champion, Comparison, should_promote
from tests.support.flows.gate import ALL, stress


@pytest.mark.parametrize(
    ("mine", "champions", "promote", "reason"),
    [
        (stress(0), stress(7), True, "not worse and more robust (100.0%, the champion 93.0%): mean return 500 over"),
        (stress(7), stress(0), False, "tie, the champion stays"),
        (stress(7), stress(7), False, "tie, the champion stays"),
        (None, stress(7), False, "tie, the champion stays"),
        (stress(0), None, False, "tie, the champion stays"),
    ],
)
def test_robustness_breaks_ties(
    mine: StressTest | None, champions: StressTest | None, promote: bool, reason: str
) -> None:
    champion = Champion(version=3, returns=np.full(600, 500.0), stress=champions)
    decision = should_promote(np.full(600, 500.0), 475.0, champion, mine)
    assert decision.promote is promote
    assert reason in decision.reason
    assert "margin 10" in decision.reason


@pytest.mark.parametrize(("lost", "promote"), [(0, False), (1, False), (5, False), (6, True), (50, True)])
def test_an_imperceptible_difference_in_robustness_changes_nothing(lost: int, promote: bool) -> None:
    """The champion loses so many episodes of 100 and the challenger none: of 5% one cannot be sure that it is 3%.

    Where it decides, more episodes show first that the challenger is not worse.
    """
    champion = Champion(version=3, returns=np.full(100, 500.0), stress=stress(lost))
    decision = should_promote(np.full(100, 500.0), 475.0, champion, stress(0))
    assert (decision.promote, decision.episodes) == (False, 600 if promote else 0)
    assert ("more robust" in decision.reason) is promote
    last = settled(np.full(ALL, 500.0), np.full(ALL, 500.0), stress=stress(0), champions=stress(lost))
    assert last.promote is promote


@pytest.mark.parametrize(("margin", "settles"), [(RELEVANT_ROBUSTNESS, True), (0.0, False)])
def test_trainings_of_one_configuration_do_not_replace_each_other(
    margin: float, settles: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forty series of twenty versions that all return 500 and differ in robustness as those of one preset do."""
    monkeypatch.setattr("flows.registry.gate.RELEVANT_ROBUSTNESS", margin)
    generator = np.random.default_rng(0)
    returns = np.full(600, 500.0)
    champions = []
    for _ in range(40):
        promoted, champion = 0, None
        for version, robustness in enumerate(generator.choice(ROBUSTNESS, 20)):
            mine, its = generator.random((2, 9, 100))
            rival = None
            if champion is not None:
                rival = Champion(version=version, returns=returns, stress=StressTest(balanced=its < champion, push=60))
            if should_promote(returns, 475.0, rival, StressTest(balanced=mine < robustness, push=60)).promote:
                promoted, champion = promoted + 1, robustness
        champions.append(promoted)
    assert (max(champions) <= 2) == settles


def test_robustness_makes_up_for_no_return() -> None:
    fragile = Champion(version=3, returns=np.full(600, 500.0), stress=stress(100))
    assert not should_promote(np.full(600, 490.0), 475.0, fragile, stress(0)).promote
    robust = Champion(version=3, returns=np.full(600, 490.0), stress=stress(0))
    assert should_promote(np.full(600, 500.0), 475.0, robust, stress(100)).promote


@pytest.mark.parametrize(
    ("challenger", "promote"), [(500.0, True), (498.0, True), (490.0, False), (474.0, False), (470.0, False)]
)
def test_a_tie_goes_to_what_is_at_home_in_the_world_that_is(challenger: float, promote: bool) -> None:
    decision = settled(np.full(ALL, challenger), np.full(ALL, 500.0), threshold=472.0, at_home=True)
    assert decision.promote is promote
    assert ("not worse and at home" in decision.reason) is promote


def test_the_margin_is_the_champions_alone() -> None:
    """A challenger that does badly does not widen the margin by which it may be worse."""
    champion = np.full(100, 500.0)
    assert Comparison(challenger=champion - 1_000, champion=champion, threshold=None).margin == MARGIN * 500
    spread = np.where(np.arange(100) % 2, 0.0, 500.0)
    assert Comparison(challenger=champion, champion=spread, threshold=None).margin == 250 / 8
    negative = np.where(np.arange(100) == 0, -150.0, -100.0)
    assert Comparison(challenger=champion, champion=negative, threshold=None).margin == pytest.approx(3.0)


def test_a_share_of_the_margin_is_used_once() -> None:
    """Of returns or failures, whichever is more of its margin, with a standard error; a constant loss has none."""
    champion = Champion(version=1, returns=np.full(ALL, 500.0), margin_used=0.25)
    mild = np.where(np.arange(ALL) < 2, 470.0, 500.0)
    by_failures = should_promote(mild, 475.0, champion, at_home=False, stress=None)
    assert (by_failures.outcome, by_failures.margin_used) == ("not worse", 0.0)
    preferred = should_promote(mild, 475.0, replaced(champion, stress(50)), stress(0))
    assert preferred.promote
    assert preferred.margin_used == pytest.approx(0.25 + (0.002 + math.sqrt(0.002 * 0.998 / ALL)) / MARGIN)
    by_returns = should_promote(np.full(ALL, 499.0), 475.0, replaced(champion, stress(50)), stress(0))
    assert by_returns.margin_used == pytest.approx(0.25 + 1 / 10)
    spent = Champion(version=1, returns=np.full(ALL, 500.0), margin_used=0.95, stress=stress(50))
    assert not should_promote(np.full(ALL, 499.0), 475.0, spent, stress(0)).promote
    better = Champion(version=1, returns=np.full(ALL, 490.0), margin_used=1.5)
    assert should_promote(np.full(ALL, 500.0), 475.0, better).margin_used == pytest.approx(1.5 - 10 / 9.8)
    at_home = should_promote(np.full(ALL, 499.0), 475.0, spent, at_home=True)
    assert at_home.promote
    assert at_home.margin_used == pytest.approx(0.1), "in this world nothing was used yet"


def replaced(champion: Champion, withstands: StressTest) -> Champion:
    return Champion(version=1, returns=champion.returns, margin_used=champion.margin_used, stress=withstands)
