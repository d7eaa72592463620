"""Watches the steps of the show, notices drift, and records the stages of the adaptation to it."""

import asyncio
import logging
import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

from msgspec import structs
from starlette.exceptions import HTTPException

from dqn.environments.world import NOMINAL, World
from dqn.identification.record import MAX_DELAY
from serving.episodes.simulation import Policy, Step
from serving.loop import reports
from serving.loop.drift import EpisodeTest, StepTest, can_predict
from serving.loop.experience import Experience
from serving.loop.finding import Finding, say, say_returns
from serving.loop.healing import CONFIRMED, Healing, Look, Looked, aside, look
from serving.loop.reports import Drift, PlayedEpisode, PresentEpisode, Report, Sender, StageReport
from serving.loop.timeline import Change, tell
from serving.metrics.metrics import Metrics
from serving.models.served import ServedModel

EXPLAINED_AT: Final = (4, 6, 8, 10, 14, 20, 30, 40, 60, 80, 120, 160)
"""Numbers of transitions after which a change is explained; so it is at a later alarm, and at every fall."""
CALM_STEPS: Final = 250
"""A drift is over after this many steps as predicted, and at least three times as many as it took to notice."""
_CALM_EPISODES: Final = 3
_BEFORE: Final = 32  # transitions before a change that are read too: delayed actions were chosen there
_LATEST: Final = 160  # transitions that are explained at most
_SELDOM: Final = 8  # alarms and falls are looked at after so small a part of the transitions since the change
_LOG: Final = logging.getLogger("serving")


class ClosedLoop:
    """Watches the steps of one player. `clock` gives seconds since 1970."""

    def __init__(self, metrics: Metrics, clock: Callable[[], float] = time.time) -> None:
        self.experience = Experience()
        self.episodes: deque[PlayedEpisode] = deque(maxlen=32)
        self.playing: PresentEpisode | None = None
        self.latest: Drift | None = None
        """The latest drift, even if it is over."""
        self.stages: list[StageReport] = []
        self.past: deque[tuple[Drift, list[StageReport]]] = deque(maxlen=20)  # earlier drifts with their stages
        self.trouble = ""
        """Why watching failed; empty if it did not."""
        self.sender: Sender | None = None
        """Sends drifts to an orchestrator; None without one."""
        self.listeners: list[Callable[[], None]] = []
        self.untold = asyncio.Event()
        """Set while there is a drift that no adaptation has acknowledged."""
        self._metrics = metrics
        self._clock = clock
        self._served: ServedModel | None = None
        self._over = True
        self._onset: int | None = None
        self._since = self._last_look = 0
        self._usual: float | None = None
        self._calm = self._calm_episodes = 0
        self._calm_needed = CALM_STEPS
        self._home = self._expected = NOMINAL
        self._identified: World | None = None
        self._steps: StepTest | None = None
        self.healing = Healing(lambda: self._clock())
        self.aside = aside
        """Runs a look; benchmarks have another function here."""
        self._returns = EpisodeTest()
        self._pushed = self._mixed = self._look_failed = self._looks_again = False
        self._looking: Looked | None = None

    def status(self, changes: Sequence[Change] = ()) -> dict[str, Any]:
        """The latest drift, the stages of the adaptation and changes by viewers, as the page shows them."""
        return {
            **structs.asdict(tell(self.latest, self._over, self.stages, changes, self.sender is not None)),
            "undoing": self.healing.playing,
            "now": self._clock(),
            "trouble": self.trouble or (self.sender.trouble if self.sender and self.untold.is_set() else ""),
        }

    @property
    def drift(self) -> Drift | None:
        """The drift that is not over."""
        return None if self._over else self.latest

    def policy(self, served: ServedModel) -> Policy:
        """What plays for a version: its policy, with a change of the world undone in front of it, or a regulator."""
        return self.healing.undone if self.healing.undone and served is self._served else served.policy

    @property
    def drifting(self) -> bool:
        """Whether there is a drift that is not over, or one is being explained."""
        return self.drift is not None or self._looking is not None

    def observe(self, served: ServedModel, episode: int, step: Step) -> None:
        """Record a step. A failure here is reported, and the show continues."""
        try:
            self._observe(served, episode, step)
        except Exception as error:
            self._fail(error)
        else:
            self.trouble = self.trouble if self._look_failed else ""

    def close(self) -> None:
        """Discard the look that is taken. Its thread ends with it, in a fraction of a second."""
        if self._looking:
            self._looking.cancel()

    def report(self, report: Report) -> None:
        """Record a stage; the first one acknowledges the drift.

        Raises:
            HTTPException: 409 for a drift other than the latest, and for more than MOST_STAGES stages.
            WorldError: if its world is invalid.
        """
        world = None if report.world is None else World.from_dict(report.world)
        if self.latest is None or report.drift != self.latest.id:
            latest = f"the latest is {self.latest.id}" if self.latest else "there was none yet"
            raise HTTPException(409, f"there is no drift {report.drift[:40]!r}: {latest}")
        self.untold.clear()
        reports.add_report(self.stages, report, self._clock())
        if report.stage == "identified":
            self._identified = world
        elif report.stage in ("recovered", "confirmed"):
            self._end()
            if self.healing.undone:  # the version is the one of the drift, and balances with what is undone
                self._expect(world or self.healing.world or self._expected)
            else:
                self._begin_watching(world)
        self._tell()

    def _observe(self, served: ServedModel, episode: int, step: Step) -> None:
        if served is not self._served:
            self._take_over(served, mid_episode=step.index > 0)
        if step.index == 0:
            self._pushed = self._mixed = False
        self._pushed |= bool(step.push)
        number = served.version.number
        newest = self.experience.add(version=int(number), episode=episode, step=step)
        self.playing = PresentEpisode(version=number, step=step.index, disturbed=self._pushed)
        lasted = self._steps.update(step) if self._steps else 0
        again = self.healing.update(step)
        if lasted and self._onset is None:
            self._onset, self._since = newest - lasted, newest
            self._calm_needed = max(CALM_STEPS, 3 * lasted)
        if again and self.healing.confirmed > again + CONFIRMED:
            self._onset, self._since = newest - again, newest  # another change, no wrong explanation of the last one
        if self._onset is not None:
            count = newest - self._onset
            alarmed = again or (lasted and (self.drift is None or self.drift.version != number))
            due = count in EXPLAINED_AT and not self.healing.settled
            alarmed = (alarmed and count > EXPLAINED_AT[0]) or step.terminated  # do not wait for the break after a fall
            if due or (alarmed and newest - self._last_look >= count / _SELDOM):
                self._look(served)
        self._calm = 0 if lasted else self._calm + 1
        if self.drift and self._usual is None and self._steps and self._calm >= self._calm_needed:
            self._end("steps are as predicted again")
            self._tell()
        if step.terminated or step.truncated:
            self._end_episode(served, step)

    def _take_over(self, served: ServedModel, *, mid_episode: bool) -> None:
        self._served = served
        self._mixed = mid_episode
        if self.drift:
            self._add("swapped", f"version {served.version.number} plays")
        self._begin_watching(self._identified)
        self._tell()

    def _begin_watching(self, world: World | None = None) -> None:
        """Expect the version's own world, or the one that a run identified and that this version now plays in."""
        assert self._served
        self.healing.stop()
        self._home = world or self._served.policy.metadata.world
        self._expect(self._home)

    def _expect(self, world: World) -> None:
        assert self._served
        self._expected = world
        predictable = can_predict(self._served.policy.metadata.env_id, world)
        self._steps = StepTest(world) if predictable else None
        self._returns = EpisodeTest()
        self._onset, self._calm = None, 0

    def _look(self, served: ServedModel) -> None:
        """Explain what has changed and rehearse what could play, in a thread because that takes about 50 ms."""
        assert self._onset is not None
        onset, self._last_look = self._onset, self.experience.newest
        if self._looking:
            self._looks_again = True
            return
        columns = self.experience.columns(max(onset, self.experience.newest - _LATEST) - _BEFORE)
        name = self.healing.playing.name if self.healing.playing else ""
        looking = partial(look, columns, served.policy, self._home, self._expected, onset, name)
        self._looking = self.aside(looking, partial(self._looked, served, onset))

    def _looked(self, served: ServedModel, onset: int, looking: Looked) -> None:
        self._looking, again, self._looks_again = None, self._looks_again, False
        if looking.cancelled() or self._served is None or self._onset is None:
            return  # the drift is over
        late = served is not self._served or onset != self._onset  # this is another version, or another change
        try:
            if not late:
                self._say(served, looking.result())
                self._look_failed = False
        except Exception as error:
            self._look_failed = True
            self._fail(error)
            if self.drift is None or self.drift.version != served.version.number:
                self._notice(served, say((), self._expected, sure=False, transitions=self.experience.newest - onset))
                self._tell()
        if (again or late) and self._onset is not None:
            self._look(self._served)

    def _say(self, served: ServedModel, look: Look) -> None:
        finding = look.finding
        if self.drift is None or self.drift.version != served.version.number:
            self._notice(served, finding)
        elif not look.unchanged:
            told = {"finding": finding.sentence, "evidence": finding.evidence, "since": self._since}
            self.latest = structs.replace(self.drift, **told)
        if look.unchanged:
            self._onset = None  # put right: the next alarm is another change
        self.healing.take(look, self.experience.episode_so_far(MAX_DELAY + 1))
        self._tell()

    def _fail(self, error: Exception) -> None:
        self._metrics.drift_errors.inc()
        said = str(error) or type(error).__name__
        trouble = f"Watching for changes failed ({said}); it is tried again at the next step."
        if trouble != self.trouble:
            _LOG.error("watching for drift failed; it is tried again at the next step", exc_info=error)
        self.trouble = trouble

    def _notice(self, served: ServedModel, finding: Finding) -> None:
        if self.latest:
            self.past.append((self.latest, self.stages))
        self.latest = Drift(
            id=uuid.uuid4().hex,
            version=served.version.number,
            noticed_at=self._clock(),
            since=self._since,
            finding=finding.sentence,
            evidence=finding.evidence,
        )
        self._over, self._usual, self._calm = False, None, 0
        self.stages = []
        self._metrics.drift_noticed.inc()
        self._metrics.drift.set(1)
        self.untold.set()
        _LOG.info("drift noticed", extra={"drift": self.latest.id, "finding": finding.sentence})

    def _end_episode(self, served: ServedModel, step: Step) -> None:
        if self._mixed:
            return  # two versions played it
        self.episodes.append(
            PlayedEpisode(
                version=served.version.number,
                episodic_return=step.episodic_return,
                disturbed=self._pushed,
                ended_at=self._clock(),
                truncated=step.truncated,
            )
        )
        if self._pushed:
            return
        if self.drift and self._usual is not None:
            good = step.episodic_return >= self._usual - 0.1 * abs(self._usual)
            self._calm_episodes = self._calm_episodes + 1 if good else 0
            if self._calm_episodes >= _CALM_EPISODES:
                self._end(f"{_CALM_EPISODES} episodes as usual")
                self._tell()
        elif self._returns.update(step.episodic_return) and self.drift is None and self._onset is None:
            lately = [played.episodic_return for played in self.episodes if not played.disturbed][-3:]
            self._since = self.experience.newest
            self._notice(served, say_returns(lately, self._returns.usual))
            self._usual, self._calm_episodes = self._returns.usual, 0
            self._tell()

    def _end(self, why: str = "") -> None:
        if why:
            self._add("as predicted", why)
            if self._expected == self._home:
                self.healing.stop()
        self._over, self._onset, self._identified = True, None, None
        self.untold.clear()
        self._metrics.drift.set(0)

    def _add(self, stage: str, text: str) -> None:
        self.stages.append(StageReport(stage=stage, text=text, at=self._clock()))
        del self.stages[: -reports.MOST_STAGES]

    def _tell(self) -> None:
        for listener in self.listeners:
            listener()
