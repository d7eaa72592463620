"""The files of the page, and their routes."""

import hashlib
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from serving.page import STATIC
from serving.web.security import CSP

_TYPES: Final = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


class Page:
    """The files of the page, read when the server starts."""

    def __init__(self) -> None:
        files = [path for path in STATIC.rglob("*") if path.suffix in _TYPES]
        self._files = {path.relative_to(STATIC).as_posix(): path.read_bytes() for path in files}

    def routes(self) -> list[BaseRoute]:
        """The page and its files."""
        return [Route("/", self._file), Route("/static/{file:path}", self._file)]

    async def _file(self, request: Request) -> Response:
        name = request.path_params.get("file", "index.html")
        content = self._files.get(name)
        if content is None:
            raise HTTPException(404, f"there is no file {name[:80]!r}")
        etag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
        headers = {"ETag": etag, "Cache-Control": "no-cache", "Content-Security-Policy": CSP}
        if request.headers.get("if-none-match") == etag:
            return Response(status_code=304, headers=headers)
        return Response(content, headers=headers, media_type=_TYPES[name[name.rindex(".") :]])
