"""The card of a registered version: a page that plays it, in words from its own tags and its run."""

from collections.abc import Mapping
from typing import Final

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_GIT_COMMIT

from dqn.cards.card import card
from dqn.training.result import in_words
from flows.failures.errors import RegistryError
from flows.failures.outages import is_transient
from flows.registry import versions
from flows.tracking.runs import read_config
from flows.training.population import read_summary

CARD: Final = "card.html"


def version_card(client: MlflowClient, artifact: versions.Artifact) -> bytes:
    """The card of a version; what the registry does not say is left out."""
    version = versions.get_version(client, artifact.name, artifact.version)
    run = client.get_run(str(version.run_id))
    trained = judged = ""
    if origin := version.tags.get(versions.ORIGIN_TAG):  # no training here has registered it
        trained = f"A policy from {origin}"
    else:
        try:
            learned = versions.trained_by(client, artifact.name, artifact.version)
            summary = read_summary(client, learned)
            agents, best = summary.agents, summary.best.agent
            words = in_words(read_config(client, learned), agents, best, summary.seconds, summary.cpu_seconds)
            trained, judged = words["trained"], words["judged"]
        except (MlflowException, OSError, RegistryError) as error:
            if is_transient(error):
                raise
    source = f"MLflow run {run.info.run_name} ({run.info.run_id})"
    if commit := run.data.tags.get(MLFLOW_GIT_COMMIT):
        source += f", commit {commit[:12]}"
    return card(
        artifact.content,
        title=f"{artifact.policy.metadata.env_id}, version {artifact.version}",
        trained=f"{trained} {source}.".strip(),
        judged=f"{judged} {_evaluated(version.tags)}".strip(),
    )


def _evaluated(tags: Mapping[str, str]) -> str:
    """What a version's tags say of its evaluation, in sentences."""
    said = []
    if "eval.mean_return" in tags:
        said.append(
            f"The registered file was played in {tags['eval.episodes']} unseen episodes: mean return "
            f"{tags['eval.mean_return']}, least {tags['eval.min_return']}."
        )
    if "eval.robustness" in tags:
        said.append(f"Under pushes and in changed worlds it balanced {float(tags['eval.robustness']):.0%} of episodes.")
    said.append(f"The gate: {tags.get('gate', 'not evaluated yet')}.")
    return " ".join(said)
