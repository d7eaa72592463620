"""The gate: what a challenger has to be to become champion. Pure: returns and stress tests in, a decision out."""

import math
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import numpy as np

from dqn.evaluation.statistics import Floats
from dqn.stress.robustness import StressTest

LOOKS: Final = (100, 600, 1_000)
"""Numbers of episodes after which the gate is asked: the next one where the answer is open. A challenger can lose at
the first. It takes the champion's place at the second at the earliest: a loss that one episode in a hundred brings is
missing from 600 episodes in 0.2% of cases (0.99^600), and from 100 episodes in 37%."""
CONFIDENCE: Final = 0.99
"""Of *better*, *not worse* and *worse*, each over all looks together."""
MARGIN: Final = 0.02
"""By how much a challenger that is *not worse* may be worse: in its mean return a share of the span of the champion's
returns, with zero counted among them, and in its failures a share of the episodes."""
MARGIN_DEVIATIONS: Final = 1 / 8
"""Or in its mean return so many standard deviations of the champion's returns, where that is more: what 1,000 episodes
can tell."""
RELEVANT_ROBUSTNESS: Final = 0.03
"""By how much a challenger of equal returns must be more robust, as a share of the episodes under stress, with the same
confidence. Most trainings of one configuration differ by less, which no viewer notices: without a margin they would
replace each other for as long as a schedule runs, each a little ahead of the one before, or by luck."""
_REWARDS: Final = "look at the rewards of the environment"
_BETS: Final = np.array([0.95, 0.7, 0.4, 0.2, 0.1])[:, np.newaxis]

Outcome = Literal["alone", "better", "not worse", "worse", "undecided", "invalid"]


@dataclass(frozen=True, kw_only=True)
class Champion:
    """The version that is served, and what it returns on the challenger's episodes."""

    version: int
    returns: Floats | None
    """`[N]`; none where it cannot be played"""
    fault: str = ""
    """Why it cannot be played."""
    other_env_id: str = ""
    """The environment that it plays, where that is not the challenger's."""
    stress: StressTest | None = None
    """What it withstands around the challenger's world; none where there is no stress test."""
    margin_used: float = 0.0
    """Share of the margin that was used when it and those before it took their places without being better."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A challenger and the champion on the same N episodes."""

    challenger: Floats
    """`[N]`"""
    champion: Floats
    """`[N]`"""
    threshold: float | None
    """The environment's `reward_threshold`."""

    def __post_init__(self) -> None:
        if self.challenger.shape != self.champion.shape:
            raise ValueError(f"returns of the same episodes: got {self.challenger.shape} and {self.champion.shape}")

    @property
    def difference(self) -> Floats:
        """What the challenger returns more `[N]`."""
        return np.asarray(self.challenger - self.champion, np.float64)

    @property
    def lowest(self) -> float:
        """What the challenger can lose in one episode, negative: the span of all returns, with zero among them."""
        return -_span(np.concatenate([self.challenger, self.champion]))

    @property
    def margin(self) -> float:
        """Of the mean return; the challenger has no influence on it."""
        return max(MARGIN * _span(self.champion), MARGIN_DEVIATIONS * float(self.champion.std()))

    @property
    def failing(self) -> float:
        """An episode that returns less is a failure: the threshold, or half of the champion's span below its mean."""
        if self.threshold is not None:
            return self.threshold
        return float(self.champion.mean()) - _span(self.champion) / 2

    @property
    def failures(self) -> Floats:
        """Failures of the challenger minus those of the champion `[N]`."""
        return (self.challenger < self.failing).astype(np.float64) - (self.champion < self.failing)

    @property
    def margin_used(self) -> float:
        """Share of the margin that the challenger uses, of returns or of failures: what it lost and a standard error.

        Of many that are a little worse, those that were lucky are promoted.
        """
        lost = _mean_and_error(-self.difference)
        returns = lost / self.margin if lost > 0 else 0.0
        return max(returns, _mean_and_error(self.failures) / MARGIN, 0.0)

    def better(self) -> bool:
        """Whether the challenger's mean return is greater, with `CONFIDENCE`."""
        return surely_above(self.difference, 0.0, self.lowest)

    def worse(self) -> bool:
        """Whether the champion's is."""
        return surely_above(-self.difference, 0.0, self.lowest)

    def not_worse(self, left: float = 1.0) -> bool:
        """Whether the challenger is worse by less than a share `left` of the margin, returns and failures both."""
        return surely_above(self.difference, -left * self.margin, self.lowest) and surely_above(
            -self.failures, -left * MARGIN, -1.0
        )

    def to_dict(self) -> dict[str, Any]:
        """What a report says of it, as plain JSON values; bounds are one-sided, each with `CONFIDENCE`."""
        low, high = difference_interval(self.difference, self.lowest)
        fewer, more = difference_interval(self.failures, -1.0)
        return {
            "episodes": len(self.challenger),
            "mean return": float(self.challenger.mean()),
            "champion's mean return": float(self.champion.mean()),
            "difference": [float(self.difference.mean()), low, high],
            "margin": self.margin,
            "failing below": self.failing,
            "failures": int((self.challenger < self.failing).sum()),
            "champion's failures": int((self.champion < self.failing).sum()),
            "difference in failures": [float(self.failures.mean()), fewer, more],
            "margin of failures": MARGIN,
        }


@dataclass(frozen=True, kw_only=True)
class Decision:
    """Whether a challenger becomes champion, and why."""

    promote: bool
    reason: str
    outcome: Outcome
    episodes: int = 0
    """So many in all may decide what these do not; 0 where this is the last word."""
    margin_used: float = 0.0
    """Of the `Champion` that the challenger becomes."""
    comparison: Comparison | None = None
    """With the champion, where there is one that plays."""

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
    """The gate: good enough for the environment, and better than the champion, or not worse and preferable.

    What is not worse than the champion, by the margin, is preferred where it is at home, or more robust by
    `RELEVANT_ROBUSTNESS`. Otherwise, and where it is worse or too little is known, the champion stays.

    Args:
        challenger: its returns `[N]` on unseen episodes.
        threshold: the environment's own `reward_threshold`, if it names one.
        champion: the version that is served, if there is one, with its returns `[N]` on the same episodes.
        stress: what the challenger withstands, in the same episodes as the champion.
        at_home: whether they play the world that the challenger knows, and the champion knows another: the steps of a
            version that knows another world are never as predicted.

    Raises:
        ValueError: if challenger and champion have played different numbers of episodes.
    """
    if len(challenger) < LOOKS[0]:
        return _refused("invalid", f"{len(challenger)} episodes, at least {LOOKS[0]} are needed")
    if not np.isfinite(challenger).all():
        return _refused("invalid", f"{_first_fault(challenger)} is no number to go by; {_REWARDS}")
    if champion and champion.other_env_id:
        return _refused(
            "invalid",
            f"champion version {champion.version} plays another environment, {champion.other_env_id}, under the same "
            "model name; register one of the two environments under another id",
        )
    if champion and champion.returns is not None and not np.isfinite(champion.returns).all():
        return _refused(
            "invalid",
            f"{_first_fault(champion.returns)}, by champion version {champion.version}, is no number to go by; "
            f"{_REWARDS}",
        )
    mean = float(challenger.mean())
    if threshold is not None and mean < threshold:
        return _refused("alone", f"mean return {mean:g} is below the environment's threshold {threshold:g}")
    good = f"mean return {mean:g} over {len(challenger)} episodes, " + (
        "no threshold" if threshold is None else f"threshold {threshold:g}"
    )
    if champion is None:
        return Decision(promote=True, outcome="alone", reason=f"{good}, no champion before")
    if champion.returns is None:
        fault = f"champion version {champion.version} cannot be played: {champion.fault}"
        return Decision(promote=True, outcome="alone", reason=f"{good}; {fault}")
    compared = f"{good}; champion version {champion.version} has {champion.returns.mean():g} on the same episodes"
    comparison = Comparison(challenger=challenger, champion=champion.returns, threshold=threshold)
    decision = _against(comparison, champion, compared, _preferable(champion, stress, at_home), at_home)
    return replace(decision, comparison=comparison)


def _against(comparison: Comparison, champion: Champion, compared: str, preferable: str, at_home: bool) -> Decision:
    """The part of the gate that compares; `preferable` says why the challenger is preferred among equals, or ""."""
    if comparison.worse():
        return _refused("worse", f"worse, the champion stays: {compared}")
    used = 0.0 if at_home else champion.margin_used  # that was in another world
    ahead = comparison.difference.mean() > 0
    if len(comparison.challenger) >= LOOKS[1]:
        after = max(used - comparison.difference.mean() / comparison.margin, 0.0) if comparison.margin else 0.0
        if comparison.better():
            return Decision(promote=True, outcome="better", reason=f"better: {compared}", margin_used=after)
        if comparison.not_worse(1 - used):
            if preferable:
                reason = f"not worse and {preferable}: {compared}, margin {comparison.margin:g}"
                after = used + comparison.margin_used
                return Decision(promote=True, outcome="not worse", reason=reason, margin_used=after)
            reason = f"tie, the champion stays: {compared}, margin {comparison.margin:g}"
            return _refused("not worse", reason, _next_look(comparison) if ahead else 0)
    reason = f"not {'surely ' if ahead else ''}better, the champion stays: {compared}"
    if preferable:
        reason = f"{preferable} but perhaps worse, the champion stays: {compared}, margin {comparison.margin:g}"
    return _refused("undecided", reason, _next_look(comparison) if preferable or ahead else 0)


def _preferable(champion: Champion, stress: StressTest | None, at_home: bool) -> str:
    if at_home:
        return "at home"
    if stress is None or champion.stress is None:
        return ""
    difference = stress.balanced.ravel().astype(np.float64) - champion.stress.balanced.ravel()
    if not surely_above(difference, RELEVANT_ROBUSTNESS, -1.0):
        return ""
    return f"more robust ({stress.robustness:.1%}, the champion {champion.stress.robustness:.1%})"


def _next_look(comparison: Comparison) -> int:
    return next((look for look in LOOKS if look > len(comparison.challenger)), 0)


def _refused(outcome: Outcome, reason: str, episodes: int = 0) -> Decision:
    return Decision(promote=False, outcome=outcome, reason=reason, episodes=episodes)


def _mean_and_error(values: Floats) -> float:
    return float(values.mean() + values.std() / math.sqrt(len(values)))


def _first_fault(returns: Floats) -> str:
    episode = int(np.argmin(np.isfinite(returns)))
    return f"return {returns[episode]:g} of episode {episode}"


def _span(returns: Floats) -> float:
    return float(max(returns.max(), 0.0) - min(returns.min(), 0.0))


def surely_above(values: Floats, bound: float, lowest: float) -> bool:
    """Whether the mean that `values` `[N]` are drawn from is above a bound, with `CONFIDENCE`.

    A player who bets against "the mean is `bound` at most" has, by Ville's inequality, with probability
    `1 - CONFIDENCE` at most ever 1 / (1 - CONFIDENCE) times what it began with, if that is true. So the test holds for
    every distribution, skewed or not, for every N, and at however many looks. It takes one assumption: that no value is
    below `lowest`. (Waudby-Smith and Ramdas, 2024, section 4; a mixture of constant bets.)
    """
    if bound <= lowest:
        return bool(lowest < 0)  # by the assumption; values that are all zero show nothing
    logarithms = np.log1p(_BETS * ((values - lowest) / (bound - lowest) - 1)).sum(1)
    wealth = float(np.logaddexp.reduce(logarithms)) - math.log(len(_BETS))
    return wealth >= -math.log(1 - CONFIDENCE)


def difference_interval(difference: Floats, lowest: float) -> tuple[float, float]:
    """Bounds of the mean of paired differences `[N]`, each with `CONFIDENCE`, by `surely_above`.

    Args:
        difference: none below `lowest`, and none above `-lowest`.
        lowest: at most zero.
    """
    return _bound(difference, lowest), -_bound(-difference, lowest)


def _bound(values: Floats, lowest: float) -> float:
    low, high = lowest, float(values.mean())
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if surely_above(values, middle, lowest) else (low, middle)
    return low
