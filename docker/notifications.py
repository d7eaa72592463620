"""Prefect's notification blocks and automations: they tell a person when something waits for one.

NOTIFY_URL names where: a Slack webhook, any other webhook (http, https), or an address of Apprise such as
`mailtos://USER:PASSWORD@SERVER?to=NAME@DOMAIN`, which Prefect's Slack block takes too.
"""

import re
from datetime import timedelta
from typing import Any, Final
from urllib.parse import urlsplit
from uuid import UUID

from apprise import Apprise
from prefect.automations import AutomationCore, EventTrigger, Posture
from prefect.blocks.notifications import CustomWebhookNotificationBlock, SlackWebhook
from prefect.events.actions import SendNotification
from pydantic import SecretStr

BLOCK: Final = "dqn-notify"
_SLACK: Final = re.compile(r"https://hooks\.slack(-gov)?\.com/")
_MOST_RUNS: Final = 25
_BODY: Final = (
    "{{ flow_run.name }} ({{ flow.name }}) is {{ event.payload.validated_state.name }}: "
    "{{ event.payload.validated_state.message }}\n{{ flow_run|ui_url }}"
)

_REFUSED: Final = (
    "Version {{ event.payload.version }} of {{ event.payload.model }}: {{ event.payload.reason }}\n"
    "{{ event.payload.serving }}"
)


def block_of(url: str) -> SlackWebhook | CustomWebhookNotificationBlock:
    """The block that sends to an address.

    Raises:
        ValueError: if it is none: the block would be saved, and send nothing.
    """
    web = url.startswith(("http://", "https://")) and not _SLACK.match(url)
    if not (urlsplit(url).hostname if web else Apprise.instantiate(url)):
        raise ValueError(
            "NOTIFY_URL is no address to send to: set it to a webhook, or to mailtos://USER:PASSWORD@SERVER?to=ADDRESS"
        )
    if web:
        fields: dict[str, Any] = {
            "name": "dqn-pipeline",
            "url": "{{ address }}",
            "json_data": {"subject": "{{subject}}", "text": "{{subject}}\n{{body}}"},
            "secrets": {"address": url},  # Prefect's pages do not show it
        }
        return CustomWebhookNotificationBlock(**fields)
    return SlackWebhook(url=SecretStr(url))


def save_block(block: Any) -> UUID:
    """Save the block of `block_of` under one name. Returns its id."""
    saved: UUID = block.save(BLOCK, overwrite=True)
    return saved


def notifications(block: UUID, *, again_after: timedelta, max_run_count: int) -> tuple[AutomationCore, ...]:
    """The automations that tell a person by a block.

    Args:
        block: id of the block.
        again_after: a run that could not be started twice within this time stays crashed.
        max_run_count: a run that has crashed after this many starts stays crashed.
    """

    def told(name: str, subject: str, related: dict[str, str], body: str = _BODY, **trigger: Any) -> AutomationCore:
        return AutomationCore(
            name=name,
            description="To the address in NOTIFY_URL. Pause this automation to be told no more.",
            trigger=EventTrigger(
                posture=Posture.Reactive,
                match_related=related,  # type: ignore[arg-type] # a dict, as the servers' schema has it
                for_each={"prefect.resource.id"},
                **trigger,
            ),
            actions=[SendNotification(block_document_id=block, subject=f"dqn: {subject}", body=body)],
        )

    worker = {"prefect.resource.role": "work-pool"}
    counts = [str(count) for count in range(max_run_count, _MOST_RUNS)]
    return (
        told("told: a run failed", "a run failed and waits for a person", worker, expect={"prefect.flow-run.Failed"}),
        told(
            "told: a run crashed for good",
            f"a run crashed {max_run_count} times and waits for a person",
            worker,
            expect={"prefect.flow-run.Crashed"},
            match={"prefect.run-count": counts},
        ),
        told(
            "told: a run cannot be started",
            "a run could not be started twice and waits for a person",
            worker,
            expect={"prefect.flow-run.Crashed"},
            match={"prefect.run-count": "0"},
            threshold=2,
            within=again_after,
        ),
        told(
            "told: an adaptation needs a person",
            "an adaptation waits for approval, or was refused or rolled back",
            _flow("adapt-policy"),
            expect={f"prefect.flow-run.{name}" for name in ("Paused", "Refused", "Rolled back")},
        ),
        told(
            "told: a promotion was forced",
            "a promotion was forced",
            _flow("promote-policy"),
            expect={"prefect.flow-run.Forced"},
        ),
        told(
            "told: a version was refused",
            "the server has refused a version, and what played plays on",
            {},
            _REFUSED,
            expect={"dqn.version.refused"},
        ),
    )


def _flow(name: str) -> dict[str, str]:
    return {"prefect.resource.role": "flow", "prefect.resource.name": name}
