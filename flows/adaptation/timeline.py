"""One adaptation: its run in MLflow, its limits, and its timeline on the page and in Prefect."""

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import mlflow
from mlflow import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_GIT_COMMIT, MLFLOW_RUN_NOTE, MLFLOW_SOURCE_NAME

from flows.failures.errors import FlowError, one_line
from flows.orchestration.flow_run import flow_run_id
from flows.orchestration.step import step
from flows.serving_client import ADAPTATION_TAG, SHOW_TAG, Show
from flows.tracking.attempt import Attempt, FencedClient, StaleAttemptError, begin
from flows.tracking.labels import git_commit
from flows.tracking.runs import new_experiment
from flows.tracking.store import connect
from flows.uris import without_login

TIMELINE: Final = "timeline.json"
MODEL_TAG: Final = "adaptation.model"
OUTCOME_TAG: Final = "adaptation.outcome"
BY_TAG: Final = "adaptation.flow_run_id"
"""Not the tag of a training's flow run: an adaptation and the training that it begins are runs of one flow run."""
EXPERIMENT: Final = "adaptations"
_HOUR_MS: Final = 3_600_000

logger = logging.getLogger(__name__)


class RefusedError(FlowError):
    """An adaptation that needs a person to continue; the message says why and what to do."""


class TakenError(FlowError):
    """Another flow run adapts to the same drift. It reports to the page, and this one does not."""


@dataclass(frozen=True, kw_only=True)
class Event:
    """An entry of the timeline."""

    stage: str
    """The state of the adaptation; the name of the field on the wire."""
    text: str
    at: float
    """Seconds since 1970."""


@dataclass(kw_only=True)
class Adaptation:
    """An adaptation to a drift, and its timeline."""

    show: Show
    attempt: Attempt
    events: list[Event] = field(default_factory=list)
    outcome: tuple[str, str] = ("", "")

    def tell(
        self,
        stage: str,
        text: str,
        *,
        progress: float | None = None,
        run: str | None = None,
        version: tuple[str, int] | None = None,
        world: dict[str, Any] | None = None,
    ) -> None:
        """Add an entry to the timeline, and report it to the page with links."""
        self.outcome = (stage, text)
        self.note(stage, text)
        self.show.tell(stage, text, progress=progress, links=links(run or self.attempt.run_id, version), world=world)

    def note(self, stage: str, text: str) -> None:
        """Add an entry to the timeline only."""
        self.events.append(Event(stage=stage, text=text, at=time.time()))
        print(f"{stage}: {text}")

    def end(self, stage: str, text: str, *, world: dict[str, Any] | None = None) -> tuple[str, str]:
        """Add the last entry, with the world that the server expects from now on. Returns the outcome."""
        self.tell(stage, text, world=world)
        return stage, text

    def markdown(self) -> str:
        """The timeline as a markdown table."""
        began = self.events[0].at if self.events else 0.0
        rows = [f"| {each.at - began:.1f} | {each.stage} | {each.text.replace('|', '/')} |" for each in self.events]
        return "\n".join(["| seconds | stage | what |", "|---:|---|---|", *rows])


@step("begin", keeps_result=False)
def begin_adaptation(show: Show, model: str, finding: str, most_an_hour: int) -> Attempt:
    """Begin an attempt at an adaptation.

    Raises:
        TakenError: if another flow run adapts to this drift.
        RefusedError: if `most_an_hour` adaptations of the model have begun within an hour.
    """
    client, mine = connect(), flow_run_id() or show.drift
    found = client.get_experiment_by_name(EXPERIMENT)
    experiment = found.experiment_id if found else new_experiment(client, EXPERIMENT)
    runs = client.search_runs([experiment], f"tags.`{MODEL_TAG}` = '{model}'", max_results=1_000)
    for run in runs:
        if run.data.tags[BY_TAG] == mine:  # an earlier attempt
            client.update_run(run.info.run_id, status="RUNNING")
            return begin(client, run.info.run_id)
    for run in runs:
        if run.data.tags[ADAPTATION_TAG] == show.drift and run.info.status != "FAILED":
            raise TakenError(f"flow run {run.data.tags[BY_TAG]} is adapting to this drift already")
    recent = [run for run in runs if run.info.start_time > time.time() * 1_000 - _HOUR_MS]
    if len(recent) >= most_an_hour:
        raise RefusedError(
            f"{len(recent)} adaptations of {model} began within an hour, at most {most_an_hour} may: something else is "
            "wrong; look at it, or raise the deployment's parameter most_an_hour"
        )
    tags = {
        ADAPTATION_TAG: show.drift,
        SHOW_TAG: show.url,
        MODEL_TAG: model,
        BY_TAG: mine,
        MLFLOW_GIT_COMMIT: git_commit(),
        MLFLOW_SOURCE_NAME: "flows/adapt.py",
        MLFLOW_RUN_NOTE: finding or "a drift was noticed",
    }
    run = client.create_run(experiment, tags=tags, run_name=f"{model} {show.drift[:8]}")
    return begin(client, run.info.run_id)


def end_adaptation(adaptation: Adaptation, status: str) -> None:
    """End the adaptation's run, with its timeline and outcome in MLflow and on the flow run's page.

    A write that fails does not prevent the following ones: the run ends even if its timeline cannot be logged. The
    first error is raised after the last write.
    """
    fenced, run_id = FencedClient(client=MlflowClient(), attempt=adaptation.attempt), adaptation.attempt.run_id
    timeline = [vars(event) for event in adaptation.events]
    writes: tuple[Callable[[MlflowClient], object], ...] = (
        lambda mine: mine.log_dict(run_id, {"stages": timeline}, TIMELINE),
        lambda mine: mine.set_tag(run_id, OUTCOME_TAG, adaptation.outcome[0]),
        lambda mine: mine.set_terminated(run_id, status),
    )
    errors = []
    for write in writes:
        try:
            write(fenced.checked())
        except StaleAttemptError:
            return  # the run belongs to the newer attempt
        except Exception as error:
            errors.append(error)
    if errors:
        raise errors[0]
    if not flow_run_id():
        return
    from prefect.artifacts import create_markdown_artifact
    from prefect.events import emit_event

    outcome, text = adaptation.outcome
    create_markdown_artifact(
        key="adaptation",
        description=f"{outcome}: {text}"[:200],
        markdown=f"# {outcome}\n\n{text}\n\n{adaptation.markdown()}\n\n"
        + "\n".join(f"[{name}]({url})" for name, url in links(run_id, None).items()),
    )
    if outcome in ("recovered", "confirmed"):
        model = fenced.client.get_run(run_id).data.tags[MODEL_TAG]
        resource = {"prefect.resource.id": f"dqn.policy.{model}", "prefect.resource.name": model}
        emit_event("dqn.policy.recovered", resource=resource, payload={"drift": adaptation.show.drift, "text": text})


def links(run_id: str, version: tuple[str, int] | None) -> dict[str, str]:
    """Links to the pages of the flow run, a run and a version, as far as servers have them."""
    found: dict[str, Any] = {}
    if flow_run_id():
        import prefect.runtime
        from prefect.settings import PREFECT_UI_URL

        if PREFECT_UI_URL.value():
            found["flow run"] = prefect.runtime.flow_run.ui_url
    uri = mlflow.get_tracking_uri()
    if uri.startswith("http"):
        pages = f"{without_login(os.environ.get('MLFLOW_UI_URL', uri))}/#"
        try:
            experiment = MlflowClient().get_run(run_id).info.experiment_id
        except Exception as error:  # the report does not depend on its links
            logger.warning("run %s cannot be linked to: %s", run_id, one_line(error))
            return found
        found["run"] = f"{pages}/experiments/{experiment}/runs/{run_id}"
        if version:
            found["version"] = f"{pages}/models/{version[0]}/versions/{version[1]}"
    return found
