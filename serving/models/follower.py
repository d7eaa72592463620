"""Which versions can be called: follows the registry and swaps the current one while requests run."""

import asyncio
import hashlib
import logging
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import Any, Final, TypeVar

from serving.deadlines import begin
from serving.disk import reason
from serving.errors import PolicyError, RegistryUnavailableError, UnknownModelError
from serving.models.advice import how_to_train
from serving.models.cache import Cache
from serving.models.served import Description, ServedModel
from serving.models.source import ModelSource, Snapshot, Version

_LOADED_LIMIT: Final = 8
_LOADS_AT_ONCE: Final = 2
_LOAD_SECONDS: Final = 10.0
_TRIAL_SECONDS: Final = 20.0
_FETCH_SECONDS: Final = 60.0
_FETCHES_AT_ONCE: Final = 8
_FAILED_SECONDS: Final = 5.0
_SLOWEST_POLL: Final = 10.0
_REFUSED_LIMIT: Final = 64
_LOG: Final = logging.getLogger("serving")

Listener = Callable[[], None]
T = TypeVar("T")
Identity = tuple[str, str, int, str]


class Models:
    """The current version, and others loaded on request. Lives on one event loop; blocking work runs in threads.

    `current` is replaced by one assignment: a request that read it keeps what it read. `clock` gives seconds.
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
        self.alias = alias
        self.current: ServedModel | None = None
        self.snapshot = Snapshot(aliases={}, versions={})
        self.notice = "looking for a model"
        self.disk_notice = ""
        """Why a fetched version could not be kept on the disk; empty if that never failed."""
        self.swaps = 0
        self.failed_swaps = 0
        self.errors = 0
        self.reachable: bool | None = None
        self.listeners: list[Listener] = []
        self.watched: Counter[str] = Counter()
        """Aliases and numbers beside the followed one that somebody watches: they are kept loaded as they move."""
        self._pinned = version
        self._reference = version or alias or ""
        self._cache = cache
        self._environments = environments
        self._poll_seconds = poll_seconds
        self._clock = clock
        self._loaded: OrderedDict[Identity, ServedModel] = OrderedDict()
        self._loading: dict[Identity, asyncio.Task[ServedModel]] = {}
        self._fetching: dict[Identity, Future[bytes]] = {}
        self._failed: OrderedDict[Identity, tuple[float, Exception]] = OrderedDict()
        self._refused: OrderedDict[tuple[Identity, str], str] = OrderedDict()
        self._refresh = asyncio.Event()
        self._seen: Snapshot | None = None
        self._seen_at: float | None = None
        self._failures = 0
        self._last_error = ""

    @property
    def name(self) -> str:
        """The registered model's name."""
        return self.source.name

    @property
    def registry_age(self) -> float | None:
        """Seconds since the registry last answered; None before it first did."""
        return None if self._seen_at is None else self._clock() - self._seen_at

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
        if version.identity not in self._loaded:
            return None
        self._loaded.move_to_end(version.identity)
        return self._loaded[version.identity]

    async def get(self, reference: str) -> ServedModel:
        """A version by number or alias, loaded if need be; a failure is remembered for some seconds.

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
        if version is None:
            raise UnknownModelError(
                f"model {self.name} has no version or alias '{reference[:80]}'{self._registered() or ', and no other'}"
            )
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
            raise RegistryUnavailableError(f"version {number} is still being fetched: ask again") from None

    def refresh(self) -> None:
        """Ask the registry now rather than at the next poll."""
        self._refresh.set()

    async def run(self) -> None:
        """Follow the registry until cancelled; the version that played last plays first."""
        await self.restore()
        while True:
            delay = self._poll_seconds if await self.poll() else self._backoff()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._refresh.wait(), delay)
            self._refresh.clear()

    async def restore(self) -> None:
        """Play what played last under this reference, from disk, before the registry is asked."""
        cache = self._cache
        if cache is None:
            return
        try:
            remembered = await _aside(cache.snapshot)
            self.snapshot = remembered or self.snapshot
            version = await _aside(cache.played, self._reference)
            content = await _aside(cache.read, version) if version else None
            if version is None or content is None:
                return
            self._play(await self._load(version, content))
            target = self.snapshot.aliases.get(self.alias or "", version.number)
            if target != version.number:
                self._note(f"version {version.number} played last and plays on; alias '{self.alias}' is at {target}")
        except OSError as error:
            self._disk_fails(cache, error)
        except Exception as error:  # whatever lies on the disk, the registry can still be followed
            self._count(error)

    async def poll(self) -> bool:
        """Ask the registry once and swap if the followed version moved; False if it is to be tried again soon."""
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
        except Exception as error:  # a follower that ended would leave every later promotion unheard
            self._count(error)
            what = "the last good version plays on" if self.current else "nothing plays"
            self._note(f"following the registry failed ({_describe(error)}); {what}, and it is tried again")
            settled = False
        self._failures = 0 if settled else self._failures + 1
        return settled

    async def _follow(self) -> bool:
        snapshot = await _aside(self.source.snapshot, self._seen)
        self._reach(True)
        if snapshot != self._seen:
            await self._on_disk(lambda cache: cache.remember(snapshot))
        self.snapshot = self._seen = snapshot
        known = {version.identity for version in snapshot.versions.values()}
        for identity in [identity for identity in self._loaded if identity not in known]:
            del self._loaded[identity]
        settled = await self._adopt()
        for reference in list(self.watched):
            with suppress(UnknownModelError, RegistryUnavailableError, ValueError):  # the one that played plays on
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
            served = await self._obtain(version)
        except RegistryUnavailableError as error:
            self._note(f"version {version.number} cannot be fetched ({error}); {self._who_plays()}")
            return False
        except ValueError as error:
            self._note(f"version {version.number} was refused: {error}; {self._who_plays()}")
            return False
        self._play(served)
        await self._on_disk(lambda cache: cache.remember_played(self._reference, version))
        _LOG.info("swapped", extra={"model": self.name, "version": version.number, "sha256": served.sha256})
        return True

    def _play(self, served: ServedModel) -> None:
        self.current = served
        self._keep(served)
        self.swaps += 1
        self.notice = ""
        self._tell()

    async def _obtain(self, version: Version) -> ServedModel:
        """A version from disk or from the registry, kept on disk once it was accepted.

        A refusal is of these bytes: they are read again at every poll, for they may have been repaired.
        """
        if served := self._loaded.get(version.identity):
            return served
        if self._cache and (content := await self._read_copy(version)) is not None:
            with suppress(PolicyError):  # accepted once, no longer: what the registry has now decides
                return await self._load(version, content)
        try:
            content = await self._fetch(version)
        except ValueError as error:
            self._refuse(version, str(error), error)
            raise
        digest = hashlib.sha256(content).hexdigest()
        if reason := self._refused.get((version.identity, digest)):
            raise PolicyError(reason)
        try:
            served = await self._load(version, content)
        except PolicyError as error:
            self._refuse(version, digest, error)
            raise
        await self._on_disk(lambda cache: cache.keep(version, content))
        return served

    async def _fetch(self, version: Version) -> bytes:
        """A version's bytes; a download that hangs is waited for again at the next look, and not begun anew."""
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

    async def _load(self, version: Version, content: bytes) -> ServedModel:
        load = partial(ServedModel.load, self.name, version, content, environments=self._environments)
        try:
            async with asyncio.timeout(_TRIAL_SECONDS) as limit:
                return await _aside(load)
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise PolicyError(f"loading and trying it took more than {_TRIAL_SECONDS:g} s") from error

    async def _load_for_requests(self, version: Version) -> ServedModel:
        try:
            served = await self._obtain(version)
        except Exception as error:
            failure = error if isinstance(error, ValueError) else RegistryUnavailableError(_describe(error))
            self._failed[version.identity] = (self._clock() + _FAILED_SECONDS, failure)
            while len(self._failed) > _REFUSED_LIMIT:
                self._failed.popitem(last=False)
            raise failure from error
        self._keep(served)
        return served

    def _loaded_for_requests(self, version: Version, task: asyncio.Task[ServedModel]) -> None:
        del self._loading[version.identity]
        if not task.cancelled():
            task.exception()  # seen here, for the last who waited may have given up

    def _refuse(self, version: Version, what: str, error: ValueError) -> None:
        if (version.identity, what) in self._refused:
            return
        self._refused[version.identity, what] = str(error)
        while len(self._refused) > _REFUSED_LIMIT:
            self._refused.popitem(last=False)
        self.failed_swaps += 1
        _LOG.error("version refused", extra={"version": version.number, "reason": str(error)})

    async def _read_copy(self, version: Version) -> bytes | None:
        assert self._cache
        try:
            return await _aside(self._cache.read, version)
        except OSError as error:  # the registry can still be read
            self._disk_fails(self._cache, error)
            return None

    async def _on_disk(self, write: Callable[[Cache], None]) -> None:
        """Write to the cache if it can be written to: a full disk costs the copy, not the swap."""
        if self._cache is None:
            return
        try:
            await _aside(write, self._cache)
        except OSError as error:
            self._disk_fails(self._cache, error)

    def _keep(self, served: ServedModel) -> None:
        self._loaded[served.version.identity] = served
        self._loaded.move_to_end(served.version.identity)
        while len(self._loaded) > _LOADED_LIMIT:
            self._loaded.popitem(last=False)

    def _backoff(self) -> float:
        return float(min(self._poll_seconds * 2 ** min(self._failures - 1, 8), max(_SLOWEST_POLL, self._poll_seconds)))

    def _who_plays(self) -> str:
        return f"version {self.current.version.number} plays on" if self.current else "nothing plays"

    def _registered(self) -> str:
        """The versions there are, each with its aliases, as the end of a sentence."""
        numbers = sorted(self.snapshot.versions, key=int)
        named = [" ".join([number, *(f"@{alias}" for alias in self.aliases_of(number))]) for number in numbers]
        return f" but {', '.join(named)}" if named else ""

    def _how_to_begin(self, what: str) -> str:
        alias = self.alias or "champion"
        return f"{what}: {how_to_train(self.name)}, or set the alias '{alias}' on a version"

    def _count(self, error: Exception) -> None:
        self.errors += 1
        if _describe(error) != self._last_error:  # once, however often it repeats
            self._last_error = _describe(error)
            _LOG.error("following the registry failed", exc_info=error)

    def _disk_fails(self, cache: Cache, error: OSError) -> None:
        self.errors += 1
        sentence = (
            f"fetched versions cannot be kept in {cache.folder.absolute()} ({reason(error)}): make room there, or name "
            "another --cache-dir; what plays plays on, and is fetched anew after a restart"
        )
        if sentence != self.disk_notice:
            self.disk_notice = sentence
            _LOG.warning(sentence)

    def _reach(self, reachable: bool) -> None:
        if reachable:
            self._seen_at = self._clock()
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


async def _aside(function: Callable[..., T], *arguments: Any) -> T:
    """The function's result, from a thread that does not hold up the end of the process."""
    return await asyncio.wrap_future(begin(partial(function, *arguments)))


def _describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:200] if not isinstance(error, RegistryUnavailableError) else str(error)
