"""Follows the registry: swaps the current version while requests run, and finds others by number or alias."""

import asyncio
import logging
import time
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from serving.errors import RegistryUnavailableError, UnknownModelError
from serving.models.advice import how_to_train
from serving.models.cache import Cache
from serving.models.loader import Loader, describe, in_thread
from serving.models.served import Description, ServedModel
from serving.models.source import ModelSource, Snapshot

_SLOWEST_POLL: Final = 10.0
_KEPT_SWAPS: Final = 20
_LOG: Final = logging.getLogger("serving")

Listener = Callable[[], None]


class Models:
    """The current version, and others loaded on request. Belongs to one event loop; blocking work runs in threads.

    `current` is replaced by one assignment: a request that has read it keeps what it read. `clock` gives seconds.
    """

    def __init__(
        self,
        source: ModelSource,
        *,
        alias: str | None,
        version: str | None,
        cache: Cache | None = None,
        environments: frozenset[str] = frozenset(),
        poll_seconds: float = 2.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.source = source
        self.loader = Loader(source, cache=cache, environments=environments, clock=clock)
        self.alias = alias
        self.current: ServedModel | None = None
        self.snapshot = Snapshot(aliases={}, versions={})
        self.notice = "looking for a model"
        self.swaps = 0
        self.played: deque[tuple[float, str]] = deque(maxlen=_KEPT_SWAPS)
        """Seconds since 1970 and the version, of each swap."""
        self.reachable: bool | None = None
        self.listeners: list[Listener] = []
        self.watched: Counter[str] = Counter()
        """Aliases and numbers that shows play beside the followed one; they are loaded again when they move."""
        self._pinned = version
        self._reference = version or alias or ""
        self._poll_seconds = poll_seconds
        self._clock = clock
        self._refresh = asyncio.Event()
        self._answer: Snapshot | None = None
        self._answered_at: float | None = None
        self._errors = 0
        self._failures = 0
        self._last_error = ""

    @property
    def name(self) -> str:
        """The registered model's name."""
        return self.source.name

    @property
    def registry_age(self) -> float | None:
        """Seconds since the registry last answered; None before it first did."""
        return None if self._answered_at is None else self._clock() - self._answered_at

    @property
    def failed_swaps(self) -> int:
        """Artifacts that were refused, each counted once."""
        return self.loader.refusals

    @property
    def errors(self) -> int:
        """Unforeseen failures, and failures of the disk."""
        return self._errors + self.loader.disk_errors

    def aliases_of(self, number: str) -> list[str]:
        """The aliases that point to a version; the followed one to the version that plays under it."""
        aliases = [alias for alias, target in self.snapshot.aliases.items() if target == number and alias != self.alias]
        if self.alias and self.current and self.current.version.number == number:
            aliases.insert(0, self.alias)
        return aliases

    def describe(self, served: ServedModel) -> Description:
        """A served version as the page and the API show it."""
        metadata, version = served.policy.metadata, served.version
        return Description(
            version=version.number,
            aliases=self.aliases_of(version.number),
            env_id=metadata.env_id,
            world=str(metadata.world),
            action_meanings=metadata.action_meanings,
            run_id=metadata.run_id,
            experiment_id=version.experiment_id,
            seed=metadata.seed,
            sha256=served.sha256,
            tags=dict(version.tags),
        )

    def peek(self, reference: str) -> ServedModel | None:
        """A loaded version by number or alias, or None."""
        current = self.current
        if current and reference == self.alias:
            return current
        number = self.snapshot.aliases.get(reference, reference)
        version = self.snapshot.versions.get(number)
        if current and current.version.number == number and version is None:
            return current
        if version is None:
            return None
        if current and current.version.identity == version.identity:
            return current
        return self.loader.peek(version)

    async def get(self, reference: str) -> ServedModel:
        """A version by number or alias, loaded if it is not yet.

        Raises:
            UnknownModelError: if there is no such version or alias.
            RegistryUnavailableError, ValueError: if it cannot be fetched now or is refused.
        """
        if served := self.peek(reference):
            return served
        if reference == self.alias:
            raise RegistryUnavailableError(f"no version of {self.name} is ready: {self.notice}")
        number = self.snapshot.aliases.get(reference, reference)
        version = self.snapshot.versions.get(number)
        if version is None and self.reachable is None:
            raise RegistryUnavailableError(f"the registry has not yet answered what '{reference[:80]}' is")
        if version is None:
            raise UnknownModelError(
                f"model {self.name} has no version or alias '{reference[:80]}'{self._registered() or ', and no other'}"
            )
        return await self.loader.get(version)

    def refresh(self) -> None:
        """Ask the registry now rather than at the next poll."""
        self._refresh.set()

    async def run(self) -> None:
        """Follow the registry until cancelled, beginning with the version that played last."""
        await self.restore()
        while True:
            delay = self._poll_seconds if await self.poll() else self._backoff()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._refresh.wait(), delay)
            self._refresh.clear()

    async def restore(self) -> None:
        """Play the version that played last under this reference, from the disk, before the registry is asked."""
        try:
            remembered = await self.loader.from_disk(lambda cache: cache.snapshot())
            self.snapshot = remembered or self.snapshot
            version = await self.loader.from_disk(lambda cache: cache.played(self._reference))
            content = await self.loader.from_disk(lambda cache: cache.read(version)) if version else None
            if version is None or content is None:
                return
            self._play(await self.loader.load(version, content))
            target = self.snapshot.aliases.get(self.alias or "", version.number)
            if target != version.number:
                self._note(f"version {version.number} played last and plays on; alias '{self.alias}' is at {target}")
        except Exception as error:  # whatever the disk holds, the registry can still be followed
            self._count(error)

    async def poll(self) -> bool:
        """Ask the registry once and swap if the followed version moved; False if the next poll is to come sooner."""
        try:
            settled = await self._follow()
        except UnknownModelError as error:
            self._reach(True)
            self._note(
                self._how_to_begin(str(error)) if self.current is None else f"{error}; the last good copy plays on"
            )
            settled = True
        except RegistryUnavailableError as error:
            self._reach(False)
            what = "the last good copy plays on" if self.current else "nothing to play until it answers"
            self._note(f"the registry does not answer ({error}); {what}")
            settled = False
        except Exception as error:  # a follower that ended would miss every later promotion
            self._count(error)
            what = "the last good version plays on" if self.current else "nothing plays"
            self._note(f"following the registry failed ({describe(error)}); {what}, and it is tried again")
            settled = False
        self._failures = 0 if settled else self._failures + 1
        return settled

    async def _follow(self) -> bool:
        snapshot = await in_thread(self.source.snapshot, self._answer)
        self._reach(True)
        if snapshot != self._answer:
            await self.loader.from_disk(lambda cache: cache.remember(snapshot))
        self.snapshot = self._answer = snapshot
        known = {version.identity for version in snapshot.versions.values()}
        self.loader.keep_only(known)
        settled = await self._adopt()
        for reference in list(self.watched):
            with suppress(UnknownModelError, RegistryUnavailableError, ValueError):  # the show keeps its version
                await self.get(reference)
        return settled

    async def _adopt(self) -> bool:
        number = self._pinned or self.snapshot.aliases.get(self.alias or "")
        version = self.snapshot.versions.get(number or "")
        current = self.current
        if version is None:
            wanted = f"version {self._pinned}" if self._pinned else f"alias '{self.alias}'"
            missing = f"model {self.name} has no {wanted}{self._registered()}"
            self._note(f"{missing}; the last good version plays on" if current else self._how_to_begin(missing))
            return True
        if current and current.version.identity == version.identity:
            self._note("")
            return True
        try:
            served = await self.loader.obtain(version)
        except RegistryUnavailableError as error:
            self._note(f"version {version.number} cannot be fetched ({error}); {self._what_plays()}")
            return False
        except ValueError as error:
            self._note(f"version {version.number} was refused: {error}; {self._what_plays()}")
            return False
        self._play(served)
        await self.loader.from_disk(lambda cache: cache.remember_played(self._reference, version))
        _LOG.info("swapped", extra={"model": self.name, "version": version.number, "sha256": served.sha256})
        return True

    def _play(self, served: ServedModel) -> None:
        self.current = served
        self.loader.keep(served)
        self.swaps += 1
        self.played.append((time.time(), served.version.number))
        self.notice = ""
        self._tell()

    def _backoff(self) -> float:
        return float(min(self._poll_seconds * 2 ** min(self._failures - 1, 8), max(_SLOWEST_POLL, self._poll_seconds)))

    def _what_plays(self) -> str:
        return f"version {self.current.version.number} plays on" if self.current else "nothing plays"

    def _registered(self) -> str:
        """The registered versions, each with its aliases, as the end of a sentence."""
        numbers = sorted(self.snapshot.versions, key=int)
        named = [" ".join([number, *(f"@{alias}" for alias in self.aliases_of(number))]) for number in numbers]
        return f" but {', '.join(named)}" if named else ""

    def _how_to_begin(self, what: str) -> str:
        alias = self.alias or "champion"
        return f"{what}: {how_to_train(self.name)}, or set the alias '{alias}' on a version"

    def _count(self, error: Exception) -> None:
        self._errors += 1
        if describe(error) != self._last_error:  # log it once, however often it repeats
            self._last_error = describe(error)
            _LOG.error("following the registry failed", exc_info=error)

    def _reach(self, reachable: bool) -> None:
        if reachable:
            self._answered_at = self._clock()
        if reachable != self.reachable:
            self.reachable = reachable
            _LOG.log(
                logging.INFO if reachable else logging.WARNING, "registry %s", "answers" if reachable else "unreachable"
            )

    def _note(self, notice: str) -> None:
        if notice != self.notice:
            self.notice = notice
            if notice:
                _LOG.warning(notice)
            self._tell()

    def _tell(self) -> None:
        for listener in self.listeners:
            listener()
