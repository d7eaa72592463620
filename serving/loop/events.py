"""Sends Prefect an event for a drift, until an adaptation acknowledges it, and one for each refused version."""

import asyncio
import base64
import logging
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from serving.loop.closed_loop import ClosedLoop
from serving.metrics.metrics import Metrics
from serving.models.follower import Models
from serving.models.source import Version

AGAIN_SECONDS: Final = 10.0
_TIMEOUT: Final = 5.0
_LOG: Final = logging.getLogger("serving")


class EventSender:
    """Sends `dqn.policy.drifted` and `dqn.version.refused` by plain HTTP.

    Belongs to one event loop; requests run in a thread.

    Args:
        loop: the source of drifts.
        models: the source of the model's name.
        metrics: counts failures.
        api_url: Prefect's API, as PREFECT_API_URL has it.
        auth: user and password, as PREFECT_API_AUTH_STRING has them; empty for none.
        serving_url: where a worker reaches this server.
        again_seconds: time from one event to the next.
        post: sends bytes to a URL with headers; blocks.

    Raises:
        ValueError: if the API's address is not an HTTP URL.
    """

    def __init__(
        self,
        loop: ClosedLoop,
        models: Models,
        metrics: Metrics,
        *,
        api_url: str,
        auth: str,
        serving_url: str,
        again_seconds: float = AGAIN_SECONDS,
        post: "Callable[[str, bytes, dict[str, str]], None] | None" = None,
    ) -> None:
        if not api_url.startswith(("http://", "https://")):
            raise ValueError(f"PREFECT_API_URL must be an address like http://127.0.0.1:4200/api, got {api_url[:80]!r}")
        self.trouble = ""
        """Why the last event could not be sent; empty if it was."""
        self._loop = loop
        self._models = models
        self._metrics = metrics
        self._url = f"{api_url.rstrip('/')}/events"
        self._headers = {"Content-Type": "application/json"}
        if auth:
            self._headers["Authorization"] = f"Basic {base64.b64encode(auth.encode()).decode()}"
        self._serving_url = serving_url
        self._again_seconds = again_seconds
        self._post = post or _post
        self._refusals = set[asyncio.Task[None]]()
        models.loader.listeners.append(self.refused)

    async def run(self) -> None:
        """Send events until cancelled; a failed event is reported and sent again."""
        while True:
            await self._loop.untold.wait()
            await self.send()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._acknowledged(), self._again_seconds)

    async def send(self) -> None:
        """Send one event for the present drift, if there is one."""
        try:
            if event := self.event():
                await asyncio.to_thread(self._post, self._url, msgspec.json.encode([event]), self._headers)
        except Exception as error:  # a sender that ended would report no later drift
            self._metrics.event_errors.inc()
            trouble = f"{_in_words(error)}. No run can begin until it takes the event, which is sent again."
            if trouble != self.trouble:
                _LOG.warning(trouble, extra={"url": self._url})
            self.trouble = trouble
        else:
            self.trouble = ""

    def refused(self, version: Version, reason: str) -> None:
        """Send one event for a version that the server has refused; it is not sent again."""
        told = {"model": self._models.name, "version": version.number, "reason": reason, "serving": self._serving_url}
        task = asyncio.create_task(self._send_refused(self._event("dqn.version.refused", {}, told)))
        self._refusals.add(task)
        task.add_done_callback(self._refusals.discard)

    async def _send_refused(self, event: dict[str, Any]) -> None:
        try:
            await asyncio.to_thread(self._post, self._url, msgspec.json.encode([event]), self._headers)
        except Exception as error:  # whatever Prefect answers, the follower goes on
            self._metrics.event_errors.inc()
            _LOG.warning("%s. A refused version was not told.", _in_words(error), extra={"url": self._url})

    def event(self) -> dict[str, Any] | None:
        """The event of the present drift; None if there is no drift."""
        drift, current, healing = self._loop.drift, self._models.current, self._loop.healing
        if drift is None or current is None:
            return None
        told = {
            "drift": drift.id,
            "model": self._models.name,
            "version": drift.version,
            "env_id": current.policy.metadata.env_id,
            "since": drift.since,
            "finding": drift.finding,
            "world": healing.world.to_dict() if healing.world else None,
            "undone": healing.playing.name if healing.playing else "",
            "playing": healing.playing.text if healing.playing else "",
            "rehearsed_return": healing.playing.rehearsed_return if healing.playing else None,
            "serving": self._serving_url,
        }
        return self._event("dqn.policy.drifted", {"dqn.drift": drift.id}, told)

    def _event(self, name: str, labels: dict[str, str], payload: dict[str, Any]) -> dict[str, Any]:
        return {
            "id": str(uuid.uuid4()),
            "occurred": datetime.now(UTC).isoformat(),
            "event": name,
            "resource": {
                "prefect.resource.id": f"dqn.policy.{self._models.name}",
                "prefect.resource.name": self._models.name,
                **labels,
            },
            "payload": payload,
        }

    async def _acknowledged(self) -> None:
        while self._loop.untold.is_set():
            await asyncio.sleep(min(0.1, self._again_seconds))


def _in_words(error: Exception) -> str:
    """Why Prefect has not taken an event, for a person that reads the page."""
    match error:
        case urllib.error.HTTPError():
            return f"Prefect refuses the event with status {error.code} ({error.reason})"
        case urllib.error.URLError(reason=OSError(strerror=str(reason))):
            return f"Prefect cannot be reached ({reason[:1].lower()}{reason[1:]})"
        case urllib.error.URLError() | TimeoutError():
            return "Prefect cannot be reached"
    return f"Prefect does not take the event ({error})"


def _post(url: str, body: bytes, headers: dict[str, str]) -> None:
    request = urllib.request.Request(url, body, headers)  # noqa: S310 -- http or https, checked above
    with urllib.request.urlopen(request, timeout=_TIMEOUT):  # noqa: S310
        pass
