"""Turns a version into a model that may play: fetches its bytes, checks them, and bounds the time that both take."""

import asyncio
import hashlib
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Collection
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import Any, Final, TypeVar

from serving.deadlines import begin
from serving.disk import reason
from serving.errors import PolicyError, RegistryUnavailableError
from serving.models.cache import Cache
from serving.models.served import ServedModel
from serving.models.source import Identity, ModelSource, Version

_LOADED_LIMIT: Final = 8
_LOADS_AT_ONCE: Final = 2
_LOAD_SECONDS: Final = 10.0
_TRIAL_SECONDS: Final = 20.0
_FETCH_SECONDS: Final = 60.0
_FETCHES_AT_ONCE: Final = 8
_FAILED_SECONDS: Final = 5.0
_REFUSED_LIMIT: Final = 64
_LOG: Final = logging.getLogger("serving")

T = TypeVar("T")


class Loader:
    """Loads versions from the disk or from the source, and keeps those used last. Belongs to one event loop."""

    def __init__(
        self,
        source: ModelSource,
        *,
        cache: Cache | None = None,
        environments: frozenset[str] = frozenset(),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.source = source
        self.refusals = 0
        """Artifacts that were refused, each counted once."""
        self.listeners: list[Callable[[Version, str], None]] = []
        """Called for each of them, with the reason."""
        self.disk_errors = 0
        self.disk_notice = ""
        """Why a fetched version could not be kept on the disk; empty if that never failed."""
        self._cache = cache
        self._environments = environments
        self._clock = clock
        self._loaded: OrderedDict[Identity, ServedModel] = OrderedDict()
        self._loading: dict[Identity, asyncio.Task[ServedModel]] = {}
        self._fetching: dict[Identity, Future[bytes]] = {}
        self._failed: OrderedDict[Identity, tuple[float, Exception]] = OrderedDict()
        self._refused: OrderedDict[tuple[Identity, str], str] = OrderedDict()

    def peek(self, version: Version) -> ServedModel | None:
        """The version if it is loaded; it then counts as the one used last."""
        if version.identity not in self._loaded:
            return None
        self._loaded.move_to_end(version.identity)
        return self._loaded[version.identity]

    def keep(self, served: ServedModel) -> None:
        """Keep a loaded version in the place of the one that was not used for longest."""
        self._loaded[served.version.identity] = served
        self._loaded.move_to_end(served.version.identity)
        while len(self._loaded) > _LOADED_LIMIT:
            self._loaded.popitem(last=False)

    def keep_only(self, known: Collection[Identity]) -> None:
        """Drop the loaded versions that the registry no longer has."""
        for identity in [identity for identity in self._loaded if identity not in known]:
            del self._loaded[identity]

    async def get(self, version: Version) -> ServedModel:
        """A version for a request; a failure is repeated for some seconds without another attempt.

        Raises:
            RegistryUnavailableError, ValueError: if it cannot be fetched now or is refused.
        """
        if served := self.peek(version):
            return served
        until, failure = self._failed.get(version.identity, (0.0, None))
        if failure and self._clock() < until:
            raise failure.with_traceback(None)
        loading = self._loading.get(version.identity)
        if loading is None:
            if len(self._loading) >= _LOADS_AT_ONCE:
                raise RegistryUnavailableError(f"{_LOADS_AT_ONCE} versions are being loaded already: ask again")
            loading = asyncio.create_task(self._load_for_requests(version))
            self._loading[version.identity] = loading
            loading.add_done_callback(lambda task: self._loaded_for_requests(version, task))
        try:
            async with asyncio.timeout(_LOAD_SECONDS):
                return await asyncio.shield(loading)
        except TimeoutError:
            raise RegistryUnavailableError(f"version {version.number} is still being fetched: ask again") from None

    async def obtain(self, version: Version) -> ServedModel:
        """A version from the disk or from the registry; its bytes are kept on the disk once they are accepted.

        A refused version is fetched again at every poll, because its artifact may have been repaired. Bytes that were
        refused before are not loaded again.

        Raises:
            RegistryUnavailableError, ValueError: if it cannot be fetched now or is refused.
        """
        if served := self.peek(version):
            return served
        if (content := await self.from_disk(lambda cache: cache.read(version))) is not None:
            with suppress(PolicyError):  # the copy was accepted once but is not now: fetch what the registry has
                return await self.load(version, content)
        try:
            content = await self._fetch(version)
        except ValueError as error:
            self._refuse(version, str(error), error)
            raise
        digest = hashlib.sha256(content).hexdigest()
        if why := self._refused.get((version.identity, digest)):
            raise PolicyError(why)
        try:
            served = await self.load(version, content)
        except PolicyError as error:
            self._refuse(version, digest, error)
            raise
        await self.from_disk(lambda cache: cache.keep(version, content))
        return served

    async def load(self, version: Version, content: bytes) -> ServedModel:
        """Check a version's bytes and try the model.

        Raises:
            PolicyError: if it is refused, or if the trial takes too long.
        """
        load = partial(ServedModel.load, self.source.name, version, content, environments=self._environments)
        try:
            async with asyncio.timeout(_TRIAL_SECONDS) as limit:
                return await in_thread(load)
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise PolicyError(f"loading and trying it took more than {_TRIAL_SECONDS:g} s") from error

    async def from_disk(self, use: Callable[[Cache], T]) -> T | None:
        """The result of reading or writing the cache; None without a cache, or if its disk fails.

        A full disk costs the copy, not the swap.
        """
        if self._cache is None:
            return None
        try:
            return await in_thread(use, self._cache)
        except OSError as error:
            self._disk_fails(self._cache, error)
            return None

    async def _fetch(self, version: Version) -> bytes:
        """A version's bytes. If a download hangs, the next call waits for the same download."""
        if version.identity not in self._fetching:
            if len(self._fetching) >= _FETCHES_AT_ONCE:
                raise RegistryUnavailableError(f"{_FETCHES_AT_ONCE} versions are being fetched already: ask again")
            self._fetching[version.identity] = begin(partial(self.source.fetch, version))
        fetching = self._fetching[version.identity]
        try:
            async with asyncio.timeout(_FETCH_SECONDS):
                return await asyncio.wrap_future(fetching)
        except TimeoutError as error:
            if fetching.done():
                raise
            raise RegistryUnavailableError(f"it was not there within {_FETCH_SECONDS:g} s") from error
        finally:
            if fetching.done() and self._fetching.get(version.identity) is fetching:
                del self._fetching[version.identity]

    async def _load_for_requests(self, version: Version) -> ServedModel:
        try:
            served = await self.obtain(version)
        except Exception as error:
            failure = error if isinstance(error, ValueError) else RegistryUnavailableError(describe(error))
            self._failed[version.identity] = (self._clock() + _FAILED_SECONDS, failure)
            while len(self._failed) > _REFUSED_LIMIT:
                self._failed.popitem(last=False)
            raise failure from error
        self.keep(served)
        return served

    def _loaded_for_requests(self, version: Version, task: asyncio.Task[ServedModel]) -> None:
        del self._loading[version.identity]
        if not task.cancelled():
            task.exception()  # marks it as retrieved: every request that waited may have timed out

    def _refuse(self, version: Version, what: str, error: ValueError) -> None:
        if (version.identity, what) in self._refused:
            return
        self._refused[version.identity, what] = str(error)
        while len(self._refused) > _REFUSED_LIMIT:
            self._refused.popitem(last=False)
        self.refusals += 1
        _LOG.error("version refused", extra={"version": version.number, "reason": str(error)})
        for listener in self.listeners:
            listener(version, str(error))

    def _disk_fails(self, cache: Cache, error: OSError) -> None:
        self.disk_errors += 1
        sentence = (
            f"fetched versions cannot be kept in {cache.folder.absolute()} ({reason(error)}): make room there, or name "
            "another --cache-dir; what plays plays on, and is fetched anew after a restart"
        )
        if sentence != self.disk_notice:
            self.disk_notice = sentence
            _LOG.warning(sentence)


async def in_thread(function: Callable[..., T], *arguments: Any) -> T:
    """The function's result, from a thread that does not delay the end of the process."""
    return await asyncio.wrap_future(begin(partial(function, *arguments)))


def describe(error: BaseException) -> str:
    """An unforeseen error in at most 200 characters; the registry's own sentence as it is."""
    return f"{type(error).__name__}: {error}"[:200] if not isinstance(error, RegistryUnavailableError) else str(error)
