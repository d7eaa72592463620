"""The gate: whether a challenger becomes champion. A pure function of returns and stress tests."""

import math
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import numpy as np

from dqn.evaluation.statistics import Floats
from dqn.stress.robustness import StressTest

LOOKS: Final = (100, 600, 1_000)
"""Numbers of episodes after which the gate decides; where the decision is open, it waits for the next number. A
challenger can be refused at the first, and replace the champion at the second at the earliest: a failure in one episode
of a hundred is absent from 600 episodes with probability 0.2% (0.99^600), and from 100 episodes with 37%."""
CONFIDENCE: Final = 0.99
"""Of *better*, *not worse* and *worse*, each over all `LOOKS` together."""
MARGIN: Final = 0.02
"""How much worse a challenger that is *not worse* may be. Of the mean return: a share of the span of the champion's
returns and zero. Of the failures: a share of the episodes."""
MARGIN_DEVIATIONS: Final = 1 / 8
"""The margin of the mean return is at least this many standard deviations of the champion's returns, which is what
1,000 episodes can detect."""
RELEVANT_ROBUSTNESS: Final = 0.03
"""How much more robust a challenger of equal returns must be, as a share of the episodes under stress, with the same
confidence. Most trainings of one configuration differ by less, which no viewer notices. Without this margin, scheduled
trainings would replace the champion again and again, by small gains or by chance."""
_REWARDS: Final = "look at the rewards of the environment"
_BETS: Final = np.array([0.95, 0.7, 0.4, 0.2, 0.1])[:, np.newaxis]

Outcome = Literal["alone", "better", "not worse", "worse", "undecided", "invalid"]


@dataclass(frozen=True, kw_only=True)
class Champion:
    """The version that is served, and its returns on the challenger's episodes."""

    version: int
    returns: Floats | None
    """`[N]`; None if it cannot be played"""
    fault: str = ""
    """Why it cannot be played."""
    other_env_id: str = ""
    """Its environment, if that is not the challenger's."""
    stress: StressTest | None = None
    """Its stress test around the challenger's world; None if there is no stress test."""
    margin_used: float = 0.0
    """Share of the margin that was used up by promotions without improvement: of this version and those before it."""
    has_bank: bool = False
    """Whether it has members for other worlds (`dqn.bank`)."""


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
        """Returns of the challenger minus those of the champion `[N]`."""
        return np.asarray(self.challenger - self.champion, np.float64)

    @property
    def lowest(self) -> float:
        """The lowest possible difference in one episode: minus the span of all returns and zero."""
        return -_span(np.concatenate([self.challenger, self.champion]))

    @property
    def margin(self) -> float:
        """Of the mean return. It depends on the champion alone."""
        return max(MARGIN * _span(self.champion), MARGIN_DEVIATIONS * float(self.champion.std()))

    @property
    def failing(self) -> float:
        """An episode with a lower return is a failure: the threshold, or the champion's mean minus half of its span."""
        if self.threshold is not None:
            return self.threshold
        return float(self.champion.mean()) - _span(self.champion) / 2

    @property
    def failures(self) -> Floats:
        """Failures of the challenger minus those of the champion `[N]`."""
        return (self.challenger < self.failing).astype(np.float64) - (self.champion < self.failing)

    @property
    def margin_used(self) -> float:
        """Share of the margin that the challenger uses up, of returns or of failures: its loss plus a standard error.

        The standard error is added because, of many slightly worse challengers, the lucky ones are promoted.
        """
        lost = _mean_and_error(-self.difference)
        returns = lost / self.margin if lost > 0 else 0.0
        return max(returns, _mean_and_error(self.failures) / MARGIN, 0.0)

    def better(self) -> bool:
        """Whether the challenger's mean return is greater, with `CONFIDENCE`."""
        return surely_above(self.difference, 0.0, self.lowest)

    def worse(self) -> bool:
        """Whether the champion's mean return is greater, with `CONFIDENCE`."""
        return surely_above(-self.difference, 0.0, self.lowest)

    def not_worse(self, left: float = 1.0) -> bool:
        """Whether the challenger is worse by less than a share `left` of the margin, in returns and in failures."""
        return surely_above(self.difference, -left * self.margin, self.lowest) and surely_above(
            -self.failures, -left * MARGIN, -1.0
        )

    def to_dict(self) -> dict[str, Any]:
        """The numbers of a report, as JSON values. Bounds are one-sided, each with `CONFIDENCE`."""
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
    """Number of episodes, in all, that may change the decision; 0 if it is final."""
    margin_used: float = 0.0
    """`Champion.margin_used` of the challenger, if it is promoted."""
    comparison: Comparison | None = None
    """With the champion, if it can be played."""

    @property
    def gate(self) -> str:
        """The text of the version's gate tag."""
        return ("passed: " if self.promote else "refused: ") + self.reason


def should_promote(
    challenger: Floats,
    threshold: float | None,
    champion: Champion | None,
    stress: StressTest | None = None,
    at_home: bool = False,
    offers: str = "",
) -> Decision:
    """The gate: a challenger must reach the environment's threshold, and be better than the champion or preferable.

    A challenger that is not worse than the champion, by the margin, is preferable if it is at home, or more robust by
    `RELEVANT_ROBUSTNESS`. In all other cases the champion stays.

    Args:
        challenger: its returns `[N]` on unseen episodes.
        threshold: the environment's `reward_threshold`, if it has one.
        champion: the version that is served, if there is one, with its returns `[N]` on the same episodes.
        stress: the challenger's stress test, on the same episodes as the champion's.
        at_home: whether the world is the challenger's own and not the champion's. A version in another world than its
            own never behaves as predicted, so the server would keep detecting a drift.
        offers: what the challenger has besides its policy, for which an equal one is preferable; "" for nothing.

    Raises:
        ValueError: if challenger and champion played different numbers of episodes.
    """
    if len(challenger) < LOOKS[0]:
        return _refused("invalid", f"{len(challenger)} episodes, at least {LOOKS[0]} are needed")
    if not np.isfinite(challenger).all():
        return _refused("invalid", f"{_first_fault(challenger)} is not finite; {_REWARDS}")
    if champion and champion.other_env_id:
        return _refused(
            "invalid",
            f"champion version {champion.version} plays another environment, {champion.other_env_id}, under the same "
            "model name; register one of the two environments under another id",
        )
    if champion and champion.returns is not None and not np.isfinite(champion.returns).all():
        return _refused(
            "invalid",
            f"{_first_fault(champion.returns)}, by champion version {champion.version}, is not finite; {_REWARDS}",
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
    decision = _against(comparison, champion, compared, _preferable(champion, stress, at_home) or offers, at_home)
    return replace(decision, comparison=comparison)


def _against(comparison: Comparison, champion: Champion, compared: str, preferable: str, at_home: bool) -> Decision:
    """The comparison with the champion. `preferable` is the reason to prefer an equal challenger, or ""."""
    if comparison.worse():
        return _refused("worse", f"worse, the champion stays: {compared}")
    used = 0.0 if at_home else champion.margin_used  # which was used in another world
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

    A test by betting: if the mean is at most `bound`, the wealth of a gambler that bets against it reaches
    1 / (1 - CONFIDENCE) times its start with probability `1 - CONFIDENCE` at most (Ville's inequality). The test is
    valid for every distribution, every N and any number of looks. Its only assumption is that no value is below
    `lowest`. (Waudby-Smith and Ramdas, 2024, section 4; a mixture of constant bets.)
    """
    if bound <= lowest:
        return bool(lowest < 0)  # by the assumption; if all values are zero, they show nothing
    logarithms = np.log1p(_BETS * ((values - lowest) / (bound - lowest) - 1)).sum(1)
    wealth = float(np.logaddexp.reduce(logarithms)) - math.log(len(_BETS))
    return wealth >= -math.log(1 - CONFIDENCE)


def difference_interval(difference: Floats, lowest: float) -> tuple[float, float]:
    """Bounds of the mean of paired differences `[N]`, each with `CONFIDENCE`, by `surely_above`.

    Args:
        difference: each from `lowest` to `-lowest`.
        lowest: at most zero.
    """
    return _bound(difference, lowest), -_bound(-difference, lowest)


def _bound(values: Floats, lowest: float) -> float:
    low, high = lowest, float(values.mean())
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if surely_above(values, middle, lowest) else (low, middle)
    return low
