"""The closed loop's routes: the world is changed, and what follows can be read."""

from typing import Any

from starlette.routing import Route
from starlette.types import Scope

from serving.episodes.physics import WorldValues
from serving.live.shows import Shows
from serving.web.operations import Operation, route


class LoopAPI:
    """Routes of the world that the shows play in."""

    def __init__(self, shows: Shows) -> None:
        self._shows = shows

    def routes(self) -> list[Route]:
        """To change the world."""
        world = Operation(
            "PUT",
            self._world,
            "Change the world that the show plays in, over what it is at home; {} puts it right again",
            body=WorldValues,
            answer=WorldValues,
            errors=(400, 401, 408, 413, 415, 503),
        )
        return [route("/api/world", world)]

    async def _world(self, scope: Scope, values: dict[str, Any]) -> dict[str, Any]:
        self._shows.change_world(values)
        return self._shows.real_world.changed
