"""Routes that play episodes on request, keep their replays, and return them as files."""

import asyncio

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Scope

from serving.episodes.kept import KEPT_REPLAYS
from serving.episodes.milestones import Learning, Way
from serving.episodes.ranges import ranged
from serving.episodes.recording import replay_csp
from serving.episodes.replay import Replay
from serving.episodes.replays import FORMATS, EpisodeRequest, Replays, Summary
from serving.episodes.training import Poles, Training
from serving.web.operations import Operation, route


class EpisodesAPI:
    """Routes of /api/episodes, /api/learning and /api/training.

    Without `keep` the answer is the replay itself, and the server stores nothing.
    """

    def __init__(self, replays: Replays, learning: Learning, training: Training, *, keep: bool) -> None:
        self._replays = replays
        self._learning = learning
        self._training = training
        self._keep = keep

    def routes(self) -> list[Route]:
        """Routes to play, and to list and fetch if replays are kept."""
        errors = (400, 401, 404, 408, 413, 415, 503)
        if not self._keep:
            play = Operation("POST", self._play, "Play an episode", body=EpisodeRequest, answer=Replay, errors=errors)
            return [route("/api/episodes", play)]
        create = Operation(
            "POST",
            self._create,
            "Play an episode and keep its replay",
            body=EpisodeRequest,
            answer=Summary,
            status=201,
            errors=errors,
        )
        file = Operation("GET", self._file, "A replay as a file", media="*/*", errors=(404, 416, 501))
        way = Operation(
            "GET", self._way, "The training milestones of the version that plays", answer=Way, errors=(404, 503)
        )
        milestone = Operation(
            "GET", self._milestone, "An episode of a milestone; after the last comes the version itself", answer=Replay,
            errors=(404, 503),
        )  # fmt: skip
        poles = Operation(
            "GET", self._poles, "Episodes of the networks of the training that runs", answer=Poles, errors=(404, 503)
        )
        return [
            route("/api/episodes", Operation("GET", self._list, "Kept replays", answer=list[Summary]), create),
            route("/api/episodes/{file}", file),
            route("/api/learning", way),
            route("/api/learning/{milestone}", milestone),
            Route("/api/training", self._events),
            route("/api/training/poles", poles),
        ]

    async def _play(self, scope: Scope, request: EpisodeRequest) -> Response:
        replay = await self._replays.play(request)
        return Response(await asyncio.to_thread(replay.to_json), media_type="application/json")

    async def _list(self, scope: Scope, body: None) -> list[Summary]:
        return self._replays.list()

    async def _create(self, scope: Scope, request: EpisodeRequest) -> Summary:
        return Summary.of(await self._replays.create(request))

    async def _way(self, scope: Scope, body: None) -> Way:
        return await self._learning.way()

    async def _milestone(self, scope: Scope, body: None) -> Response:
        milestone = scope["path_params"]["milestone"]
        if not (milestone.isascii() and milestone.isdecimal() and len(milestone) < 4):
            raise HTTPException(
                404, f"a milestone is a number from 0, as /api/learning lists them, not {milestone[:40]!r}"
            )
        replay = await self._learning.play(int(milestone))
        return Response(await asyncio.to_thread(replay.to_json), media_type="application/json")

    async def _events(self, request: Request) -> Response:
        headers = {"Cache-Control": "no-store", "Connection": "close"}  # a stream is the last answer of its connection
        if request.method == "HEAD":
            return Response(media_type="text/event-stream", headers=headers)
        return StreamingResponse(self._training.events(), media_type="text/event-stream", headers=headers)

    async def _poles(self, scope: Scope, body: None) -> Poles:
        return await self._training.poles()

    async def _file(self, scope: Scope, body: None) -> Response:
        replay_id, _, kind = scope["path_params"]["file"].partition(".")
        replay = self._replays.get(replay_id)
        if replay is None:
            raise HTTPException(
                404,
                f"there is no replay {replay_id[:40]!r} (any more): a server keeps its newest {KEPT_REPLAYS}, and "
                "POST /api/episodes plays one again",
            )
        if kind not in FORMATS:
            raise HTTPException(404, f"a replay comes as .{', .'.join(FORMATS)}, not {kind[:40]!r}")
        content = await self._replays.file(replay, kind)
        headers = {"Content-Security-Policy": replay_csp(content)} if kind == "html" else {}
        request = Request(scope)
        if "download" in request.query_params:
            headers["Content-Disposition"] = f'attachment; filename="{replay.id}.{kind}"'
        return ranged(request, content, FORMATS[kind][0], headers)
