"""The closed loop's routes: the observed transitions, and what is done about a drift."""

from typing import Annotated

from msgspec import Meta, Struct
from starlette.requests import Request
from starlette.routing import Route
from starlette.types import Scope

from serving.episodes.limits import WorldValues
from serving.errors import RegistryUnavailableError
from serving.loop.closed_loop import ClosedLoop
from serving.loop.experience import Transitions
from serving.loop.reports import Adaptation, Report
from serving.models.follower import Models
from serving.web.decoding import fit
from serving.web.operations import Operation, route


class Observed(Struct, frozen=True, kw_only=True):
    """Transitions of the main show, as the policy observed them."""

    model: str
    version: str
    """The version that plays now."""
    env_id: str
    world: WorldValues
    """The world that this version was trained for; the real one may differ."""
    next: int
    """Id of the newest transition, for `since` in the next request."""
    transitions: Transitions


class _Since(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The query of /api/experience."""

    since: Annotated[int, Meta(ge=0, le=2**53)] = 0


class LoopAPI:
    """Routes of the transitions that the main show observed, and of the adaptation."""

    def __init__(self, loop: ClosedLoop, models: Models) -> None:
        self._loop = loop
        self._models = models

    def routes(self) -> list[Route]:
        """Routes of the experience and of the adaptation."""
        experience = Operation(
            "GET",
            self._experience,
            "The show's latest transitions, with ?since=ID those after that one; the last 4,096 are kept",
            answer=Observed,
            errors=(400, 503),
        )
        summary = "The latest drift and the stages of the adaptation to it"
        adaptation = Operation("GET", self._adaptation, summary, answer=Adaptation)
        report = Operation(
            "POST",
            self._report,
            "Report the progress of an adaptation; the first report acknowledges the drift",
            body=Report,
            answer=Adaptation,
            errors=(400, 401, 408, 409, 413, 415),
        )
        return [
            route("/api/experience", experience),
            route("/api/adaptation", adaptation, report),
        ]

    async def _experience(self, scope: Scope, body: None) -> Observed:
        since = fit(dict(Request(scope).query_params), _Since).since
        served = self._models.current
        if served is None:
            raise RegistryUnavailableError(f"nothing plays: {self._models.notice}")
        experience = self._loop.experience
        return Observed(
            model=self._models.name,
            version=served.version.number,
            env_id=served.policy.metadata.env_id,
            world=served.policy.metadata.world.to_dict(),
            next=experience.newest,
            transitions=experience.since(since),
        )

    async def _adaptation(self, scope: Scope, body: None) -> Adaptation:
        loop = self._loop
        return Adaptation(drift=loop.latest, stages=loop.stages, playing=loop.healing.playing)

    async def _report(self, scope: Scope, report: Report) -> Adaptation:
        self._loop.report(report)
        return await self._adaptation(scope, None)
