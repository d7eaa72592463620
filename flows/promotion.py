"""Promotion, rollback and retirement, for a person: as a flow run, or without Prefect."""

from uuid import uuid4

from mlflow import MlflowClient

from flows.orchestration.flow_run import flow_run_id
from flows.orchestration.step import step
from flows.registry import history, versions
from flows.registry.champion import decide, play_rival, promote
from flows.registry.evaluation import evaluate, play_its_episodes
from flows.registry.gate import Decision
from flows.registry.gate_tag import undecided_if_ended
from flows.registry.lock import promotion
from flows.reporting.draw import draw_version
from flows.serving_client import require_shadow_steps
from flows.tracking.attempt import FencedClient
from flows.tracking.store import connect


def promote_version(version: int, env_id: str, force: bool, shadow_steps: int = 0) -> str:
    """Evaluate a registered version again and make it champion if it passes the gate. Returns its gate tag.

    Raises:
        InputError: if it is not there, or has not agreed with the champion in `shadow_steps` steps in the shadow.
    """
    name = find_model(version, env_id, force)
    if shadow_steps:
        require_shadow_steps(name, version, shadow_steps)
    with undecided_if_ended(FencedClient(client=MlflowClient(), attempt=None), name, version):
        evaluation = evaluate(name, version)
    gate = promote(name, version, evaluation, force=force)
    draw_version(name, version, evaluation)
    return gate


def would_decide(client: MlflowClient, artifact: versions.Artifact) -> Decision:
    """What the gate would decide on a version, or on a file that would become one. Nothing is written."""
    mine = play_its_episodes(artifact)
    champion = versions.version_of(client, artifact.name, versions.CHAMPION)
    rival = play_rival(client, artifact, champion, mine.seed, stressed=mine.stress is not None)
    return decide(artifact, artifact.sha256, rival, mine, None)


@step("find model", keeps_result=False)
def find_model(version: int, env_id: str, force: bool = False) -> str:
    """Name of the environment's registered model, which has this version.

    Raises:
        InputError: if the version does not exist, or was retired and `force` is not set.
    """
    name = versions.model_name(env_id)
    history.require_usable(connect(), name, version, force=force)
    return name


@step("roll back", keeps_result=False)
def roll_back(name: str) -> tuple[int, str]:
    """Return to the champion before the present one. Returns its version, and a sentence about where that stands."""
    client = connect()
    with promotion(client, name) as token:
        version = history.return_to_previous(client, name, token, flow_run_id() or uuid4().hex)
    *_, further = [None, *history.earlier_champions(client, name)]
    then = f"another rollback returns to version {further}" if further else "there is no earlier champion"
    return version, f"version {version} of {name} plays again; {then}"


@step("retire", keeps_result=False)
def retire(name: str, version: int) -> None:
    """Take a version out of use."""
    client = connect()
    with promotion(client, name) as token:
        history.retire(client, name, version, token)
