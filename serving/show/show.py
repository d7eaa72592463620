"""The live show: one or two policies that play from one seed; any number of viewers watch and push them."""

import logging
import random
from collections import Counter
from typing import Any, Final

import msgspec
from msgspec import structs

from dqn.environments.world import World
from serving.episodes.limits import MAX_PUSH, MAX_SEED
from serving.episodes.simulation import Simulation, why_no_pictures
from serving.inference.shadow import Shadow
from serving.loop.closed_loop import ClosedLoop
from serving.metrics.metrics import Metrics
from serving.models.follower import Models
from serving.models.served import ServedModel
from serving.show.audience import Audience
from serving.show.commands import Command, Pause, PushCart, Restart, Resume, SingleStep, Speed
from serving.show.pace import Pace
from serving.show.player import Player, frame
from serving.show.viewer import Viewer
from serving.show.world import RealWorld

SPEEDS: Final = (0.25, 0.5, 1.0, 2.0, 4.0)
_BREAK_SECONDS: Final = 1.2
_DRIFTING_BREAK_SECONDS: Final = 0.4
"""During a drift: the adaptation waits for transitions, and a policy that falls makes ten an episode."""
_TICKS_A_COUNT: Final = 25  # between two updates of the shown number of viewers
_LOG: Final = logging.getLogger("serving")


class Show:
    """Plays episode after episode while there are viewers."""

    def __init__(
        self,
        models: Models,
        metrics: Metrics,
        references: tuple[str, ...] = ("",),
        *,
        real_world: RealWorld | None = None,
        loop: ClosedLoop | None = None,
        shadow: Shadow | None = None,
    ) -> None:
        self.models = models
        self.references = references
        self.audience = Audience(self._status_text)
        self.players: list[Player] = []
        self.episode = 0
        self.frame = ""
        self.closed = False
        self.real_world = real_world or RealWorld()
        self._loop = loop
        self._shadow = shadow
        self._metrics = metrics
        self._seed = random.randrange(100_000)  # noqa: S311 -- a show, not a secret
        self._step = 0
        self._paused = False
        self._single = False
        self._speed = 1.0
        self._push = 0.0
        self._pushes: list[tuple[int, float]] = []
        self._initial_world: World | None = None
        self._changes: dict[int, World] = {}
        self._swapped = False
        self._restart = True
        self._break_left = 0.0
        self._steps_due = 0.0
        self._ticks = 0
        models.listeners.append(self.audience.announce)
        if loop:
            loop.listeners.append(self.audience.announce)
        models.watched.update(filter(None, references))

    @property
    def viewers(self) -> set[Viewer[str]]:
        """The viewers of this show."""
        return self.audience.viewers

    def join(self, viewer: Viewer[str]) -> None:
        """Add a viewer and offer it the status and the latest frame at once."""
        self.audience.join(viewer, self.frame)

    def leave(self, viewer: Viewer[str]) -> None:
        """Remove a viewer; the show pauses when the last one left."""
        self.audience.leave(viewer)

    def close(self) -> None:
        """End the show for every viewer."""
        self.closed = True
        self.models.listeners.remove(self.audience.announce)
        self.models.watched -= Counter(filter(None, self.references))
        for viewer in self.viewers:
            viewer.dismiss()

    def command(self, command: Command) -> None:
        """Carry out a command of a viewer.

        Raises:
            ValueError: with a sentence, if this show cannot do it.
        """
        match command:
            case PushCart(force):
                if not all(player.simulation.can_be_pushed for player in self.players):
                    raise ValueError("only CartPole can be pushed")
                self._push = max(-MAX_PUSH, min(MAX_PUSH, self._push + force))
            case Pause():
                self._paused = True
            case Resume():
                self._paused = False
            case SingleStep():
                self._paused = self._single = True
            case Speed(speed):
                if speed not in SPEEDS:
                    raise ValueError(f"speed must be one of {', '.join(f'{s:g}' for s in SPEEDS)}")
                self._speed = speed
            case Restart(seed):
                self._seed = self._seed if seed is None else seed
                self._restart = True
        self.audience.announce()

    def enter_world(self) -> None:
        """Continue in the present real world.

        Raises:
            ValueError: if an environment does not support it.
        """
        for player in self.players:
            world = self.real_world.of(player.served.policy.metadata)
            if world != player.simulation.world:
                player.simulation.change(world)
                self._changes[self._step] = world
        self.audience.announce()

    async def run(self, pace: Pace) -> None:
        """Play until cancelled, in real time, and only while there are viewers."""
        while True:
            await self.audience.watched.wait()
            period = 1 / (self.players[0].simulation.fps if self.players else 10)
            try:
                self._tick(period)
            except Exception:  # one bad episode must not end the show
                _LOG.exception("a step of the show failed; a new episode begins")
                self._restart = True
                period = 1.0
            await pace.wait(period)

    def _status_text(self) -> str:
        return msgspec.json.encode({"type": "status"} | self.status()).decode()

    def status(self) -> dict[str, Any]:
        """The state of the show, except what changes at every step."""
        return {
            "model": self.models.name,
            "ready": self.models.current is not None,
            "looking": self.models.current is None and self.models.reachable is None,
            "notice": self.models.notice,
            "players": [
                {
                    "reference": player.reference,
                    "history": list(player.history),
                    **structs.asdict(self.models.describe(player.served)),
                }
                for player in self.players
            ],
            "no_pictures": why_no_pictures(self.players[0].simulation.environment) if self.players else "",
            "aliases": dict(self.models.snapshot.aliases),
            "versions": sorted(self.models.snapshot.versions, key=int, reverse=True),
            "episode": self.episode,
            "seed": self._seed,
            "paused": self._paused,
            "speed": self._speed,
            "world": self.players[0].simulation.world.to_dict() if self.players else {},
            "home": self.real_world.home(self.players[0].served.policy.metadata).to_dict() if self.players else {},
            "changed": self.real_world.changed,
            "initial_world": self._initial_world.to_dict() if self._initial_world else {},
            "altered": any(player.served.policy.metadata.world != self._initial_world for player in self.players),
            "changes": [{"step": step, "world": world.to_dict()} for step, world in self._changes.items()],
            "swapped": self._swapped,
            "pushes": [{"step": step, "force": force} for step, force in self._pushes],
            "loop": self._loop.status(tuple(self.real_world.history)) if self._loop else None,
            "viewers": sum(viewer.counted for viewer in self.viewers),
        }

    def _tick(self, period: float) -> None:
        self._ticks += 1
        with self.audience.one_announcement():
            if self.audience.changed and self._ticks % _TICKS_A_COUNT == 0:
                self.audience.announce()
            self._play(period)

    def _play(self, period: float) -> None:
        if not self._update_players():
            return
        if self._restart:
            self._begin()
        if self._break_left > 0:
            if self._paused and not self._single:
                return
            self._break_left = 0.0 if self._single else self._break_left - period
            self._single = False
            if self._break_left <= 0:
                self._seed = (self._seed + 1) % (MAX_SEED + 1)
                self._begin()
            return
        self._steps_due = self._steps_due + self._speed if not self._paused else float(self._single)
        self._single = False
        if self._steps_due < 1:
            return
        while self._steps_due >= 1 and self._break_left <= 0:
            self._steps_due -= 1
            self._advance()
        self._show_frame()

    def _update_players(self) -> bool:
        """Give each player its present version; False if there is none yet."""
        for index, reference in enumerate(self.references):
            served = self.models.peek(reference) if reference else self.models.current
            if index == len(self.players):
                if served is None:
                    return False
                self.players.append(self._player(reference, served))
                self._restart = True
                continue
            player = self.players[index]
            if served is None or served is player.served:
                continue  # a version that is no longer loaded plays on
            new, old = served.policy.metadata, player.served.policy.metadata
            world = self.real_world.of(new)
            if new.environment != old.environment:
                player.simulation.close()
                player.simulation = self._player(reference, served).simulation
                self._restart = True
            elif world != player.simulation.world:
                player.simulation.change(world)
                self._restart = True
            if not reference:
                self.real_world.settle(new)
            player.served, self._swapped = served, True
            player.history.clear()  # the returns of the version before
            self.audience.announce()
        return True

    def _player(self, reference: str, served: ServedModel) -> Player:
        metadata = served.policy.metadata
        mode = None if why_no_pictures(metadata.environment) else "rgb_array"
        simulation = Simulation(metadata.environment, self.real_world.of(metadata), render_mode=mode)
        return Player(reference=reference, served=served, simulation=simulation)

    def _begin(self) -> None:
        self._restart, self._break_left, self._push, self._step = False, 0.0, 0.0, 0
        self._pushes.clear()
        self._initial_world, self._swapped = self.players[0].simulation.world, False
        self._changes.clear()
        self.episode += 1
        if self._loop:
            self._loop.healing.begin_episode()
        for player in self.players:
            player.simulation.reset(self._seed)
            player.last, player.episodic_return = None, 0.0
        self._show_frame()
        self.audience.announce()

    def _advance(self) -> None:
        force, self._push = self._push, 0.0
        if force:
            self._pushes.append((self._step, force))
            self.audience.announce()
        for player in self.players:
            if player.simulation.over:
                continue
            policy = self._loop.policy(player.served) if self._loop else player.served.policy
            player.last = player.simulation.step(policy, force)
            if policy is player.served.policy:
                player.count(self._metrics, self._shadow)
            player.episodic_return = player.last.episodic_return
        first = self.players[0]
        if self._loop and first.last:
            self._loop.observe(first.served, self.episode, first.last)
        self._step += 1
        if all(player.simulation.over for player in self.players):
            drifting = self._loop is not None and self._loop.drifting
            self._break_left = _DRIFTING_BREAK_SECONDS if drifting else _BREAK_SECONDS
            for player in self.players:
                disturbed = bool(self._pushes or self._changes)
                self._metrics.episodes.labels("show").inc()
                if self._swapped:
                    continue  # two versions played it
                if not disturbed and player.simulation.world == player.served.policy.metadata.world:
                    player.history.append(player.episodic_return)
                version = player.served.version.number
                self._metrics.returns.observe(version, player.episodic_return, disturbed=disturbed)
            self.audience.announce()

    def _show_frame(self) -> None:
        self.frame = frame(self.players, episode=self.episode, step=self._step)
        self.audience.show(self.frame)
