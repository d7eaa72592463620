"""Sets up the servers for this project; running it again changes nothing.

Prefect (PREFECT_API_URL) gets the work pool, a concurrency limit, the automations and deployments, and notifications to
the address in NOTIFY_URL, if it is set. MLflow (MLFLOW_TRACKING_URI) gets the users of serving and of the worker, if
MLFLOW_READER_PASSWORD and MLFLOW_WORKER_PASSWORD are set, and the webhook, if SERVING_WEBHOOK_URL is set.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Collection
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Final
from uuid import UUID

import yaml
from mlflow import MlflowClient
from mlflow.entities.webhook import WebhookEvent, WebhookEventStr
from mlflow_users import USERS, upsert_user
from notifications import block_of, notifications, save_block
from prefect.automations import AutomationCore, EventTrigger, Posture
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState, RunDeployment
from prefect.events.schemas.automations import Automation
from prefect.exceptions import ObjectAlreadyExists

from flows.orchestration.heartbeat import ALIVE

POOL: Final = "dqn"
PROMOTION_LIMIT: Final = "promote-dqn-CartPole-v1"
WEBHOOK: Final = "serving"
MAX_RUN_COUNT: Final = 5
STARTED_OR_OVER: Final = (
    "Running", "heartbeat", "Completed", "Cached", "Failed", "Crashed", "Cancelling", "Cancelled", "Paused",
    "Suspended", "Scheduled", "Late", "AwaitingRetry", "Retrying", "Resuming", "AwaitingConcurrencySlot",
)  # fmt: skip
"""States, and the heartbeat, that follow when a worker has taken a run, unless the worker dies."""

_PAGE: Final = 200
OURS: Final = "dqn-pipeline"
"""Tag of the automations of this project; their other tag is their name in this file."""
AWAITING_RETRY: Final = "AwaitingRetry"
BY_A_WORKER: Final[dict[str, str | list[str]]] = {"prefect.resource.role": "work-pool"}
"""Runs of any work pool. Runs of `make train` have none; a crash of these is seen on their terminal."""
SILENCE: Final = timedelta(seconds=155)
"""A run without a sign of life for this long is dead. Prefect or its database may be away for two minutes and restart
in this time, and a dead run continues elsewhere within three minutes."""
START_AGAIN_AFTER: Final = timedelta(minutes=10)
"""Prefect does not count failed starts: without this interval a run that can never start would be retried for ever."""


def scheduled_again(message: str) -> ChangeFlowRunState:
    """The action that gives a run another worker."""
    return ChangeFlowRunState(state=StateType.SCHEDULED, name=AWAITING_RETRY, force=False, message=message)


# Prefect detects a dead flow process while its worker lives. These automations detect a dead worker too.
AUTOMATIONS: Final = (
    AutomationCore(
        name="a run without heartbeat has crashed",
        description="Its worker was killed or lost its machine, so the worker cannot report it.",
        trigger=EventTrigger(
            posture=Posture.Proactive,
            after={"prefect.flow-run.heartbeat", ALIVE},
            expect={"prefect.flow-run.*", ALIVE},
            match_related=BY_A_WORKER,
            for_each={"prefect.resource.id"},
            within=SILENCE,
        ),
        actions=[
            ChangeFlowRunState(
                state=StateType.CRASHED,
                name="Crashed",
                force=False,
                message=f"No sign of life for {SILENCE.total_seconds():.0f} seconds.",
            )
        ],
    ),
    AutomationCore(
        name="a run that never started is scheduled again",
        description="Its worker died between taking the run and starting it.",
        trigger=EventTrigger(
            posture=Posture.Proactive,
            after={"prefect.flow-run.Pending", "prefect.flow-run.Submitting", "prefect.flow-run.InfrastructurePending"},
            expect={f"prefect.flow-run.{name}" for name in STARTED_OR_OVER},
            match_related=BY_A_WORKER,
            for_each={"prefect.resource.id"},
            within=SILENCE,
        ),
        actions=[scheduled_again(f"It did not start within {SILENCE.total_seconds():.0f} seconds.")],
    ),
    AutomationCore(
        name="a crashed run goes on elsewhere",
        description="Under the same run id, a training from its checkpoint, until it has been started "
        f"{MAX_RUN_COUNT} times.",
        trigger=EventTrigger(
            posture=Posture.Reactive,
            expect={"prefect.flow-run.Crashed"},
            match={"prefect.run-count": [str(count) for count in range(1, MAX_RUN_COUNT)]},
            match_related=BY_A_WORKER,
            for_each={"prefect.resource.id"},
        ),
        actions=[scheduled_again("Crashed: it goes on elsewhere.")],
    ),
    AutomationCore(
        name="a run that could not be started is scheduled again",
        description="Its worker could not hand it over, for instance because a server was away. If that happens again "
        f"within {START_AGAIN_AFTER.total_seconds() / 60:.0f} minutes, it stays crashed for a person to look at.",
        trigger=EventTrigger(
            posture=Posture.Reactive,
            expect={"prefect.flow-run.Crashed"},
            match={"prefect.run-count": "0"},
            match_related=BY_A_WORKER,
            for_each={"prefect.resource.id"},
            threshold=1,
            within=START_AGAIN_AFTER,
        ),
        actions=[scheduled_again("It could not be started.")],
    ),
)


ADAPTING: Final = "adapt-policy/default"
DRIFTED: Final = "dqn.policy.drifted"
COOL_DOWN: Final = timedelta(seconds=60)
"""Serving repeats a drift event until a run acknowledges it; in this time a drift starts one run."""


def adapts(deployment_id: UUID) -> AutomationCore:
    """The automation that starts a run of `adapt-policy` on a drift."""
    names = ("drift", "model", "version", "serving", "finding", "playing")
    texts = {name: _jinja(f"{{{{ event.payload.{name} }}}}") for name in names}
    since = {"__prefect_kind": "json", "value": _jinja("{{ event.payload.since }}")}  # a number, not a text
    return AutomationCore(
        name="a drift is adapted to",
        description="Serving has detected that the world has changed. Pause this automation to turn adaptation off.",
        trigger=EventTrigger(
            posture=Posture.Reactive,
            expect={DRIFTED},
            for_each={"prefect.resource.id", "dqn.drift"},
            threshold=1,
            within=COOL_DOWN,
        ),
        actions=[
            RunDeployment(
                source="selected",
                deployment_id=deployment_id,
                parameters={**texts, "since": since},
                job_variables=None,
            )
        ],
    )


def _jinja(template: str) -> dict[str, str]:
    return {"__prefect_kind": "jinja", "template": template}


def main() -> int:
    """Set everything up; returns the exit status."""
    for name in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI"):
        if not os.environ.get(name):  # Prefect would start a server of its own, MLflow make a file
            sys.stderr.write(f"{name} is not set: set it to the URL of the server to deploy to\n")
            return 1
    address = os.environ.get("NOTIFY_URL")
    try:
        told = block_of(address) if address else None
    except ValueError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    for user, grants in USERS.items():  # first: serving waits for its user
        if password := os.environ.get(f"MLFLOW_{user.upper()}_PASSWORD"):
            upsert_user(user, password, grants)
    with get_client(sync_client=True) as client:
        create_pool(client)
        client.upsert_global_concurrency_limit_by_name(PROMOTION_LIMIT, limit=1)
        switched = schedule_switches(client)
        deploy(Path("prefect.yaml"))
        keep_switches(client, switched)
        adapting = adapts(client.read_deployment_by_name(ADAPTING).id)
        automations = [*AUTOMATIONS, adapting]
        if told:
            block = save_block(told)
            automations += notifications(block, again_after=START_AGAIN_AFTER, max_run_count=MAX_RUN_COUNT)
        for automation in automations:
            upsert(client, automation)
        remove_former(client, {automation.name for automation in automations})
    if url := os.environ.get("SERVING_WEBHOOK_URL"):
        register_webhook(url, os.environ["SERVING_WEBHOOK_SECRET"])
    return 0


def create_pool(client: SyncPrefectClient) -> None:
    """The work pool, unless there is one: a worker that starts at the same moment makes it too."""
    with suppress(ObjectAlreadyExists):
        client.create_work_pool(WorkPoolCreate(name=POOL, type="process"))


def upsert(client: SyncPrefectClient, automation: AutomationCore) -> None:
    """Create an automation or update the existing one; a paused one stays paused.

    An existing automation is found by its tag, even if it has been renamed, or by its name if it has no tags of this
    project, as earlier versions created it.
    """
    marked = automation.model_copy(update={"tags": [OURS, automation.name]})
    existing = [each for each in _automations(client) if _is_made_of(each, automation)]
    if not existing:
        client.create_automation(marked)
        return
    kept, *others = existing
    for other in others:
        client.delete_automation(other.id)
    wanted = marked.model_copy(update={"enabled": all(each.enabled for each in existing)})
    if AutomationCore.model_validate(kept.model_dump(exclude={"id"})) != wanted:
        client.update_automation(kept.id, wanted)


def _automations(client: SyncPrefectClient) -> list[Automation]:
    found: list[Automation] = []
    while page := client.read_automations(limit=_PAGE, offset=len(found)):
        found.extend(page)
    return found


def _is_made_of(existing: Automation, automation: AutomationCore) -> bool:
    if OURS in existing.tags:
        return automation.name in existing.tags
    return existing.name == automation.name


def remove_former(client: SyncPrefectClient, names: Collection[str]) -> None:
    """Remove automations of earlier versions of this project that this version does not have."""
    for existing in _automations(client):
        if OURS in existing.tags and not any(name in existing.tags for name in names):
            client.delete_automation(existing.id)


def schedule_switches(client: SyncPrefectClient) -> dict[tuple[object, str | None], bool]:
    """Whether each schedule is active, by deployment id and slug."""
    return {
        (deployment.id, schedule.slug): schedule.active
        for deployment in client.read_deployments()
        for schedule in deployment.schedules
    }


def keep_switches(client: SyncPrefectClient, switched: dict[tuple[object, str | None], bool]) -> None:
    """Restore whether each schedule was active before deploying."""
    for deployment in client.read_deployments():
        for schedule in deployment.schedules:
            before = switched.get((deployment.id, schedule.slug), schedule.active)
            if before != schedule.active:
                client.update_deployment_schedule(deployment.id, schedule.id, active=before)


def deploy(path: Path) -> None:
    """`prefect deploy --all`, with the code in this process's directory."""
    specification = yaml.safe_load(path.read_text())
    for step in specification["pull"]:
        step["prefect.deployments.steps.set_working_directory"]["directory"] = str(Path.cwd())
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as copy:
        yaml.safe_dump(specification, copy)
        copy.flush()
        command = (sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", copy.name)
        subprocess.run(command, check=True)


def register_webhook(url: str, secret: str) -> None:
    """Register a signed webhook by which MLflow tells serving that an alias has moved."""
    client = MlflowClient()
    events: list[WebhookEventStr | WebhookEvent] = ["model_version_alias.created", "model_version_alias.deleted"]
    for webhook in client.list_webhooks():
        if webhook.name == WEBHOOK:
            client.update_webhook(webhook.webhook_id, url=url, events=events, secret=secret)
            return
    client.create_webhook(WEBHOOK, url, events, description="Serving follows the champion.", secret=secret)


if __name__ == "__main__":
    sys.exit(main())
