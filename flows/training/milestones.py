"""Milestones of the exported agent's training: `learning/` in the run, from untrained to the last one before the end.

`learning/learning.json` lists them, oldest first: `file`, `updates`, `environment_steps` and `mean_return`, which is
greedy over 20 episodes. Each file beside it is an ONNX policy with the same contract as the registered version. The
version itself, which follows the last milestone, is not stored again.
"""

import json
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mlflow import MlflowClient
from mlflow.entities import Metric

from dqn.evaluation.greedy import greedy_returns
from dqn.networks.onnx import ModelProperties, to_onnx
from dqn.networks.population import together
from dqn.seeding import SELECTION, stream_seed
from dqn.training.machine import torch_threads
from dqn.training.result import TrainingResult
from flows.tracking.attempt import FencedClient
from flows.training.population import read_summary
from serving.policy import OnnxPolicy

DIRECTORY: Final = "learning"
INDEX: Final = "learning.json"
MEAN_RETURN: Final = "learning/mean_return"
_EPISODES: Final = 20

SEED: Final = 0
PUSHES: Final[Mapping[int, float]] = {150: 40.0, 300: -40.0}
"""Newtons by step. Every milestone plays the episode that the server shows of it (`serving.episodes.milestones`)."""


@dataclass(frozen=True, kw_only=True)
class Learned:
    """The agent at one milestone of its training."""

    label: str
    mean_return: float
    """Greedy, over `_EPISODES` episodes; of the last one, over the version's evaluation."""
    policy: OnnxPolicy


def keep_learning(fenced: FencedClient, result: TrainingResult) -> None:
    """Log the milestones of the best agent to the run, and their mean returns as a metric."""
    config, best = result.config, result.agents[result.best_agent]
    way = result.milestones_of(best.agent)
    if not way:  # it was accepted untrained
        return
    networks = together([kept.networks for kept in way])
    seed = stream_seed(config.seed, SELECTION, 0, 2)
    with torch_threads(config.num_threads):
        returns = (
            greedy_returns(networks, config.environment, config.world, episodes=_EPISODES, seed=seed).mean(1).tolist()
        )
    properties = ModelProperties.of(
        config,
        num_actions=networks.num_actions,
        run_id=fenced.run_id,
        agent=best.agent,
        observed=best.observed,
    )
    index = [
        {
            "file": f"{kept.updates:07d}.onnx",
            "updates": kept.updates,
            "environment_steps": kept.environment_steps,
            "mean_return": mean_return,
        }
        for kept, mean_return in zip(way, returns, strict=True)
    ]
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / INDEX).write_text(json.dumps(index, indent=1) + "\n")
        for k, entry in enumerate(index):
            model = to_onnx(networks.agent(k), properties, observation_shape=networks.body.observation_shape)
            (Path(directory) / entry["file"]).write_bytes(model)
        fenced.checked().log_artifacts(fenced.run_id, directory, DIRECTORY)
    if MEAN_RETURN not in fenced.client.get_run(fenced.run_id).data.metrics:  # an earlier attempt may have logged it
        now = int(time.time() * 1000)
        metrics = [Metric(MEAN_RETURN, entry["mean_return"], now, entry["environment_steps"]) for entry in index]
        fenced.client.log_batch(fenced.run_id, metrics=metrics)


def read_learning(client: MlflowClient, run_id: str, version: OnnxPolicy, *, mean_return: float) -> list[Learned]:
    """The milestones of a run, oldest first, and then its registered version; empty if the run has no milestones."""
    if not client.list_artifacts(run_id, DIRECTORY):
        return []
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(client.download_artifacts(run_id, DIRECTORY, directory))
        milestones = [
            Learned(
                label=_label(entry["updates"], entry["environment_steps"]),
                mean_return=entry["mean_return"],
                policy=OnnxPolicy.load((folder / entry["file"]).read_bytes()),
            )
            for entry in json.loads((folder / INDEX).read_text())
        ]
    best = read_summary(client, run_id).best
    label = _label(best.updates, best.environment_steps)
    return [*milestones, Learned(label=label, mean_return=mean_return, policy=version)]


def _label(updates: int, environment_steps: int) -> str:
    return f"{updates:,} updates, {environment_steps:,} steps" if updates else "untrained"
