"""Which world explains what was observed since the drift."""

import dataclasses
import time
from typing import Any, Final

import mlflow

from dqn.environments.world import World
from dqn.identification.identify import ENVIRONMENTS, identify
from dqn.identification.record import UnexplainedError
from flows.adaptation.timeline import Adaptation, RefusedError
from flows.adaptation.watch import POLL_SECONDS
from flows.orchestration.step import step
from flows.serving_client import Show, as_experience
from flows.tracking.attempt import Attempt, FencedClient
from flows.tracking.store import connect

WANTED: Final = 60
"""Transitions that are waited for; identification takes half of them at the least."""
NEWEST: Final = 300
"""Transitions that are looked at."""
PATIENCE: Final = 30.0
"""Seconds to wait for them: somebody must watch, or nothing is played."""
LOOKS: Final = 3
"""Experiences that may be contradictory before a person is asked: the world may change while it is looked at."""


def identified(adaptation: Adaptation, since: int) -> dict[str, Any]:
    """The world as the experience has it.

    Raises:
        RefusedError: if none explains it.
    """
    refusal = ""
    for _ in range(LOOKS):
        lived, count, since = fetch(adaptation.show.url, since, adaptation.attempt)
        adaptation.tell("experience", f"{count} transitions")
        found = identify_world(lived, adaptation.attempt)
        if not found["refusal"]:
            world: dict[str, Any] = found["world"]
            adaptation.tell("identified", found["text"], world=world)
            return world
        refusal = found["refusal"]
    raise RefusedError(f"{refusal}. Nothing was trained or promoted: look at the system, or train by hand")


@step("fetch experience")
def fetch(url: str, since: int, attempt: Attempt) -> tuple[str, int, int]:
    """Keep what was lived through after a transition. Returns the artifact, their number and the newest one's id."""
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
def identify_world(lived: str, attempt: Attempt) -> dict[str, Any]:
    """The world that explains an experience: `world` and `text`, or the `refusal`."""
    answer = mlflow.artifacts.load_dict(lived)
    try:
        if answer["env_id"] not in ENVIRONMENTS:
            raise UnexplainedError(f"the worlds of {answer['env_id']} cannot be identified, those of CartPole can")
        found = identify(as_experience(answer["transitions"], NEWEST), World.from_dict(answer["world"]))
    except UnexplainedError as error:
        return {"refusal": str(error)}
    result = {"world": found.world.to_dict(), "text": f"{found.world}: {found}", "refusal": ""}
    estimates = {name: dataclasses.asdict(estimate) for name, estimate in found.changed.items()}
    content = {**result, "changed": estimates, "explained": found.explained, "noise": found.noise}
    fenced = FencedClient(client=connect(), attempt=attempt)
    fenced.checked().log_dict(attempt.run_id, content, "identification.json")
    return result
