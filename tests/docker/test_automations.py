"""What Prefect does by itself in the stack: runs that died go on, a drift is adapted to, schedules make runs."""

import json
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
import yaml
from deploy import AUTOMATIONS, AWAITING_RETRY, COOL_DOWN, OURS, POOL, adapts, create_pool, remove_former, upsert
from jinja2 import Template
from prefect import flow
from prefect.automations import AutomationCore
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId
from prefect.client.schemas.objects import State, StateType
from prefect.client.schemas.schedules import CronSchedule
from prefect.events.actions import RunDeployment
from prefect.events.schemas.automations import Automation, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification
from prefect.flows import Flow, load_flow_from_entrypoint
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools import validate

from flows.orchestration.heartbeat import ALIVE_SECONDS
from tests.stack.system import within

ROOT = Path(__file__).parents[2]
ANSWERED_SECONDS = 180
"""Usually one; a server that finds its SQLite file locked waits for a minute."""


@flow
def nothing() -> None:
    """Does nothing."""


def test_the_automations_know_every_state_and_every_work_pool() -> None:
    crashed, never_started, goes_on, again = (automation.trigger for automation in AUTOMATIONS)
    for trigger in (crashed, never_started, goes_on, again):
        assert isinstance(trigger, EventTrigger)
        assert trigger.match_related == ResourceSpecification.model_validate({"prefect.resource.role": "work-pool"})
    assert isinstance(never_started, EventTrigger)
    assert isinstance(crashed, EventTrigger)
    for trigger in (crashed, never_started):  # servers may be away for two minutes, a run has to go on within three
        assert timedelta(seconds=120 + ALIVE_SECONDS) < trigger.within < timedelta(seconds=180)
    names = {kind.value.capitalize() for kind in StateType} | {"AwaitingRetry", "Late", "Retrying", "Suspended"}
    states = {f"prefect.flow-run.{name}" for name in names}
    assert states - never_started.expect == {"prefect.flow-run.Pending"}
    assert never_started.after >= {"prefect.flow-run.Pending", "prefect.flow-run.Submitting"}
    assert never_started.after.isdisjoint(never_started.expect)


def test_a_drift_starts_an_adaptation_with_what_the_event_says() -> None:
    deployment = uuid4()
    automation = adapts(deployment)
    (action,) = automation.actions
    assert isinstance(action, RunDeployment)
    assert action.deployment_id == deployment
    event = {
        "drift": "d1",
        "model": "dqn-CartPole-v1",
        "version": "3",
        "since": 17,
        "finding": 'it\'s "odd"',
        "serving": "u",
        "playing": "Playing with the motor's sign undone: rehearsed return 500 of 500",
    }
    rendered = {name: render(value, event) for name, value in (action.parameters or {}).items()}
    assert rendered == event
    adapting: Flow[..., Any] = load_flow_from_entrypoint(str(ROOT / "flows/deployed.py:adapt_policy"))
    validate(rendered, parameter_schema(adapting).model_dump())
    trigger = automation.trigger
    assert isinstance(trigger, EventTrigger)
    assert (trigger.posture, trigger.threshold, trigger.expect) == (Posture.Reactive, 1, {"dqn.policy.drifted"})
    assert trigger.for_each == {"prefect.resource.id", "dqn.drift"}
    assert trigger.within == COOL_DOWN


class Automations:
    """A server's automations, which it hands out two at a time at most."""

    def __init__(self, *automations: AutomationCore) -> None:
        self.kept = [Automation(id=uuid4(), **each.model_dump()) for each in automations]

    def read_automations(self, *, limit: int, offset: int = 0) -> list[Automation]:
        return self.kept[offset : offset + min(limit, 2)]

    def create_automation(self, automation: AutomationCore) -> None:
        self.kept.append(Automation(id=uuid4(), **automation.model_dump()))

    def update_automation(self, automation_id: UUID, automation: AutomationCore) -> None:
        self.kept = [
            Automation(id=each.id, **automation.model_dump()) if each.id == automation_id else each
            for each in self.kept
        ]

    def delete_automation(self, automation_id: UUID) -> None:
        self.kept = [each for each in self.kept if each.id != automation_id]

    def switches(self) -> dict[str, bool]:
        return {each.name: each.enabled for each in self.kept}


def deploy_automations(server: Any, automations: Iterable[AutomationCore]) -> None:
    """As deploying does."""
    automations = list(automations)
    for automation in automations:
        upsert(server, automation)
    remove_former(server, {automation.name for automation in automations})


def named(name: str, **more: Any) -> AutomationCore:
    return AUTOMATIONS[0].model_copy(update={"name": name, **more})


def test_an_automation_is_made_once_and_one_that_is_paused_stays_so() -> None:
    server = Automations()
    deploy_automations(server, AUTOMATIONS)
    first = [each.id for each in server.kept]
    server.kept[0] = server.kept[0].model_copy(update={"enabled": False})
    deploy_automations(server, AUTOMATIONS)
    assert [each.id for each in server.kept] == first
    assert [each.enabled for each in server.kept] == [False, True, True, True]


def test_an_automation_that_has_another_name_now_is_removed() -> None:
    foreign, untagged = named("a user's own", tags=["theirs"]), named("of a version without tags")
    server = Automations(foreign, untagged)
    deploy_automations(server, [untagged, named("old")])
    deploy_automations(server, [untagged, named("new")])
    assert server.switches() == {"a user's own": True, "of a version without tags": True, "new": True}


def test_an_automation_that_a_person_has_renamed_is_not_made_twice() -> None:
    server = Automations()
    deploy_automations(server, [named("ours")])
    server.kept[0] = server.kept[0].model_copy(update={"name": "a person's word for it", "enabled": False})
    deploy_automations(server, [named("ours")])
    assert server.switches() == {"ours": False}


def test_of_two_that_were_made_of_one_a_paused_one_decides() -> None:
    server = Automations(named("ours"), named("ours", enabled=False), named("ours", tags=[OURS, "ours"]))
    deploy_automations(server, [named("ours")])
    assert server.switches() == {"ours": False}
    assert len(server.kept) == 1


@pytest.mark.slow
def test_a_run_that_could_not_be_started_is_scheduled_again_once(prefect_api: str) -> None:
    with SyncPrefectClient(prefect_api) as client, installed(client, AUTOMATIONS):
        create_pool(client)
        deployment = client.create_deployment(client.create_flow(nothing), "unlucky", work_pool_name=POOL)
        flow_run = client.create_flow_run_from_deployment(deployment)
        crash(client, flow_run.id)
        within(ANSWERED_SECONDS, lambda: scheduled_again(client, flow_run.id))
        crash(client, flow_run.id)
        other = client.create_flow_run_from_deployment(deployment)
        crash(client, other.id)  # later than the second crash, and answered by the same automation
        within(ANSWERED_SECONDS, lambda: scheduled_again(client, other.id))
        assert client.read_flow_run(flow_run.id).state_name == "Crashed"


@pytest.mark.slow
def test_a_schedule_makes_runs(prefect_api: str) -> None:
    deployments = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    [cleanup] = [each for each in deployments if each["name"] == "daily"]
    [schedule] = cleanup["schedules"]
    with SyncPrefectClient(prefect_api) as client:
        create_pool(client)
        planned = DeploymentScheduleCreate(schedule=CronSchedule(cron=schedule["cron"]), active=schedule["active"])
        deployment = client.create_deployment(
            client.create_flow(nothing), "daily", work_pool_name=POOL, schedules=[planned]
        )
        client.request("POST", "/deployments/{id}/schedule", path_params={"id": deployment}, json={})
        runs = client.read_flow_runs(deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[deployment])))
    assert runs
    assert {run.state_name for run in runs} == {"Scheduled"}


@contextmanager
def installed(client: SyncPrefectClient, automations: Iterable[AutomationCore]) -> Iterator[None]:
    """The server is other tests' too: they want their crashed runs to stay crashed."""
    for automation in automations:
        upsert(client, automation)
    try:
        yield
    finally:
        for automation in client.read_automations():
            client.delete_automation(automation.id)


def crash(client: SyncPrefectClient, flow_run_id: UUID) -> None:
    """As a worker does that cannot hand a run over, a second after it took it.

    At once would not do: on SQLite Prefect's server loses some of the events that it evaluates side by side.
    """
    client.set_flow_run_state(flow_run_id, State(type=StateType.PENDING))
    time.sleep(1)
    client.set_flow_run_state(flow_run_id, State(type=StateType.CRASHED))


def scheduled_again(client: SyncPrefectClient, flow_run_id: UUID) -> bool:
    return client.read_flow_run(flow_run_id).state_name == AWAITING_RETRY


def render(value: Any, payload: dict[str, Any]) -> Any:
    """A typed parameter as Prefect's server makes it."""
    if value["__prefect_kind"] == "json":
        return json.loads(render(value["value"], payload))
    assert value["__prefect_kind"] == "jinja"
    return Template(value["template"]).render(event={"payload": payload})
