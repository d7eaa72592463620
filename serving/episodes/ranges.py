"""Range requests, which video players send (RFC 9110, 14)."""

import re
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from serving.web.answers import Error

_RANGE: Final = re.compile(r"bytes=\s*(\d*)-(\d*)\s*", re.ASCII | re.IGNORECASE)
_DIGITS: Final = 18


def ranged(request: Request, content: bytes, media_type: str, headers: dict[str, str]) -> Response:
    """The file, or the part of it in the request's Range; 416 if the range begins after the end of the file.

    Several ranges, other units and invalid ranges are ignored, as the RFC allows. So is a range with If-Range: the
    files have no validator.
    """
    headers = headers | {"Accept-Ranges": "bytes"}
    asked = request.headers.get("range", "") if request.method == "GET" and "if-range" not in request.headers else ""
    match = _RANGE.fullmatch(asked)
    first, last = match.groups() if match else ("", "")
    size = len(content)
    if not (first or last) or max(len(first), len(last)) > _DIGITS or (first and last and int(last) < int(first)):
        return Response(content, media_type=media_type, headers=headers)
    begin = int(first) if first else max(0, size - int(last))
    end = min(int(last) + 1, size) if first and last else size
    if begin >= size:
        error = Error(f"the file has {size} bytes, and none in the range {asked.strip()[:80]!r}")
        refused = headers | {"Content-Range": f"bytes */{size}"}
        return Response(msgspec.json.encode(error), 416, media_type="application/json", headers=refused)
    headers["Content-Range"] = f"bytes {begin}-{end - 1}/{size}"
    return Response(content[begin:end], status_code=206, media_type=media_type, headers=headers)
