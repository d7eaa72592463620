"""The endpoints of the Open Inference Protocol. They are called most often, so they do little."""

import asyncio
import time
from dataclasses import dataclass
from functools import partial
from typing import Final

from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from serving.errors import PolicyError, RegistryUnavailableError, RequestError, UnknownModelError
from serving.inference import protocol
from serving.inference.protocol import HEADER_LENGTH
from serving.inference.schemas import (
    IndexEntry,
    IndexRequest,
    InferAnswer,
    InferRequest,
    Live,
    ModelConfig,
    ModelMetadata,
    ModelReady,
    Ready,
    ServerMetadata,
    Statistics,
)
from serving.inference.shadow import Shadow, ShadowStatus
from serving.inference.statistics import extension
from serving.metrics.metrics import Metrics
from serving.models.follower import Models
from serving.models.served import ServedModel
from serving.policy import FloatArray
from serving.web.bodies import compress
from serving.web.operations import Operation, route

_INLINE_BYTES: Final = 16 << 10
_WAITING_LIMIT: Final = 32


@dataclass(frozen=True, slots=True)
class _Work:
    """An answer as an ASGI application, with its batch and the times of its parts by `perf_counter_ns`."""

    observation: FloatArray
    q_values: FloatArray
    begun: int
    parsed: int
    inferred: int
    answered: int
    answer: bytes
    json_length: int | None
    encoding: bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-length", str(len(self.answer)).encode()), (b"vary", b"accept-encoding")]
        if self.json_length is None:
            headers.append((b"content-type", b"application/json"))
        else:
            headers.append((b"content-type", b"application/octet-stream"))
            headers.append((HEADER_LENGTH, str(self.json_length).encode()))
        if self.encoding:
            headers.append((b"content-encoding", self.encoding))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": self.answer})


class InferenceAPI:
    """Every /v2 route of one model."""

    def __init__(self, models: Models, metrics: Metrics, shadow: Shadow | None = None) -> None:
        self._models = models
        self._metrics = metrics
        self._shadow = shadow
        self._working = asyncio.Semaphore(1)  # two computations at once would each take twice as long
        self._waiting = 0

    def routes(self) -> list[Route]:
        """Routes, the busiest first."""
        get = partial(Operation, "GET")
        large, missing = (408, 413, 415), (404, 503)
        infer = Operation(
            "POST",
            self.infer if self._shadow is None else self.infer_beside,
            "Q-values and greedy actions of a batch of observations",
            body=InferRequest,
            decoded=False,
            answer=InferAnswer,
            errors=(400, *large, *missing),
        )
        index = Operation(
            "POST", self.index, "Known versions", body=IndexRequest, answer=list[IndexEntry], errors=(400, *large)
        )
        models = ("/v2/models/{model}", "/v2/models/{model}/versions/{version}")
        routes = [
            *(route(f"{model}/infer", infer) for model in models),
            route("/api/shadow", get(self.shadow, "The challenger in the shadow", answer=ShadowStatus | None)),
            route("/v2/health/live", get(self.live, "200 while the process runs", answer=Live)),
            route("/v2/health/ready", get(self.ready, "200 once a version plays", answer=Ready, errors=(503,))),
            route("/v2", get(self.server, "Server metadata", answer=ServerMetadata)),
            route("/v2/", get(self.server, "Server metadata", answer=ServerMetadata)),
            route("/v2/repository/index", index),
            route("/v2/models/stats", get(self.statistics, "Statistics of all versions", answer=Statistics)),
        ]
        for model in models:
            routes += [
                route(model, get(self.metadata, "Inputs and outputs", answer=ModelMetadata, errors=missing)),
                route(f"{model}/ready", get(self.model_ready, "Readiness", answer=ModelReady, errors=missing)),
                route(f"{model}/config", get(self.config, "Configuration", answer=ModelConfig, errors=missing)),
                route(f"{model}/stats", get(self.statistics, "Statistics", answer=Statistics, errors=missing)),
            ]
        return routes

    async def infer(self, scope: Scope, body: bytes, served: ServedModel | None = None) -> _Work:
        """Q-values and greedy actions of a batch of observations, by the version that the path names or by `served`."""
        started = time.perf_counter_ns()
        served = served or await self._find(scope)
        given = dict(scope["headers"])
        header_length = given[HEADER_LENGTH].decode("latin-1") if HEADER_LENGTH in given else None
        accepted = given.get(b"accept-encoding", b"")
        statistics, number = self._metrics.inference, served.version.number
        try:
            if len(body) <= _INLINE_BYTES and not served.policy.overruns:
                work = self._compute(served, body, header_length, accepted)
            else:
                work = await self._compute_aside(served, body, header_length, accepted)
        except (RequestError, PolicyError):
            statistics.of(number).fail(time.perf_counter_ns() - started)
            raise
        parts = (
            work.begun - started,
            work.parsed - work.begun,
            work.inferred - work.parsed,
            work.answered - work.inferred,
        )
        statistics.of(number).add(len(work.observation), parts)
        self._metrics.inputs.of(served, "requests").add(work.observation, work.q_values)
        return work

    async def infer_beside(self, scope: Scope, body: bytes) -> _Work:
        """`infer` beside a challenger: it answers in the shadow, or as a canary where no version is named."""
        shadow = self._shadow
        assert shadow
        if "version" in scope["path_params"]:
            return await self.infer(scope, body)
        served = await self._find(scope)
        failure: Exception | None = None
        challenger = shadow.canary(scope["headers"])
        counts = shadow.counts  # of this pair: one of the two may move while the other answers
        if challenger:
            try:
                work = await self.infer(scope, body, challenger)
                counts.canaries += 1
                return work
            except Exception as error:  # onnxruntime's exceptions have no common base class
                failure = error
        work = await self.infer(scope, body, served)  # fails too if the fault is the request's
        if failure:
            counts.fail(failure)
        shadow.offer(served, work.observation, work.q_values, "requests")
        return work

    async def shadow(self, scope: Scope, body: None) -> ShadowStatus | None:
        """The challenger in the shadow; None without `--shadow`."""
        return self._shadow.status() if self._shadow else None

    def _compute(self, served: ServedModel, body: bytes, header_length: str | None, accepted: bytes) -> _Work:
        begun = time.perf_counter_ns()
        policy = served.policy
        request = protocol.parse_infer(
            body, header_length, policy.metadata.observation_shape, mask_size=policy.metadata.mask_size
        )
        parsed = time.perf_counter_ns()
        q_values = policy.q_values(request.observation, request.mask)
        inferred = time.perf_counter_ns()
        answer, json_length = protocol.answer_infer(
            request, q_values, model=self._models.name, version=served.version.number
        )
        answer, encoding = compress(answer, accepted)
        answered = time.perf_counter_ns()
        return _Work(request.observation, q_values, begun, parsed, inferred, answered, answer, json_length, encoding)

    async def _compute_aside(
        self, served: ServedModel, body: bytes, header_length: str | None, accepted: bytes
    ) -> _Work:
        """Compute in a thread: a computation of milliseconds would delay other requests and the show."""
        if self._waiting >= _WAITING_LIMIT:
            raise RequestError(f"{_WAITING_LIMIT} large requests wait already: ask again in a second", 503)
        self._waiting += 1
        try:
            async with self._working:
                return await asyncio.to_thread(self._compute, served, body, header_length, accepted)
        finally:
            self._waiting -= 1

    async def server(self, scope: Scope, body: None) -> ServerMetadata:
        """Server metadata."""
        return ServerMetadata()

    async def live(self, scope: Scope, body: None) -> Live:
        """200 while the process runs."""
        return Live()

    async def ready(self, scope: Scope, body: None) -> Ready:
        """200 once a version plays."""
        if self._models.current is None:
            raise RegistryUnavailableError(f"not ready: {self._models.notice}")
        return Ready()

    async def model_ready(self, scope: Scope, body: None) -> ModelReady:
        """200 if the version can be called."""
        return ModelReady(name=self._models.name, version=(await self._find(scope)).version.number)

    async def metadata(self, scope: Scope, body: None) -> ModelMetadata:
        """Inputs, outputs, versions."""
        served = await self._find(scope)
        versions = sorted(self._models.snapshot.versions, key=int)
        return protocol.model_metadata(self._models.name, versions, served.policy.metadata)

    async def config(self, scope: Scope, body: None) -> ModelConfig:
        """The model configuration extension."""
        return protocol.model_config(self._models.name, (await self._find(scope)).policy.metadata)

    async def statistics(self, scope: Scope, body: None) -> Statistics:
        """The statistics extension, for one version, the model, or all."""
        statistics = self._metrics.inference
        numbers = sorted(statistics.versions(), key=int)
        if "version" in scope["path_params"]:
            numbers = [(await self._find(scope)).version.number]
        elif "model" in scope["path_params"]:
            self._check_name(scope)
        return Statistics([extension(statistics.of(number), self._models.name, number) for number in numbers])

    async def index(self, scope: Scope, wanted: IndexRequest) -> list[IndexEntry]:
        """The repository index: every known version, READY if it is loaded."""
        loaded = {number: self._models.peek(number) is not None for number in self._models.snapshot.versions}
        return [
            IndexEntry(
                name=self._models.name,
                version=number,
                state="READY" if loaded[number] else "UNAVAILABLE",
                reason="" if loaded[number] else "loaded when it is first called",
            )
            for number in sorted(loaded, key=int)
            if loaded[number] or not wanted.ready
        ]

    async def _find(self, scope: Scope) -> ServedModel:
        self._check_name(scope)
        reference = scope["path_params"].get("version", "")
        served = self._models.peek(reference) if reference else self._models.current
        if served is None and reference:
            served = await self._models.get(reference)
        if served is None:
            raise RegistryUnavailableError(f"not ready: {self._models.notice}")
        return served

    def _check_name(self, scope: Scope) -> None:
        name = scope["path_params"]["model"]
        if name != self._models.name:
            raise UnknownModelError(f"there is no model '{name[:80]}'; this server has '{self._models.name}'")
