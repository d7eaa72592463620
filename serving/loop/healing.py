"""Explains a change of the world, chooses what plays in it, and plays that.

A look takes about 50 ms and runs outside the event loop. `Healing` applies its result, in the event loop.
"""

import asyncio
import dataclasses
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from dqn.environments.world import World
from dqn.identification.at_once import explain
from dqn.identification.record import Experience
from serving.deadlines import begin
from serving.episodes.simulation import Step
from serving.loop.drift import StepTest
from serving.loop.finding import Finding, say
from serving.loop.rehearsal import HOLDS, QUICK_STEPS, STEPS, Candidate, candidates, choose, rehearse
from serving.loop.reports import Playing
from serving.loop.undoing import Observed, Undone

CONFIRMED: Final = 25
"""Steps as an explanation predicts, after which a deviation is another change and does not refute it."""
SWITCHES_A_MINUTE: Final = 12
"""Limit of how often another candidate begins to play."""

_PLAUSIBLE: Final = 0.1
"""Least weight of an explanation besides the best one for candidates to be rehearsed in its world too."""
_EARLY: Final = 10
"""A rehearsal is short with fewer transitions after a change than this."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """A finding, and what follows from it."""

    finding: Finding
    world: World | None
    """The identified world; None if nothing explains the steps."""
    unchanged: bool
    """Whether that is the expected world."""
    chosen: Candidate | None
    """What is to play; None for what plays now."""
    share: float
    """Part of the rehearsed steps that it balances, or that the best candidate does."""

    @property
    def rehearsed_return(self) -> float:
        """Of 500 steps."""
        return round(500 * self.share, 1)

    @property
    def told(self) -> str:
        """What plays, as a sentence."""
        name = self.chosen.name if self.chosen else ""
        playing = f"Playing with {name}" if name else "Playing with nothing undone"
        lasts = f"rehearsed return {self.rehearsed_return:g} of 500"
        return (
            f"{playing}: {lasts}" if self.holds else f"{playing}; no rehearsed candidate balances this world: {lasts}"
        )

    @property
    def holds(self) -> bool:
        """Whether it balances the identified world."""
        return self.share >= HOLDS


def look(
    columns: dict[str, Any],
    policy: Observed,
    own: World,
    expected: World,
    onset: int,
    playing: str,
) -> Look:
    """Explain the transitions after a change, and rehearse what could play in the world that explains them.

    Args:
        columns: as of `Experience.columns`, with some transitions before `onset` too.
        policy: the policy that plays when nothing is undone.
        own: the world that it balances as it is.
        expected: the world before the change.
        onset: id of the last transition before the change.
        playing: name of the candidate that plays; empty for the policy as it is.
    """
    ids = columns["id"]
    names = [field.name for field in dataclasses.fields(Experience)]
    record = Experience(**{name: np.asarray(columns[name]) for name in names})
    count = int(np.sum(ids > onset))
    found, sure = explain(record, expected, int(np.searchsorted(ids, onset, side="right")))
    finding = say(found, expected, sure=sure, transitions=count)
    if not found or not found[0].explained:
        return Look(finding=finding, world=None, unchanged=False, chosen=None, share=0.0)
    rivals = [each for each in found[1:2] if each.weight > _PLAUSIBLE and each.explained]
    worlds = [found[0].world, *(rival.world for rival in rivals)]
    tried = candidates(policy, worlds[0], own)
    for world in worlds[1:]:
        tried += [each for each in candidates(policy, world, own) if each.begin]
    steps = QUICK_STEPS if count < _EARLY else STEPS
    shares = np.array([rehearse(policy, tried, world, steps=steps) for world in worlds])
    holdable = shares.max(1) >= HOLDS
    weights = np.array([each.weight for each in found[: len(worlds)]]) * (holdable if holdable.any() else 1.0)
    mean = weights @ shares / weights.sum()
    chosen = choose(mean, [each.name for each in tried], playing)
    return Look(
        finding=finding,
        world=worlds[0],
        unchanged=not found[0].changed,
        chosen=tried[chosen],
        share=float(mean[chosen]),
    )


Looked = asyncio.Future[Look] | Future[Look]
"""A look that is taken, or was."""


def aside(looking: Callable[[], Look], then: Callable[[Any], None]) -> Looked | None:
    """Look in a thread, and call `then` in the event loop; at once, and without a future, where none runs."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        done: Future[Look] = Future()
        done.set_result(looking())
        then(done)
        return None
    future = asyncio.wrap_future(begin(looking))
    future.add_done_callback(then)
    return future


class Healing:
    """What plays in a changed world. `clock` gives seconds since 1970."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.playing: Playing | None = None
        """What plays as it was chosen; None before a choice."""
        self.undone: Undone | None = None
        """What plays in place of the policy; None for the policy as it is."""
        self.settled = False
        """Whether the world is identified surely and steps are as it predicts."""
        self.confirmed = 0
        """Steps since the world was identified."""
        self._clock = clock
        self.world: World | None = None
        """The identified world; None before one is, and where it is the expected one."""
        self._test: StepTest | None = None
        self._refuted = False
        self._switched: deque[float] = deque(maxlen=SWITCHES_A_MINUTE)

    def stop(self) -> None:
        """Let the policy play as it is, and expect nothing."""
        self.playing = self.undone = self._test = self.world = None
        self.settled, self.confirmed, self._refuted = False, 0, False

    def begin_episode(self) -> None:
        """The next step is the first one of an episode."""
        if self.undone:
            self.undone.reset()

    def update(self, step: Step) -> int:
        """Compare a step with the identified world; returns for how many steps it has been another one, or 0."""
        if self._test is None:
            return 0
        self.confirmed += 1
        lasted = self._test.update(step)
        self.settled &= not lasted
        self._refuted |= lasted > 0 and self.confirmed <= lasted + CONFIRMED
        return lasted

    def take(self, look: Look, actions: Sequence[int]) -> None:
        """Let the candidate play that a look has chosen, unless there were too many switches.

        The policy plays as it is if nothing explains the steps any more that have refuted an earlier explanation.

        Args:
            look: the latest one.
            actions: of the episode that plays, oldest first.
        """
        if look.world is None and self._refuted:
            self.stop()
            return
        self._refuted = False
        if look.unchanged:
            self._test = self.world = None
        elif look.world:
            if self.world is None or look.world.to_dict().keys() != self.world.to_dict().keys():
                self.confirmed = 0
            if look.world != self.world:
                self._test = StepTest(look.world)
            self.world = look.world
        self.settled = look.finding.sure and not look.unchanged
        if look.chosen is None:
            return
        before, now = self.playing, self._clock()
        same = look.chosen.name == (before.name if before else "")
        if not same:
            if len(self._switched) == SWITCHES_A_MINUTE and now - self._switched[0] < 60:
                return
            self._switched.append(now)
        self.playing = Playing(
            name=look.chosen.name,
            text=look.told,
            rehearsed_return=look.rehearsed_return,
            holds=look.holds,
            at=before.at if before and same else now,
        )
        self.undone = look.chosen.begin(actions) if look.chosen.begin else None
