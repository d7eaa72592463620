"""The Open Inference Protocol's endpoints as ASGI callables: lean, for they are what is called most."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final

import orjson
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from serving.inference import protocol
from serving.inference.protocol import HEADER_LENGTH, ProtocolError
from serving.models.follower import Models
from serving.models.registry import UnknownModelError
from serving.models.served import ServedModel
from serving.web.answers import send_json
from serving.web.bodies import compress, read_body
from serving.web.metrics import Metrics

SERVER: Final = {"name": "dqn-pipeline", "version": "0.1.0", "extensions": list(protocol.EXTENSIONS)}
_INLINE_BYTES: Final = 16 << 10
_WAITING_LIMIT: Final = 32
Handler = Callable[[Scope, Receive, Send], Awaitable[None]]


@dataclass
class _Statistics:
    """Counts and nanoseconds of one version since start, as the statistics extension wants them."""

    inferences: int = 0
    executions: int = 0
    last_ms: int = 0
    times: dict[str, list[int]] = field(
        default_factory=lambda: {
            name: [0, 0] for name in ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output")
        }
    )

    def add(self, name: str, nanoseconds: int) -> None:
        entry = self.times[name]
        entry[0] += 1
        entry[1] += nanoseconds

    def to_json(self, model: str, version: str) -> dict[str, Any]:
        return {
            "name": model,
            "version": version,
            "last_inference": self.last_ms,
            "inference_count": self.inferences,
            "execution_count": self.executions,
            "inference_stats": {name: {"count": count, "ns": ns} for name, (count, ns) in self.times.items()},
            "batch_stats": [],
        }


@dataclass(frozen=True, slots=True)
class _Work:
    """An answer, and when its parts were done, in nanoseconds of `perf_counter_ns`."""

    rows: int
    parsed: int
    inferred: int
    answer: bytes
    json_length: int | None
    encoding: bytes


@dataclass(frozen=True, slots=True)
class _Endpoint:
    """A bound method as an ASGI application, for starlette takes methods for functions of a Request."""

    handle: Handler

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        return self.handle(scope, receive, send)


class InferenceAPI:
    """Every /v2 route of one models."""

    def __init__(self, models: Models, metrics: Metrics, *, body_seconds: float = 10.0) -> None:
        self._models = models
        self._metrics = metrics
        self._body_seconds = body_seconds
        self._statistics: dict[str, _Statistics] = {}
        self._working = asyncio.Semaphore(1)  # the processor is one resource: two at once would each take twice as long
        self._waiting = 0

    def routes(self) -> list[BaseRoute]:
        """Routes, the busiest first."""
        table: list[tuple[str, str, Handler]] = [
            ("/v2/models/{model}/infer", "POST", self.infer),
            ("/v2/models/{model}/versions/{version}/infer", "POST", self.infer),
            ("/v2/health/live", "GET", self.live),
            ("/v2/health/ready", "GET", self.ready),
            ("/v2", "GET", self.server),
            ("/v2/", "GET", self.server),
            ("/v2/repository/index", "POST", self.index),
            ("/v2/models/stats", "GET", self.statistics),
        ]
        for path in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
            table += [
                (path, "GET", self.metadata),
                (f"{path}/ready", "GET", self.model_ready),
                (f"{path}/config", "GET", self.config),
                (f"{path}/stats", "GET", self.statistics),
            ]
        return [Route(path, _Endpoint(handle), methods=[method]) for path, method, handle in table]

    async def infer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Q-values and greedy actions of a batch of observations."""
        started = time.perf_counter_ns()
        body = await read_body(scope, receive, seconds=self._body_seconds)
        served = await self._find(scope)
        given = dict(scope["headers"])
        header_length = given[HEADER_LENGTH].decode("latin-1") if HEADER_LENGTH in given else None
        accepted = given.get(b"accept-encoding", b"")
        number = served.version.number
        statistics = self._statistics.get(number) or self._statistics.setdefault(number, _Statistics())
        try:
            if len(body) <= _INLINE_BYTES:
                work = self._compute(served, body, header_length, accepted)
            else:
                work = await self._compute_aside(served, body, header_length, accepted)
        except ProtocolError:
            statistics.add("fail", time.perf_counter_ns() - started)
            raise
        answered = time.perf_counter_ns()
        statistics.inferences += work.rows
        statistics.executions += 1
        statistics.last_ms = time.time_ns() // 1_000_000
        statistics.add("success", answered - started)
        statistics.add("compute_input", work.parsed - started)
        statistics.add("compute_infer", work.inferred - work.parsed)
        statistics.add("compute_output", answered - work.inferred)
        self._metrics.requests.inference.observe((work.inferred - work.parsed) / 1e9)
        headers = [(b"content-length", str(len(work.answer)).encode()), (b"vary", b"accept-encoding")]
        if work.json_length is None:
            headers.append((b"content-type", b"application/json"))
        else:
            headers.append((b"content-type", b"application/octet-stream"))
            headers.append((HEADER_LENGTH, str(work.json_length).encode()))
        if work.encoding:
            headers.append((b"content-encoding", work.encoding))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": work.answer})

    def _compute(self, served: ServedModel, body: bytes, header_length: str | None, accepted: bytes) -> _Work:
        request = protocol.parse_infer(body, header_length, served.policy.metadata.observation_size)
        parsed = time.perf_counter_ns()
        q_values = served.policy.q_values(request.observation)
        inferred = time.perf_counter_ns()
        answer, json_length = protocol.answer_infer(
            request, q_values, model=self._models.name, version=served.version.number
        )
        answer, encoding = compress(answer, accepted)
        return _Work(len(q_values), parsed, inferred, answer, json_length, encoding)

    async def _compute_aside(
        self, served: ServedModel, body: bytes, header_length: str | None, accepted: bytes
    ) -> _Work:
        """In a thread: what takes milliseconds would hold up everybody else's requests and the show."""
        if self._waiting >= _WAITING_LIMIT:
            raise ProtocolError(f"{_WAITING_LIMIT} large requests wait already: ask again in a second", 503)
        self._waiting += 1
        try:
            async with self._working:
                return await asyncio.to_thread(self._compute, served, body, header_length, accepted)
        finally:
            self._waiting -= 1

    async def server(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Server metadata."""
        await send_json(send, SERVER)

    async def live(self, scope: Scope, receive: Receive, send: Send) -> None:
        """200 while the process runs."""
        await send_json(send, {"live": True})

    async def ready(self, scope: Scope, receive: Receive, send: Send) -> None:
        """200 once a version plays."""
        if self._models.current is None:
            await send_json(send, {"error": f"not ready: {self._models.notice}"}, 503)
        else:
            await send_json(send, {"ready": True})

    async def model_ready(self, scope: Scope, receive: Receive, send: Send) -> None:
        """200 if the version can be called."""
        served = await self._find(scope)
        await send_json(send, {"name": self._models.name, "version": served.version.number, "ready": True})

    async def metadata(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Inputs, outputs, versions."""
        served = await self._find(scope)
        versions = sorted(self._models.snapshot.versions, key=int)
        await send_json(send, protocol.model_metadata(self._models.name, versions, served.policy.metadata))

    async def config(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The model configuration extension."""
        served = await self._find(scope)
        await send_json(send, protocol.model_config(self._models.name, served.policy.metadata))

    async def statistics(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The statistics extension: of one version, of the model, or of all."""
        numbers = sorted(self._statistics, key=int)
        if "version" in scope.get("path_params", {}):
            numbers = [(await self._find(scope)).version.number]
        elif "model" in scope.get("path_params", {}):
            self._check_name(scope)
        empty = _Statistics()
        stats = [self._statistics.get(number, empty).to_json(self._models.name, number) for number in numbers]
        await send_json(send, {"model_stats": stats})

    async def index(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The repository index: every known version, READY if it is loaded."""
        body = await read_body(scope, receive, seconds=self._body_seconds)
        try:
            wanted = orjson.loads(body or b"{}")
        except orjson.JSONDecodeError as error:
            raise ProtocolError(f"the request is not valid JSON: {error}") from error
        only_ready = wanted.get("ready", False) if isinstance(wanted, dict) else None
        if type(only_ready) is not bool:
            raise ProtocolError("the request must be an object; 'ready' must be true or false")
        entries = []
        for number in sorted(self._models.snapshot.versions, key=int):
            ready = self._models.peek(number) is not None
            reason = "" if ready else "loaded when it is first called"
            entry = {
                "name": self._models.name,
                "version": number,
                "state": "READY" if ready else "UNAVAILABLE",
                "reason": reason,
            }
            if ready or not only_ready:
                entries.append(entry)
        await send_json(send, entries)

    async def _find(self, scope: Scope) -> ServedModel:
        self._check_name(scope)
        reference = scope["path_params"].get("version", "")
        served = self._models.peek(reference) if reference else self._models.current
        if served is None and reference:
            served = await self._models.get(reference)
        if served is None:
            raise ProtocolError(f"not ready: {self._models.notice}", 503)
        return served

    def _check_name(self, scope: Scope) -> None:
        name = scope["path_params"]["model"]
        if name != self._models.name:
            raise UnknownModelError(f"there is no model '{name[:80]}'; this server has '{self._models.name}'")
