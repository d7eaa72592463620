"""Which versions are on stage: follows the registry and swaps the current one while requests run."""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from serving.models.registry import ModelSource, RegistryUnavailableError, ServedModel, Snapshot, UnknownModelError

_LOADED_LIMIT: Final = 8
_LOG: Final = logging.getLogger("serving")

Listener = Callable[[], None]


class Models:
    """The current version, and others loaded on request. Lives on one event loop; blocking work runs in threads.

    `current` is replaced by one assignment: a request that read it keeps what it read.
    """

    def __init__(
        self, source: ModelSource, *, alias: str | None, version: str | None, poll_seconds: float = 2.0
    ) -> None:
        self.source = source
        self.alias = alias
        self.current: ServedModel | None = None
        self.snapshot = Snapshot(aliases={}, versions={})
        self.notice = "looking for a model"
        self.swaps = 0
        self.failed_swaps = 0
        self.reachable: bool | None = None
        self.listeners: list[Listener] = []
        self._pinned = version
        self._poll_seconds = poll_seconds
        self._loaded: OrderedDict[str, ServedModel] = OrderedDict()
        self._refused: set[tuple[str, str]] = set()
        self._lock = asyncio.Lock()
        self._refresh = asyncio.Event()
        self._seen: Snapshot | None = None

    @property
    def name(self) -> str:
        """The registered model's name."""
        return self.source.name

    def aliases_of(self, number: str) -> list[str]:
        """The aliases that point to a version; the followed one to the version that plays under it."""
        aliases = [alias for alias, target in self.snapshot.aliases.items() if target == number and alias != self.alias]
        if self.alias and self.current and self.current.version.number == number:
            aliases.insert(0, self.alias)
        return aliases

    def peek(self, reference: str) -> ServedModel | None:
        """A loaded version by number or alias, or None."""
        current = self.current
        if current and reference in (self.alias, current.version.number):
            return current
        return self._loaded.get(self.snapshot.aliases.get(reference, reference))

    async def get(self, reference: str) -> ServedModel:
        """A version by number or alias, loaded if need be.

        Raises:
            UnknownModelError: if there is no such version or alias.
            RegistryUnavailableError, ValueError: if it cannot be fetched or breaks the contract.
        """
        if served := self.peek(reference):
            return served
        if reference == self.alias:
            raise RegistryUnavailableError(f"no version of {self.name} is ready: {self.notice}")
        number = self.snapshot.aliases.get(reference, reference)
        version = self.snapshot.versions.get(number)
        if version is None:
            known = [*self.snapshot.aliases, *self.snapshot.versions]
            raise UnknownModelError(
                f"model {self.name} has no version or alias '{reference[:80]}'; there are: {', '.join(known) or 'none'}"
            )
        async with self._lock:
            if served := self._loaded.get(number):
                return served
            path = await asyncio.to_thread(self.source.fetch, version)
            served = await asyncio.to_thread(ServedModel.load, self.name, version, path)
            self._keep(served)
            return served

    def refresh(self) -> None:
        """Ask the registry now rather than at the next poll."""
        self._refresh.set()

    async def run(self) -> None:
        """Follow the registry until cancelled; the last good copy on disk plays first."""
        if remembered := await asyncio.to_thread(self.source.remembered):
            await self._adopt(remembered)
        while True:
            await self.poll()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._refresh.wait(), self._poll_seconds)
            self._refresh.clear()

    async def poll(self) -> None:
        """Ask the registry once and swap if the followed version moved."""
        try:
            snapshot = await asyncio.to_thread(self.source.snapshot, self._seen)
        except UnknownModelError as error:
            self._reach(True)
            self._note(
                self._how_to_begin(str(error)) if self.current is None else f"{error}; the last good copy plays on"
            )
        except RegistryUnavailableError as error:
            self._reach(False)
            what = "the last good copy plays on" if self.current else "nothing to play until it answers"
            self._note(f"the registry does not answer ({error}); {what}")
        else:
            self._reach(True)
            self._seen = snapshot
            await self._adopt(snapshot)

    async def _adopt(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        number = self._pinned or snapshot.aliases.get(self.alias or "")
        version = snapshot.versions.get(number or "")
        current = self.current
        if version is None:
            wanted = f"version {self._pinned}" if self._pinned else f"alias '{self.alias}'"
            missing = f"model {self.name} has no {wanted}"
            self._note(f"{missing}; the last good version plays on" if current else self._how_to_begin(missing))
            return
        if current and (current.version.number, current.version.source) == (version.number, version.source):
            self._note("")
            return
        if (version.number, version.source) in self._refused:
            return
        try:
            async with self._lock:
                path = await asyncio.to_thread(self.source.fetch, version)
                served = await asyncio.to_thread(ServedModel.load, self.name, version, path)
        except RegistryUnavailableError as error:
            self._note(f"version {version.number} cannot be fetched ({error})")
            return
        except (ValueError, OSError) as error:
            self._refused.add((version.number, version.source))
            self.failed_swaps += 1
            what = f"version {current.version.number} plays on" if current else "nothing plays"
            _LOG.error("swap refused", extra={"version": version.number, "reason": str(error)})
            self._note(f"version {version.number} was refused: {error}; {what}")
            return
        self.current = served
        self._keep(served)
        self.swaps += 1
        _LOG.info("swapped", extra={"model": self.name, "version": version.number, "sha256": served.sha256})
        self.notice = ""
        self._tell()

    def _keep(self, served: ServedModel) -> None:
        self._loaded[served.version.number] = served
        self._loaded.move_to_end(served.version.number)
        while len(self._loaded) > _LOADED_LIMIT:
            self._loaded.popitem(last=False)

    def _how_to_begin(self, what: str) -> str:
        alias = self.alias or "champion"
        advice = f"run `make train` to train and promote one, or set the alias '{alias}' on a version"
        return f"{what}: {advice}; the show starts by itself"

    def _reach(self, reachable: bool) -> None:
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
