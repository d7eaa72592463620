"""A drift is told to Prefect's API until it is acknowledged. In process."""

import asyncio
import base64
import json
from collections.abc import Iterator
from contextlib import nullcontext
from email.message import Message
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Event as Flag
from threading import Thread
from typing import Any, ClassVar
from urllib.error import HTTPError, URLError
from urllib.request import Request

import pytest
from prefect.events import Event

from serving.loop.events import EventSender
from serving.loop.finding import Finding
from serving.loop.reports import Report
from serving.models.follower import Models
from tests.support.serving.clients import client_of
from tests.support.serving.faulty import BAD, GOOD, Registry
from tests.support.serving.inprocess import serving
from tests.support.serving.stepped import Stepped, reversed_motor

AGAIN = "No run can begin until it takes the event, which is sent again."


class Prefect(BaseHTTPRequestHandler):
    """Takes events as Prefect's API does."""

    events: ClassVar[list[tuple[str, dict[str, str], Any]]] = []
    status: ClassVar[int] = 204

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.events.append((self.path, dict(self.headers), json.loads(body)))
        self.send_response(self.status)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def prefect() -> Iterator[HTTPServer]:
    Prefect.events, Prefect.status = [], 204
    with HTTPServer(("127.0.0.1", 0), Prefect) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def sender_of(stepped: Stepped, server: HTTPServer, **options: Any) -> EventSender:
    url = f"http://127.0.0.1:{server.server_port}/api/"
    return EventSender(
        stepped.loop,
        stepped.app.models,
        stepped.app.metrics,
        api_url=url,
        auth="admin:secret",
        serving_url="http://serving:8000",
        **options,
    )


def event_sender(stepped: Stepped, url: str, **options: Any) -> EventSender:
    app = stepped.app
    return EventSender(stepped.loop, app.models, app.metrics, api_url=url, auth="", serving_url="http://s", **options)


def test_a_drift_is_an_event_for_prefect(stepped: Stepped, prefect: HTTPServer) -> None:
    sender = sender_of(stepped, prefect)
    asyncio.run(sender.send())
    assert Prefect.events == [], "there is nothing to tell"
    drift = reversed_motor(stepped)
    asyncio.run(sender.send())
    ((path, headers, (event,)),) = Prefect.events
    assert path == "/api/events"
    assert headers["Authorization"] == f"Basic {base64.b64encode(b'admin:secret').decode()}"
    assert headers["Content-Type"] == "application/json"
    assert event["event"] == "dqn.policy.drifted"
    assert event["resource"] == {
        "prefect.resource.id": "dqn.policy.p",
        "prefect.resource.name": "p",
        "dqn.drift": event["payload"]["drift"],
    }
    assert event["payload"] == {
        "drift": drift,
        "model": "p",
        "version": "1",
        "env_id": "CartPole-v1",
        "since": stepped.loop.drift.since if stepped.loop.drift else None,
        "finding": "the motor answers the other way",
        "world": pytest.approx({"force_mag": -10.0}, rel=0.01),
        "undone": "the motor's sign undone",
        "playing": "Playing with the motor's sign undone: rehearsed return 500 of 500",
        "rehearsed_return": 500.0,
        "serving": "http://serving:8000",
    }
    assert Event.model_validate(event).resource.id == "dqn.policy.p"


def test_an_event_is_sent_again_until_it_is_acknowledged(stepped: Stepped, prefect: HTTPServer) -> None:
    drift = reversed_motor(stepped)
    Prefect.status = 503

    async def story() -> None:
        running = asyncio.create_task(sender_of(stepped, prefect, again_seconds=0.01).run())
        while len(Prefect.events) < 2:
            await asyncio.sleep(0.01)
        Prefect.status = 204
        while len(Prefect.events) < 4:
            await asyncio.sleep(0.01)
        stepped.loop.report(Report(drift=drift, stage="started"))
        await asyncio.sleep(0.05)
        told = len(Prefect.events)
        await asyncio.sleep(0.1)
        assert len(Prefect.events) == told
        running.cancel()

    asyncio.run(asyncio.wait_for(story(), 30))
    events = [event for _, _, (event,) in Prefect.events]
    assert len({event["id"] for event in events}) == len(events), "one with an id that is known would be dropped"


def test_an_api_that_does_not_answer_is_told_and_counted(stepped: Stepped, caplog: pytest.LogCaptureFixture) -> None:
    reversed_motor(stepped)
    server = HTTPServer(("127.0.0.1", 0), Prefect)
    server.server_close()
    sender = sender_of(stepped, server)
    stepped.loop.sender = sender
    for _ in range(2):
        asyncio.run(sender.send())
    trouble = stepped.show.status()["loop"]["trouble"]
    assert trouble == f"Prefect cannot be reached (connection refused). {AGAIN}"
    assert "serving_event_errors_total 2.0" in stepped.client.get("/metrics").text
    assert sum("cannot be reached" in record.message for record in caplog.records) == 1


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (HTTPError("u", 401, "No", Message(), None), "Prefect refuses the event with status 401 (No)"),
        (URLError(OSError(-2, "Name or service not known")), "Prefect cannot be reached (name or service not known)"),
        (URLError(TimeoutError("timed out")), "Prefect cannot be reached"),
        (TimeoutError("timed out"), "Prefect cannot be reached"),
    ],
)
def test_why_an_event_is_not_taken_is_said_in_words(stepped: Stepped, error: Exception, said: str) -> None:
    def post(*_: object) -> None:
        raise error

    reversed_motor(stepped)
    sender = event_sender(stepped, "http://prefect/api", post=post)
    asyncio.run(sender.send())
    assert sender.trouble == f"{said}. {AGAIN}"


def test_events_are_sent_where_prefect_is_known(tmp_path: Path) -> None:
    app, _ = client_of(tmp_path, prefect_url="http://127.0.0.1:9/api", serving_url="http://s")
    assert app.events
    assert app.live
    assert app.live.stage.loop.sender is app.events
    with pytest.raises(ValueError, match="PREFECT_API_URL must be an address"):
        client_of(tmp_path, prefect_url="ftp://x")


def test_an_event_is_sent_every_ten_seconds_and_waits_five_for_an_answer(
    stepped: Stepped, monkeypatch: pytest.MonkeyPatch
) -> None:
    reversed_motor(stepped)
    waits: list[float] = []

    def open_url(request: Request, timeout: float) -> Any:
        waits.append(timeout)
        return nullcontext()

    async def wait_for(acknowledged: Any, seconds: float) -> None:
        acknowledged.close()
        waits.append(seconds)
        if len(waits) == 4:
            raise asyncio.CancelledError
        raise TimeoutError

    monkeypatch.setattr("urllib.request.urlopen", open_url)
    monkeypatch.setattr("serving.loop.events.asyncio.wait_for", wait_for)
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(event_sender(stepped, "http://127.0.0.1:1/api").run())
    assert waits == [5, 10, 5, 10]


def test_a_sender_without_a_password_sends_none_and_trouble_ends(stepped: Stepped) -> None:
    reversed_motor(stepped)
    failures = iter([OSError("gone"), OSError("still gone")])
    headers_sent: list[dict[str, str]] = []

    def post(url: str, body: bytes, headers: dict[str, str]) -> None:
        if failure := next(failures, None):
            raise failure
        headers_sent.append(headers)

    sender = event_sender(stepped, "https://prefect/api", post=post)
    told = []
    for _ in range(3):
        asyncio.run(sender.send())
        told.append(sender.trouble)
    trouble = f"Prefect does not take the event (%s). {AGAIN}"
    assert told == [trouble % "gone", trouble % "still gone", ""]
    assert headers_sent == [{"Content-Type": "application/json"}]
    stepped.app.models.current = None
    assert sender.event() is None, "nothing plays"


def test_an_address_that_is_none_is_repeated_in_eighty_characters(stepped: Stepped) -> None:
    with pytest.raises(ValueError, match="PREFECT_API_URL must be an address like") as refused:
        event_sender(stepped, "x" * 81)
    assert str(refused.value).endswith(f"got '{'x' * 80}'")


def test_a_drift_is_told_by_a_server_that_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    told = Flag()
    posted: list[tuple[str, str]] = []

    def post(url: str, body: bytes, headers: dict[str, str]) -> None:
        posted.append((url, json.loads(body)[0]["payload"]["finding"]))
        told.set()

    monkeypatch.setattr("serving.loop.events._post", post)
    with serving(prefect_url="http://127.0.0.1:9/api") as server:
        assert server.app.live
        loop, models = server.app.live.stage.loop, server.models
        assert models.current
        finding = Finding(sentence="it is windy", evidence={}, sure=True)
        server.server.loop.call_soon_threadsafe(loop._notice, models.current, finding)
        assert told.wait(60)
    assert posted[0] == ("http://127.0.0.1:9/api/events", "it is windy")


def test_a_refused_version_is_told_once_and_a_failure_stops_nothing(stepped: Stepped, prefect: HTTPServer) -> None:
    sender = sender_of(stepped, prefect)
    models = Models(Registry(GOOD[0], BAD["garbage"]), alias="challenger", version=None)
    models.source.aliases["challenger"] = "2"  # type: ignore[attr-defined]
    models.loader.listeners.append(sender.refused)

    async def story() -> None:
        for _ in range(2):
            await models.poll()
            await asyncio.gather(*sender._refusals)

    asyncio.run(story())
    ((path, headers, (event,)),) = Prefect.events
    assert (path, headers["Authorization"][:5]) == ("/api/events", "Basic")
    assert Event(**event).event == "dqn.version.refused"
    assert event["payload"] == {
        "model": stepped.app.models.name,
        "version": "2",
        "reason": models.notice.removeprefix("version 2 was refused: ").removesuffix("; nothing plays"),
        "serving": "http://serving:8000",
    }
    Prefect.status = 500
    models.loader._refused.clear()
    asyncio.run(story())
    assert len(Prefect.events) == 2
    assert stepped.app.metrics.event_errors._value.get() == 1
