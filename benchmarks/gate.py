"""How often the gate errs: the probability of promotion for returns of known distribution, by simulation.

    python -m benchmarks.gate                                   # 2,000 comparisons a cell; a few minutes
    python -m benchmarks.gate --times 200

The challenger's returns have the champion's distribution, changed by the gate's margin; both are drawn independently. A
*preferred* challenger (one that is at home, or more robust) replaces the champion if it is not worse. No policy is
played.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from benchmarks.harness import table, write
from dqn.evaluation.statistics import Floats
from dqn.stress.robustness import CELLS, StressTest
from flows.registry.gate import LOOKS, Champion, Comparison, Decision, should_promote

Draw = Callable[[np.random.Generator, int], Floats]
VERSIONS: Final = 100
"""Length of a series of trainings."""
ROBUSTNESS: Final = (0.928, 0.971, 0.984, 0.993, 0.993, 0.994, 0.997, 0.998, 0.999, 1.0, 1.0)
"""Of eleven versions of the preset `cartpole`, seeds 0 to 10, each on 900 episodes."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A distribution of returns."""

    name: str
    champion: Draw
    changed: Callable[[float], Draw]
    """The distribution with another mean return, given the difference (negative for worse)."""
    improvable: bool = True


def failing(share: float, failure: float, otherwise: float) -> Draw:
    """`failure` in a share of the episodes."""
    return lambda generator, n: np.where(generator.random(n) < share, failure, otherwise)


def shifted(draw: Draw) -> Callable[[float], Draw]:
    """Every return is changed by the same amount."""
    return lambda change: lambda generator, n: draw(generator, n) + change


def normal(generator: np.random.Generator, n: int) -> Floats:
    return generator.normal(200.0, 60.0, n)


def tied(generator: np.random.Generator, n: int) -> Floats:
    return 100.0 + generator.choice([-10.0, 0.0, 10.0], n, p=[0.1, 0.8, 0.1])


def bimodal(successes: float) -> Draw:
    """Near 500 in a share of the episodes, near 0 in the others."""
    return lambda generator, n: generator.normal(np.where(generator.random(n) < successes, 500.0, 0.0), 20.0)


def lander(generator: np.random.Generator, n: int) -> Floats:
    """Lands well in 85% of the episodes, badly in 10%, and crashes in 5%."""
    how = generator.choice(3, n, p=[0.85, 0.1, 0.05])
    return generator.normal(np.array([265.0, 120.0, -50.0])[how], np.array([25.0, 60.0, 60.0])[how])


def skewed(change: float) -> Draw:
    """5, and -300 in 2% of the episodes. It is worse with more of the -300, and better with more than 5."""
    return lambda generator, n: failing(0.02 - min(change, 0.0) / 305, -300.0, 5.0)(generator, n) + max(change, 0.0)


KINDS: Final = (
    Kind(
        name="500, and 10 in 4%",
        champion=failing(0.04, 10.0, 500.0),
        changed=lambda change: failing(0.04 - change / 490, 10.0, 500.0),
    ),
    Kind(
        name="always 500",
        champion=failing(0.0, 10.0, 500.0),
        changed=lambda change: failing(-change / 490, 10.0, 500.0),
        improvable=False,
    ),
    Kind(name="normal, deviation 60", champion=normal, changed=shifted(normal)),
    Kind(name="5, and -300 in 2%", champion=skewed(0.0), changed=skewed),
    Kind(name="80% equal", champion=tied, changed=shifted(tied)),
    Kind(name="0 or 500", champion=bimodal(0.5), changed=lambda change: bimodal(0.5 + change / 500)),
    Kind(name="like LunarLander", champion=lander, changed=shifted(lander)),
)


def main() -> None:
    """Simulate, print one row for each kind and write them to `results/gate.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=2_000, help="comparisons of each kind and truth")
    parser.add_argument("--series", type=int, default=50, help=f"series of {VERSIONS} versions")
    arguments = parser.parse_args()
    rows = []
    for kind in KINDS:
        rows.append(row(kind, times=arguments.times) | retrained(kind, series=arguments.series))
        print(table(rows[-1:]), flush=True)
    for limited in (True, False):
        rows.append({"kind": f"drift, {'limited' if limited else 'unlimited'}"})
        rows[-1] |= drifted(series=arguments.series, limited=limited)
        print(table(rows[-1:]), flush=True)
    print(text(rows))
    print(f"written to {write('gate', rows)}")


def text(rows: list[dict[str, Any]]) -> str:
    """The table of docs/training.md."""
    heads = ("worse", "worse, preferred", "equal", "equal, preferred", "better by 2")
    lines = [
        "| returns | margin | worse by the margin | and preferred | equal | and preferred | better by two margins |"
    ]
    lines.append("|---|" + "---:|" * (1 + len(heads)))
    for found in rows[: len(KINDS)]:
        shares = [f"{found[head]:.1%}" if head in found else "-" for head in heads]
        lines.append(" | ".join([f"| {found['kind']}", f"{found['margin']:.1f}", *shares]) + " |")
    return "\n".join(lines)


def margin_of(kind: Kind) -> float:
    """The mean margin over champions that play all episodes."""
    generator = np.random.default_rng(0)
    played = [kind.champion(generator, LOOKS[-1]) for _ in range(100)]
    return float(np.mean([Comparison(challenger=one, champion=one, threshold=None).margin for one in played]))


def row(kind: Kind, *, times: int) -> dict[str, Any]:
    """Share of challengers that are promoted, for each true difference from the champion."""
    margin = margin_of(kind)
    truths = {"worse": -margin, "equal": 0.0} | ({"better by 2": 2 * margin} if kind.improvable else {})
    found: dict[str, Any] = {"kind": kind.name, "margin": margin}
    for truth, change in truths.items():
        for preferred in (False, True):
            generator = np.random.default_rng(1)
            promoted = episodes = 0
            for _ in range(times):
                challenger, champion = kind.changed(change)(generator, LOOKS[-1]), kind.champion(generator, LOOKS[-1])
                decision = settled(challenger, champion, at_home=preferred)
                promoted += decision.promote
                episodes += len(decision.comparison.champion) if decision.comparison else 0
            name = truth + ", preferred" * preferred
            found |= {name: promoted / times, f"{name}: episodes": episodes / times}
    return found


def settled(
    challenger: Floats,
    champion: Floats,
    *,
    threshold: float | None = None,
    stress: StressTest | None = None,
    champions: StressTest | None = None,
    margin_used: float = 0.0,
    at_home: bool = False,
) -> Decision:
    """The gate's final decision. It gets as many of the returns `[LOOKS[-1]]` of both as it asks for."""
    episodes = LOOKS[0]
    while episodes:
        rival = Champion(version=1, returns=champion[:episodes], stress=champions, margin_used=margin_used)
        decision = should_promote(challenger[:episodes], threshold, rival, stress, at_home)
        episodes = decision.episodes
    return decision


def retrained(kind: Kind, *, series: int) -> dict[str, Any]:
    """How many of `VERSIONS` versions replace a champion of equal returns and robustness."""
    generator = np.random.default_rng(2)
    replaced = [sum(_equal(kind, generator).promote for _ in range(VERSIONS)) for _ in range(series)]
    return {"replaced of 100": float(np.mean(replaced)), "most replaced of 100": max(replaced)}


def _equal(kind: Kind, generator: np.random.Generator) -> Decision:
    challenger, champion = kind.champion(generator, LOOKS[-1]), kind.champion(generator, LOOKS[-1])
    robustness = generator.choice(ROBUSTNESS)
    return settled(
        challenger, champion, stress=_stress(robustness, generator), champions=_stress(robustness, generator)
    )


def drifted(*, series: int, limited: bool = True) -> dict[str, Any]:
    """How much lower the champion's mean return is after `VERSIONS` versions, in margins.

    Returns have a deviation of 20 around 200, so that small differences are easy to detect. Each version returns a
    quarter of the margin less than the present champion, and its robustness is eight percentage points greater.

    Args:
        series: number of series of versions.
        limited: whether the gate counts the margin that earlier promotions used up, as it does in a registry.
    """
    generator = np.random.default_rng(3)
    lost, champions, step = [], [], 2.0
    for _ in range(series):
        mean, robustness, used, count = 200.0, 0.0, 0.0, 0
        for _ in range(VERSIONS):
            better = min(robustness + 0.08, 1.0)
            decision = settled(
                generator.normal(mean - step, 20.0, LOOKS[-1]),
                generator.normal(mean, 20.0, LOOKS[-1]),
                stress=_stress(better, generator),
                champions=_stress(robustness, generator),
                margin_used=used if limited else 0.0,
            )
            if decision.promote:
                mean, robustness, used, count = mean - step, better, decision.margin_used, count + 1
        lost.append((200.0 - mean) / (4 * step))
        champions.append(count)
    return {"lost": float(np.mean(lost)), "most lost": max(lost), "champions": float(np.mean(champions))}


def _stress(robustness: float, generator: np.random.Generator) -> StressTest:
    return StressTest(balanced=generator.random((len(CELLS), 100)) < robustness, push=60)


if __name__ == "__main__":
    main()
