"""Identification of the world from the transitions since the drift."""

import dataclasses
import time
from typing import Any, Final

import mlflow

from dqn.environments.world import World
from dqn.identification import by_step
from dqn.identification.identify import ENVIRONMENTS, identify
from dqn.identification.record import UnexplainedError
from flows.adaptation.beyond_cartpole import identify_from
from flows.adaptation.timeline import Adaptation, RefusedError
from flows.adaptation.watch import POLL_SECONDS
from flows.names import model_name
from flows.orchestration.step import step
from flows.serving_client import Show, as_experience
from flows.tracking.attempt import Attempt, FencedClient
from flows.tracking.store import connect

WANTED: Final = 60
"""Transitions to wait for; identification needs half of them at least."""
NEWEST: Final = 300
"""Transitions that are used, the newest."""
PATIENCE: Final = 30.0
"""Seconds to wait for them. Without a viewer, nothing is played."""
LOOKS: Final = 3
"""Attempts to identify the world before a person is needed: it may change while transitions are collected."""


def identified(adaptation: Adaptation, model: str, since: int) -> dict[str, Any]:
    """The world that explains the observed transitions of a registered model's environment.

    Raises:
        RefusedError: if no world explains them.
    """
    refusal = ""
    for _ in range(LOOKS):
        experience, count, since = fetch(adaptation.show.url, since, adaptation.attempt)
        adaptation.tell("experience", f"{count} transitions")
        found = identify_world(experience, model, adaptation.attempt)
        if not found["refusal"]:
            world: dict[str, Any] = found["world"]
            adaptation.tell("identified", found["text"], world=world)
            return world
        refusal = found["refusal"]
    raise RefusedError(f"{refusal}. Nothing was trained or promoted: look at the system, or train by hand")


@step("fetch experience")
def fetch(url: str, since: int, attempt: Attempt) -> tuple[str, int, int]:
    """Log the transitions after `since`. Returns the artifact, their number and the id of the newest one."""
    fenced, show = FencedClient(client=connect(), attempt=attempt), Show(url=url, drift="")
    deadline = time.monotonic() + PATIENCE
    while True:
        answer = show.experience(since)
        count = len(answer["transitions"].get("id", ()))
        if count >= WANTED or time.monotonic() > deadline:
            break
        time.sleep(POLL_SECONDS)
    file = f"experience/since-{since}.json"
    fenced.checked().log_dict(attempt.run_id, answer, file)
    return f"{fenced.client.get_run(attempt.run_id).info.artifact_uri}/{file}", count, int(answer["next"])


@step("identify world")
def identify_world(experience: str, model: str, attempt: Attempt) -> dict[str, Any]:
    """The world that explains the transitions of an artifact: `world` and `text`, or the `refusal`."""
    answer = mlflow.artifacts.load_dict(experience)
    env_id = answer["env_id"]
    try:
        if model_name(env_id) != model:  # else an event could choose a module to import
            raise UnexplainedError(f"the server plays {env_id}, and the event is of the model {model[:80]!r}")
        if env_id in by_step.ENVIRONMENTS:
            result = identify_from(answer)
            _keep(attempt, result)
            return result
        if env_id not in ENVIRONMENTS:
            known = ", ".join((*ENVIRONMENTS, *by_step.ENVIRONMENTS))
            raise UnexplainedError(f"the worlds of {env_id} cannot be identified, those of {known} can")
        found = identify(as_experience(answer["transitions"], NEWEST), World.from_dict(answer["world"]))
    except UnexplainedError as error:
        return {"refusal": str(error)}
    result = {"world": found.world.to_dict(), "text": f"{found.world}: {found}", "refusal": ""}
    estimates = {name: dataclasses.asdict(estimate) for name, estimate in found.changed.items()}
    _keep(attempt, {**result, "changed": estimates, "explained": found.explained, "noise": found.noise})
    return result


def _keep(attempt: Attempt, content: dict[str, Any]) -> None:
    fenced = FencedClient(client=connect(), attempt=attempt)
    fenced.checked().log_dict(attempt.run_id, content, "identification.json")
