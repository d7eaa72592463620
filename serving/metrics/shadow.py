"""Counts of what a challenger answers in the shadow of the version that plays, for one pair of versions."""

import logging
from collections import Counter
from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from dqn.environments.masks import MASKED_Q
from serving.metrics.histogram import Histogram
from serving.metrics.inputs import GAPS
from serving.metrics.inputs_by_version import SOURCES, Source
from serving.models.loader import describe
from serving.policy import FloatArray

_SECONDS: Final = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 0.1, 1.0)
_LOG: Final = logging.getLogger("serving")


class ShadowCounts(Collector):
    """Counts since both versions of a pair are there. For one thread."""

    def __init__(self, champion: str = "", challenger: str = "") -> None:
        self.champion = champion
        """Number of the version that plays; empty before there is a pair."""
        self.challenger = challenger
        self.steps: Counter[tuple[Source, bool]] = Counter()
        """Observations by source, and by whether both versions chose the same action."""
        self.lost = 0.0
        """Sum of the champion's Q-value of its own action less that of the challenger's."""
        self.most_lost = 0.0
        """The same sum if the challenger had always chosen the champion's worst allowed action."""
        self.differences = Histogram(GAPS)
        """Greatest difference between the Q-values of both versions for an action, one value a step."""
        self.seconds = Histogram(_SECONDS)
        """Time of the challenger's computation for a request; one request of each batch is timed."""
        self.dropped = 0
        self.errors = 0
        self.canaries = 0
        """Requests that the challenger answered."""
        self.returned = ""
        """Why the champion answers the challenger's requests again; empty if it does not."""

    def give_back(self, why: str) -> None:
        """Let the champion answer all requests of this pair."""
        if self.challenger and not self.returned:
            self.returned = why
            _LOG.warning("canary returned", extra={"version": self.challenger, "reason": why})

    def fail(self, error: Exception) -> None:
        """Count a failure of the challenger at what the champion can answer."""
        self.errors += 1
        self.give_back(f"version {self.challenger} failed: {describe(error)}")

    @property
    def agreed(self) -> int:
        """Steps with the same action."""
        return sum(count for (_, same), count in self.steps.items() if same)

    @property
    def weighted_agreement(self) -> float:
        """Agreement where each step counts by what the champion's Q-values say is at stake; 1 before the first step.

        A share of equal actions alone says little: near ties are most of the steps of a balanced pole.
        """
        return 1 - self.lost / self.most_lost if self.most_lost else 1.0

    def add(self, q_values: FloatArray, shadowed: FloatArray, sources: dict[Source, npt.NDArray[np.bool_]]) -> None:
        """Count steps, from the Q-values `[steps, actions]` of champion and challenger.

        Args:
            q_values: the champion's.
            shadowed: the challenger's, which are finite.
            sources: which steps `[steps]` each source has.
        """
        rows, mine, theirs = np.arange(len(q_values)), q_values.argmax(axis=1), shadowed.argmax(axis=1)
        own, allowed = q_values.astype(np.float64), (q_values > MASKED_Q) & (shadowed > MASKED_Q)
        best = own[rows, mine]
        worst = np.where(q_values > MASKED_Q, own, best[:, np.newaxis]).min(axis=1)
        self.lost += float((best - np.maximum(own[rows, theirs], worst)).sum())
        self.most_lost += float((best - worst).sum())
        self.differences.observe_all(np.where(allowed, np.abs(own - shadowed), 0.0).max(axis=1))
        for source, which in sources.items():
            same = int((mine == theirs)[which].sum())
            self.steps[source, True] += same
            self.steps[source, False] += int(which.sum()) - same

    def collect(self) -> Iterator[Metric]:
        """Families of the text format; their counts begin at 0 when one of the two versions moves."""
        names, pair = ["champion", "challenger"], [self.champion, self.challenger]
        steps = CounterMetricFamily(
            "serving_shadow_steps", "Observations answered in the shadow", labels=[*names, "source", "agreed"]
        )
        for source in SOURCES:
            for same in (True, False):
                steps.add_metric([*pair, source, str(same).lower()], self.steps[source, same])
        yield steps
        for name, about, value in (
            ("serving_shadow_q_lost", "Q-value that the challenger's actions cost, by the champion", self.lost),
            ("serving_shadow_q_most_lost", "The same for the worst actions", self.most_lost),
            ("serving_shadow_dropped", "Observations dropped because too many waited", self.dropped),
            ("serving_shadow_errors", "Requests that the challenger failed at", self.errors),
            ("serving_canary_answered", "Requests that the challenger answered", self.canaries),
        ):
            counter = CounterMetricFamily(name, about, labels=names)
            counter.add_metric(pair, value)
            yield counter
        differences = HistogramMetricFamily("serving_shadow_q_difference", "Of both versions' Q-values", labels=names)
        self.differences.write(differences, pair)
        seconds = HistogramMetricFamily("serving_shadow_seconds", "Time of the challenger's computation", labels=names)
        self.seconds.write(seconds, pair)
        returned = GaugeMetricFamily("serving_canary_returned", "1 if the challenger answers no more", labels=names)
        returned.add_metric(pair, float(bool(self.returned)))
        yield from (differences, seconds, returned)
