"""Episodes on request: played headless, kept as replays, and given as files."""

import asyncio

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from serving.episodes.recording import replay_csp
from serving.episodes.replays import FORMATS, Replays, summary
from serving.web.answers import json_response
from serving.web.bodies import read_body


class EpisodesAPI:
    """Routes of /api/episodes; with `keep` off a replay is the answer itself, and nothing is remembered."""

    def __init__(self, replays: Replays, *, keep: bool, body_seconds: float) -> None:
        self._replays = replays
        self._keep = keep
        self._body_seconds = body_seconds

    def routes(self) -> list[BaseRoute]:
        """To play, and where replays are kept to list and to fetch."""
        if not self._keep:
            return [Route("/api/episodes", self._play, methods=["POST"])]
        return [
            Route("/api/episodes", self._episodes, methods=["GET", "POST"]),
            Route("/api/episodes/{file}", self._file),
        ]

    async def _play(self, request: Request) -> Response:
        replay = await self._replays.play(await self._read(request))
        return Response(await asyncio.to_thread(replay.to_json), media_type="application/json")

    async def _episodes(self, request: Request) -> Response:
        if request.method != "POST":
            return json_response(self._replays.list())
        return json_response(summary(await self._replays.create(await self._read(request))), 201)

    async def _file(self, request: Request) -> Response:
        replay_id, _, kind = request.path_params["file"].partition(".")
        replay = self._replays.get(replay_id)
        if replay is None:
            raise HTTPException(
                404, f"there is no replay {replay_id[:40]!r} (any more): POST /api/episodes plays it again"
            )
        if kind not in FORMATS:
            raise HTTPException(404, f"a replay comes as .{', .'.join(FORMATS)}, not {kind[:40]!r}")
        content = await self._replays.file(replay, kind)
        headers = {"Content-Security-Policy": replay_csp(content)} if kind == "html" else {}
        if "download" in request.query_params:
            headers["Content-Disposition"] = f'attachment; filename="{replay.id}.{kind}"'
        return Response(content, media_type=FORMATS[kind][0], headers=headers)

    async def _read(self, request: Request) -> object:
        body = await read_body(request.scope, request.receive, seconds=self._body_seconds)
        try:
            return orjson.loads(body or b"{}")
        except orjson.JSONDecodeError as error:
            raise ValueError(f"the request is not valid JSON: {error}") from error
