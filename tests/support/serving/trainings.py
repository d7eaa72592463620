"""A running training, and what its run shows of it."""

import base64
import json
from typing import Any

from serving.models.source import RunningTraining

NOW = 2_000_000_000.0


def running(live: str = f"900 {NOW:.0f}", **other: Any) -> RunningTraining:
    values = {"run_id": "r", "experiment_id": "7", "name": "cartpole", "started": NOW - 60, "trained": False}
    return RunningTraining(**{**values, "live": live, **other})


def population(*models: bytes, **other: Any) -> bytes:
    agents = [
        {"agent": k, "state": "learning", "curve": [[1_000, 20.5]], "model": base64.b64encode(model).decode()}
        for k, model in enumerate(models)
    ]
    told = {"env_id": "CartPole-v1", "updates": 900, "max_updates": 4_000, "environment_steps": 1_000, "solved": 1}
    return json.dumps({**told, "num_agents": 2, "mean_return": 20.5, "agents": agents, **other}).encode()
