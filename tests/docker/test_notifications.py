"""A person is told what waits for one: by which block, on which events, and it arrives."""

import json
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any
from uuid import uuid4

import deploy
import pytest
from deploy import AUTOMATIONS, MAX_RUN_COUNT, POOL, START_AGAIN_AFTER, create_pool
from notifications import block_of, notifications, save_block
from prefect import flow
from prefect.blocks.notifications import CustomWebhookNotificationBlock, SlackWebhook
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import State, StateType
from prefect.events import Event, Resource
from prefect.events.actions import SendNotification
from prefect.events.schemas.automations import EventTrigger

from tests.docker.test_automations import ANSWERED_SECONDS, installed
from tests.stack.system import within

pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")  # apprise imports it


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("https://hooks.slack.com/services/T0/B0/x", SlackWebhook),
        ("https://example.org/hook?token=1", CustomWebhookNotificationBlock),
        ("http://127.0.0.1:9/", CustomWebhookNotificationBlock),
        ("mailtos://user:password@example.org?to=me@example.org", SlackWebhook),
    ],
)
def test_the_block_depends_on_the_address_and_hides_it(url: str, kind: type) -> None:
    block = block_of(url)
    assert type(block) is kind
    assert url not in repr(block)
    assert "password" not in block.model_dump_json()


def test_an_email_goes_to_its_server() -> None:
    block: Any = block_of("mailtos://user:password@example.org?to=me@example.org")
    (server,) = block._apprise_client
    assert (type(server).__name__, server.smtp_host, server.targets) == (
        "NotifyEmail",
        "example.org",
        [(False, "me@example.org")],
    )


@pytest.mark.parametrize("url", ["me@example.org", "unknown://x", "mailtos://user:password@", "https://"])
def test_an_address_that_nothing_is_sent_to_is_refused_before_anything_is_set_up(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("NOTIFY_URL", url)
    assert deploy.main() == 1
    said = capsys.readouterr().err
    assert said.startswith("NOTIFY_URL is no address to send to: set it to a webhook")
    assert "password@" not in said.replace("PASSWORD@", "")


def test_a_crash_is_told_exactly_where_no_automation_starts_the_run_again() -> None:
    told = notifications(uuid4(), again_after=START_AGAIN_AFTER, max_run_count=MAX_RUN_COUNT)
    assert len({each.name for each in (*told, *AUTOMATIONS)}) == len(told) + len(AUTOMATIONS)
    triggers = [each.trigger for each in told]
    for trigger in triggers:
        assert isinstance(trigger, EventTrigger)
    crashes = [t for t in triggers if isinstance(t, EventTrigger) and "prefect.flow-run.Crashed" in t.expect]
    for_good, unstarted = ({*_counts(trigger)} for trigger in crashes)
    *_, goes_on, again = (automation.trigger for automation in AUTOMATIONS)
    assert isinstance(goes_on, EventTrigger)
    assert isinstance(again, EventTrigger)
    assert for_good.isdisjoint(_counts(goes_on))
    assert min(map(int, for_good)) == max(map(int, _counts(goes_on))) + 1
    assert unstarted == {*_counts(again)}
    assert crashes[1].within == again.within == timedelta(minutes=10)
    assert (crashes[1].threshold, again.threshold) == (2, 1)


def _counts(trigger: EventTrigger) -> list[str]:
    match: Any = trigger.match
    counts = match.model_dump()["prefect.run-count"]
    return [counts] if isinstance(counts, str) else list(counts)


@pytest.fixture
def received() -> Iterator[tuple[str, list[dict[str, str]]]]:
    """A receiver's address, and what was sent to it."""
    messages: list[dict[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            messages.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/hook", messages
    server.shutdown()
    server.server_close()
    thread.join()


@flow(name="adapt-policy")
def adapt() -> None:
    """Does nothing."""


@flow(name="promote-policy")
def promote() -> None:
    """Does nothing."""


@pytest.mark.slow
def test_what_waits_for_a_person_arrives(prefect_api: str, received: tuple[str, list[dict[str, str]]]) -> None:
    url, messages = received
    automations = notifications(save_block(block_of(url)), again_after=START_AGAIN_AFTER, max_run_count=MAX_RUN_COUNT)
    assert all(isinstance(action, SendNotification) for each in automations for action in each.actions)
    with SyncPrefectClient(prefect_api) as client, installed(client, automations):
        create_pool(client)
        for function, kind, name in (
            (adapt, StateType.PAUSED, "Paused"),
            (adapt, StateType.COMPLETED, "Refused"),
            (adapt, StateType.COMPLETED, "Rolled back"),
            (adapt, StateType.COMPLETED, "Recovered"),  # of which nothing is told
            (promote, StateType.COMPLETED, "Promoted"),
            (promote, StateType.COMPLETED, "Forced"),
            (promote, StateType.FAILED, "Failed"),
        ):
            deployment = client.create_deployment(client.create_flow(function), "told", work_pool_name=POOL)
            run = client.create_flow_run_from_deployment(deployment)
            client.set_flow_run_state(run.id, State(type=StateType.RUNNING))
            time.sleep(1)  # on SQLite Prefect's server loses some of the events that it evaluates side by side
            client.set_flow_run_state(run.id, State(type=kind, name=name, message=f"because of {name}"), force=True)
            time.sleep(1)
        refused = {"version": "9", "model": "dqn", "reason": "garbage", "serving": "http://s"}
        event = Event(
            event="dqn.version.refused", resource=Resource({"prefect.resource.id": "dqn.policy.dqn"}), payload=refused
        )
        client._client.post("/events", json=[event.model_dump(mode="json")]).raise_for_status()
        within(ANSWERED_SECONDS, lambda: len(messages) >= 6)
    texts = [message["text"] for message in messages]
    told = [name for text in texts for name in ("Paused", "Refused", "Rolled back", "Forced", "Failed") if name in text]
    assert sorted(told) == ["Failed", "Forced", "Paused", "Refused", "Rolled back"]
    assert len(texts) == 6
    assert (
        "dqn: the server has refused a version, and what played plays on\nVersion 9 of dqn: garbage\nhttp://s" in texts
    )
    forced = next(text for text in texts if "Forced" in text)
    assert forced.startswith("dqn: a promotion was forced\n")
    assert "(promote-policy) is Forced: because of Forced" in forced
