"""The closed loop's routes: the world is changed, what was lived through is read, and what is done about it told."""

from typing import Annotated, Any

from msgspec import Meta, Struct
from starlette.requests import Request
from starlette.routing import Route
from starlette.types import Scope

from serving.decoding import fit
from serving.episodes.physics import WorldValues
from serving.live.closed_loop import Adaptation, Report
from serving.live.experience import Transitions
from serving.live.shows import Shows
from serving.models.follower import Models
from serving.models.registry import RegistryUnavailableError
from serving.web.operations import Operation, route


class Lived(Struct, frozen=True, kw_only=True):
    """What policy and world really produced, as the policy saw it."""

    model: str
    version: str
    """That plays now."""
    env_id: str
    world: WorldValues
    """What this version was trained for, whatever the world really is."""
    next: int
    """Id of the newest transition: to be asked for later with `since`."""
    transitions: Transitions


class _Since(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The query of an experience."""

    since: Annotated[int, Meta(ge=0, le=2**53)] = 0


class LoopAPI:
    """Routes of the world that the main show plays in, and of what follows from its changes."""

    def __init__(self, shows: Shows, models: Models) -> None:
        self._shows = shows
        self._models = models

    def routes(self) -> list[Route]:
        """The world, the experience and the adaptation."""
        world = Operation(
            "PUT",
            self._world,
            "Change the world that the show plays in, over what it is at home; {} puts it right again",
            body=WorldValues,
            answer=WorldValues,
            errors=(400, 401, 408, 413, 415, 503),
        )
        experience = Operation(
            "GET",
            self._experience,
            "The show's latest transitions, of ?since=ID those after it; the last 4,096 are kept",
            answer=Lived,
            errors=(400, 503),
        )
        summary = "The latest drift and what was done about it"
        adaptation = Operation("GET", self._adaptation, summary, answer=Adaptation)
        report = Operation(
            "POST",
            self._report,
            "Tell how far the adaptation to a drift is; the first report acknowledges the drift",
            body=Report,
            answer=Adaptation,
            errors=(400, 401, 408, 409, 413, 415),
        )
        return [
            route("/api/world", world),
            route("/api/experience", experience),
            route("/api/adaptation", adaptation, report),
        ]

    async def _world(self, scope: Scope, values: dict[str, Any]) -> dict[str, Any]:
        self._shows.change_world(values)
        return self._shows.real_world.changed

    async def _experience(self, scope: Scope, body: None) -> Lived:
        since = fit(dict(Request(scope).query_params), _Since).since
        served = self._models.current
        if served is None:
            raise RegistryUnavailableError(f"nothing plays: {self._models.notice}")
        experience = self._shows.loop.experience
        return Lived(
            model=self._models.name,
            version=served.version.number,
            env_id=served.policy.metadata.env_id,
            world=served.policy.metadata.world.to_dict(),
            next=experience.newest,
            transitions=experience.since(since),
        )

    async def _adaptation(self, scope: Scope, body: None) -> Adaptation:
        return Adaptation(drift=self._shows.loop.latest, stages=self._shows.loop.stages)

    async def _report(self, scope: Scope, report: Report) -> Adaptation:
        self._shows.loop.report(report)
        return await self._adaptation(scope, None)
