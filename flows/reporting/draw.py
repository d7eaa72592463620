"""The pictures of a run. They are drawn after the promotion, so that it does not wait for them."""

import logging
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import numpy as np

from flows.failures.errors import one_line
from flows.orchestration.step import step
from flows.registry import versions
from flows.registry.champion import read_champion_stress
from flows.registry.evaluation import baselines, read_played
from flows.registry.returns import read_returns
from flows.reporting.card import CARD, version_card
from flows.tracking.attempt import Attempt, FencedClient
from flows.tracking.store import connect
from flows.training.milestones import read_learning
from flows.training.population import read_curves, read_summary

LEARNING_CURVES: Final = "learning_curves.png"
FINAL_RETURNS: Final = "final_returns.png"
EPISODE: Final = "episode.gif"
LEARNING: Final = "learning.gif"
STRESS: Final = "stress_test.png"

logger = logging.getLogger(__name__)


@step("draw population")
def draw_population(run_id: str, agents: str, attempt: Attempt) -> None:
    """Draw the learning curves of a run, and the final returns, which are in the artifact `agents`."""
    from flows.reporting import figures

    client = connect()
    curves, returns = read_curves(client, run_id), read_returns(agents)
    diverged = [agent.agent for agent in read_summary(client, run_id).agents if agent.diverged is not None]
    returns[diverged] = np.nan
    fenced = FencedClient(client=client, attempt=attempt)
    draw(fenced, run_id, LEARNING_CURVES, lambda: figures.png(figures.learning_curves(curves)))
    draw(fenced, run_id, FINAL_RETURNS, lambda: figures.png(figures.final_returns(returns, curves.env_id)))


@step("draw version")
def draw_version(name: str, version: int, evaluation: str, attempt: Attempt | None = None) -> None:
    """Draw an evaluated version, in its run: its card, an episode, the episode's milestones, and the stress test."""
    from flows.reporting import animations, figures

    client = connect()
    fenced = FencedClient(client=client, attempt=attempt)
    run_id = str(versions.get_version(client, name, version).run_id)
    artifact = versions.download(name, version)
    policy = artifact.policy
    draw(fenced, run_id, CARD, lambda: version_card(client, artifact))
    mine = read_played(evaluation)
    draw(fenced, run_id, EPISODE, lambda: animations.episode_gif(policy, seed=mine.seed))

    def learning() -> bytes | None:
        way = read_learning(client, run_id, policy, mean_return=mine.returns.mean())
        return animations.learning_gif(way) if way else None

    draw(fenced, run_id, LEARNING, learning)
    if mine.stress:
        tests = {f"version {version}": mine.stress, **read_champion_stress(client, run_id, version)}
        tests |= baselines(policy.metadata.world)
        draw(fenced, run_id, STRESS, lambda: figures.png(figures.stress_cells(tests)))


def draw(fenced: FencedClient, run_id: str, file: str, picture: Callable[[], bytes | None]) -> None:
    """Log a picture, if there is one. If drawing fails, a warning is logged instead."""
    try:
        content = picture()
    except Exception as error:  # of a drawing library; the run does not depend on its pictures
        logger.warning("%s could not be drawn: %s", file, one_line(error))
        return
    if not content:
        return
    with TemporaryDirectory() as directory:
        path = Path(directory) / file
        path.write_bytes(content)
        fenced.checked().log_artifact(run_id, str(path))
