"""A challenger beside the version that plays: in the shadow of its answers, and for some requests in its place."""

import asyncio
import random
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Annotated, Final

import numpy as np
from msgspec import Meta, Struct
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from dqn.environments.masks import MASKED_Q
from serving.metrics.inputs_by_version import SOURCES, Source
from serving.metrics.shadow import ShadowCounts
from serving.models.follower import Models
from serving.models.served import TRIED_ROWS, ServedModel
from serving.policy import FloatArray, OnnxPolicy

HEADER: Final = b"x-canary"
MOST_CANARIES: Final = 0.5
"""Greatest share of requests that a challenger answers: from the others it is compared."""
LEAST_AGREEMENT: Final = 0.75
"""A challenger with a smaller weighted agreement is returned. Half of 306 pairs of CartPole policies with a return of
at least 499 have 0.92 and more. Of 1,080 pairs of one such policy and one below 50, nine in ten have less than 0.71."""
_LEAST_STEPS: Final = 100
_PAUSE: Final = 0.25
"""Seconds between two computations: each costs some tenths of a millisecond, however few steps it has."""
_WAITING_STEPS: Final = 4_096
_WAITING_BYTES: Final = 4 << 20
_Sample = tuple[FloatArray, FloatArray, Source, ServedModel]


class CanaryStatus(Struct, frozen=True, kw_only=True):
    """Requests that the challenger answers in the champion's place."""

    share: float
    answered: int
    returned: Annotated[str, Meta(description="why the champion answers all requests again; empty if it does not")]


class ShadowStatus(Struct, frozen=True, kw_only=True):
    """A challenger in the shadow, since both versions are there."""

    model: str
    reference: str
    champion: str
    challenger: str
    notice: Annotated[str, Meta(description="why nothing is compared; empty if something is")]
    share: Annotated[float, Meta(description="of requests; of the show it is every step")]
    steps: int
    agreed: Annotated[int, Meta(description="steps with the same action")]
    weighted_agreement: Annotated[float, Meta(description="each step counts by what is at stake; 1 if none")]
    mean_q_difference: float
    mean_seconds: Annotated[float, Meta(description="of the challenger for a request; one request a batch is timed")]
    dropped: int
    errors: int
    canary: CanaryStatus


class Shadow(Collector):
    """Compares the challenger that an alias or a number names with the version that plays. Belongs to one event loop.

    Samples wait in a bounded queue, and a thread computes them after the answers have left. `draw` gives numbers from 0
    to 1.
    """

    def __init__(
        self,
        models: Models,
        reference: str,
        *,
        share: float = 0.1,
        canary_share: float = 0.0,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self.counts = ShadowCounts()
        self._models = models
        self._reference = reference
        self._share = share
        self._canary_share = canary_share
        self._draw = draw
        self._pair: tuple[str, ...] = ()
        self._waiting: list[_Sample] = []
        self._steps = self._bytes = 0
        self._working: asyncio.Task[None] | None = None
        models.watched[reference] += 1  # loaded when it moves

    def offer(self, served: ServedModel, observation: FloatArray, q_values: FloatArray, source: Source) -> None:
        """Compare a share of the requests, and every step of the show.

        Args:
            served: what answered; nothing is compared if it plays no more when the challenger answers.
            observation: `[batch, *observation_shape]`.
            q_values: its answer `[batch, actions]`.
            source: where the observation is from.
        """
        if source == "requests" and self._draw() >= self._share:
            return
        steps, size = self._steps + len(observation), self._bytes + observation.nbytes
        if steps > _WAITING_STEPS or size > _WAITING_BYTES:
            if self._challenger()[0]:
                self.counts.dropped += len(observation)
            return
        self._waiting.append((observation, q_values, source, served))
        self._steps, self._bytes = steps, size
        if self._working is None:
            self._working = asyncio.create_task(self._work())

    def canary(self, headers: Iterable[tuple[bytes, bytes]]) -> ServedModel | None:
        """The challenger if it is to answer a request: one with `X-Canary: 1`, or one of the share without it."""
        asked = next((value for name, value in headers if name == HEADER), None)
        wanted = asked == b"1" if asked else self._canary_share > 0 and self._draw() < self._canary_share
        challenger = self._challenger()[0] if wanted else None
        return None if self.counts.returned else challenger

    def give_back(self, why: str) -> None:
        """Let the champion answer all requests, until one of the two versions moves."""
        self._challenger()
        self.counts.give_back(why)

    def status(self) -> ShadowStatus:
        """What has been compared."""
        _, notice = self._challenger()
        counts = self.counts
        steps = counts.steps.total()
        return ShadowStatus(
            model=self._models.name,
            reference=self._reference,
            champion=counts.champion,
            challenger=counts.challenger,
            notice=notice,
            share=self._share,
            steps=steps,
            agreed=counts.agreed,
            weighted_agreement=counts.weighted_agreement,
            mean_q_difference=counts.differences.sum / max(steps, 1),
            mean_seconds=counts.seconds.sum / max(sum(counts.seconds.counts), 1),
            dropped=counts.dropped,
            errors=counts.errors,
            canary=CanaryStatus(share=self._canary_share, answered=counts.canaries, returned=counts.returned),
        )

    def collect(self) -> Iterator[Metric]:
        """Families of the text format."""
        return self.counts.collect()

    def close(self) -> None:
        """Compare nothing more."""
        if self._working:
            self._working.cancel()

    def _challenger(self) -> tuple[ServedModel | None, str]:
        """The challenger if it can be compared, and otherwise the reason. The counts begin anew with another pair."""
        champion, challenger = self._models.current, self._models.peek(self._reference)
        if champion is None:
            return None, "nothing plays yet"
        if challenger is None:
            number = self._models.snapshot.aliases.get(self._reference, self._reference)
            if number not in self._models.snapshot.versions:
                return None, f"the registry has no version or alias '{self._reference}'"
            return None, f"version {number} is being fetched, or was refused: the log says why"
        if challenger is champion:
            return None, f"'{self._reference}' is version {champion.version.number}, which plays"
        numbers = champion.version.number, challenger.version.number
        if self._pair != (pair := (*numbers, champion.sha256, challenger.sha256)):
            self._pair, self.counts = pair, ShadowCounts(*numbers)
        ours, theirs = champion.policy.metadata, challenger.policy.metadata
        if (ours.env_id, ours.observation_shape, ours.action_meanings) != (
            theirs.env_id,
            theirs.observation_shape,
            theirs.action_meanings,
        ):
            return None, f"version {challenger.version.number} plays {theirs.env_id} with other inputs or actions"
        return challenger, ""

    async def _work(self) -> None:
        try:
            while self._waiting:
                await asyncio.sleep(_PAUSE)
                challenger, counts = self._challenger()[0], self.counts
                taken = [sample for sample in self._waiting if sample[3] is self._models.current]
                self._waiting, self._steps, self._bytes = [], 0, 0
                if challenger is None or not taken:
                    continue
                try:
                    answered = await asyncio.to_thread(_answer, challenger.policy, taken)
                except Exception as error:  # onnxruntime's exceptions have no common base class
                    counts.fail(error)
                else:
                    _count(counts, taken, *answered)
        finally:
            self._working = None


def _count(counts: ShadowCounts, taken: list[_Sample], shadowed: FloatArray, seconds: float) -> None:
    """Count answers to samples of a pair; another pair may be there by now, with counts of its own."""
    counts.seconds.observe(seconds)
    q_values = np.concatenate([q_values for _, q_values, *_ in taken])
    of_source = np.repeat([SOURCES.index(source) for *_, source, _ in taken], [len(q) for _, q, *_ in taken])
    ours, theirs = np.isfinite(q_values).all(axis=1), np.isfinite(shadowed).all(axis=1)
    finite = ours & theirs
    counts.add(
        q_values[finite],
        shadowed[finite],
        {source: of_source[finite] == index for index, source in enumerate(SOURCES)},
    )
    if (ours & ~theirs).any():
        counts.fail(ValueError("its Q-values are not finite"))
    steps, agreement = counts.steps.total(), counts.weighted_agreement
    if steps >= _LEAST_STEPS and agreement < LEAST_AGREEMENT:
        counts.give_back(f"after {steps} steps its weighted agreement is {agreement:.2f}, below {LEAST_AGREEMENT}")


def _answer(policy: OnnxPolicy, taken: list[_Sample]) -> tuple[FloatArray, float]:
    """The Q-values `[steps, actions]` of all samples, and the seconds that the first one took alone.

    Samples share batches, because each computation in a thread beside a busy one costs tens of microseconds.
    """
    observation, q_values = (np.concatenate(part) for part in list(zip(*taken, strict=True))[:2])
    mask = q_values > MASKED_Q if policy.metadata.masked else None

    def answers(steps: int) -> FloatArray:
        batches = [slice(begin, min(begin + TRIED_ROWS, steps)) for begin in range(0, steps, TRIED_ROWS)]
        return np.concatenate([policy.q_values(observation[b], None if mask is None else mask[b]) for b in batches])

    began = time.perf_counter()
    answers(len(taken[0][0]))
    seconds = time.perf_counter() - began
    return answers(len(observation)), seconds
