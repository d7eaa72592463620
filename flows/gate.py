"""The gate: what a challenger has to be to become champion. Pure: returns and stress tests in, a decision out."""

from dataclasses import dataclass
from typing import Final

import numpy as np

from dqn.evaluation import Floats
from dqn.robustness import StressTest

GATE_EPISODES: Final = 100
"""Fewer episodes decide nothing."""
CONFIDENCE: Final = 0.99
"""That a challenger's mean return is above the champion's: one in a hundred that are no better is taken for better."""
RELEVANT_ROBUSTNESS: Final = 0.03
"""By how much a challenger of equal returns must be more robust, as a share of the episodes under stress, with the same
confidence. Most trainings of one configuration differ by less, which nobody sees who watches them: without a margin
they would replace each other for as long as a schedule runs, each a little ahead of the one before, or by luck."""
_RESAMPLES: Final = 10_000


@dataclass(frozen=True, kw_only=True)
class Champion:
    """Who is served, and what it returns on the challenger's episodes."""

    version: int
    returns: Floats | None
    """`[N]`; none where it cannot be played any more"""
    fault: str = ""
    """Why it cannot be played."""
    stress: StressTest | None = None
    """What it withstands around the challenger's world; none where there is no stress test."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """Whether a challenger becomes champion, and why."""

    promote: bool
    reason: str

    @property
    def gate(self) -> str:
        """As the version's tag."""
        return ("passed: " if self.promote else "refused: ") + self.reason


def should_promote(
    challenger: Floats,
    threshold: float | None,
    champion: Champion | None,
    stress: StressTest | None = None,
    at_home: bool = False,
) -> Decision:
    """The gate: good enough for the environment, and better than the champion, by returns or else under stress.

    A tie in returns goes to a challenger that is at home, or more robust by `RELEVANT_ROBUSTNESS`, and to the champion
    otherwise.

    Args:
        challenger: its returns `[N]` on unseen episodes.
        threshold: the environment's own `reward_threshold`, if it names one.
        champion: who is served, if anybody.
        stress: what the challenger withstands, in the same episodes as the champion.
        at_home: whether they play the world that the challenger knows, where the champion knows another: whose steps
            are not as predicted is watched in vain.
    """
    if len(challenger) < GATE_EPISODES:
        return Decision(promote=False, reason=f"{len(challenger)} episodes, at least {GATE_EPISODES} are needed")
    mean = float(challenger.mean())
    if not np.isfinite(mean):
        return Decision(promote=False, reason=f"mean return {mean:g} is no number to go by")
    if threshold is not None and mean < threshold:
        return Decision(
            promote=False, reason=f"mean return {mean:g} is below the environment's threshold {threshold:g}"
        )
    good = f"mean return {mean:g} over {len(challenger)} episodes, " + (
        "no threshold" if threshold is None else f"threshold {threshold:g}"
    )
    if champion is None:
        return Decision(promote=True, reason=f"{good}, no champion before")
    if champion.returns is None:
        return Decision(
            promote=True, reason=f"{good}; champion version {champion.version} cannot be played: {champion.fault}"
        )
    difference = challenger - champion.returns
    low, high = difference_interval(difference)
    compared = (
        f"{good}; champion version {champion.version} has {champion.returns.mean():g} on the same episodes, difference "
        f"{difference.mean():g} ({low:g} to {high:g}, each bound with {CONFIDENCE:.0%} confidence)"
    )
    if low > 0:
        return Decision(promote=True, reason=f"better: {compared}")
    if high < 0:
        return Decision(promote=False, reason=f"worse, the champion stays: {compared}")
    if at_home:
        return Decision(promote=True, reason=f"as good and at home: {compared}")
    if stress is None or champion.stress is None:
        return Decision(promote=False, reason=f"tie, the champion stays: {compared}")
    low, high = difference_interval(stress.held.ravel().astype(float) - champion.stress.held.ravel())
    compared += (
        f"; under stress it holds {stress.robustness:.1%} and the champion {champion.stress.robustness:.1%}, "
        f"difference {low:.1%} to {high:.1%}, more than {RELEVANT_ROBUSTNESS:.0%} is asked for"
    )
    if low > RELEVANT_ROBUSTNESS:
        return Decision(promote=True, reason=f"as good and more robust: {compared}")
    return Decision(promote=False, reason=f"tie, the champion stays: {compared}")


def difference_interval(difference: Floats) -> tuple[float, float]:
    """Bounds of the mean of paired differences `[N]`, each with `CONFIDENCE` by the percentile bootstrap.

    Episodes are resampled, challenger and champion together (Efron and Tibshirani, 1993, section 13.3).
    """
    generator = np.random.default_rng(0)
    episodes = generator.integers(len(difference), size=(_RESAMPLES, len(difference)))
    low, high = np.quantile(difference[episodes].mean(1), [1 - CONFIDENCE, CONFIDENCE])
    return float(low), float(high)
