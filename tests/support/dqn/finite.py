"""Small populations, and what must hold of all of them once an agent has diverged."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st

from dqn.config import DQNConfig
from dqn.presets import PRESETS
from dqn.training.result import TrainingResult

AGENTS, ENVS, UPDATES = 3, 2, 24
SMALL: dict[str, Any] = {
    "num_agents": AGENTS,
    "num_envs": ENVS,
    "hidden_sizes": (8,),
    "batch_size": 4,
    "min_replay_batches": 3,
    "replay_capacity": 64,
    "max_updates": UPDATES,
    "eval_start": 8,
    "eval_interval": 8,
    "eval_episodes": 2,
    "acceptance_episodes": 3,
    "log_interval": 1,
}
BOUND = {"env_id": "ProbeRandomLength-v0", "observation_scale": (), "acceptance_return": None}
CONFIGS = {
    "cartpole": dataclasses.replace(PRESETS["cartpole"], **SMALL),
    "acrobot": dataclasses.replace(PRESETS["acrobot"], **(SMALL | BOUND)),
    "mountaincar": dataclasses.replace(PRESETS["mountaincar"], **(SMALL | BOUND)),
    "plain": DQNConfig(**(SMALL | BOUND | {"updates_per_step": 3})),
    "prioritised": DQNConfig(
        **(SMALL | BOUND | {"priority_exponent": 0.6, "dueling": True, "average_rate": 0.1, "loss": "huber"})
    ),
}
VALUES = (math.nan, math.inf, -math.inf)

values, agents = st.sampled_from(VALUES), st.integers(0, AGENTS - 1)
configs = st.sampled_from(sorted(CONFIGS))


def others_alike(faulty: TrainingResult, reference: TrainingResult, agent: int) -> None:
    for k in set(range(AGENTS)) - {agent}:
        assert faulty.agents[k] == reference.agents[k]
        for name in ("train/td_loss", "train/q_value", "train/episodic_return", "eval/mean_return"):
            for mine, theirs in zip(
                faulty.metrics.series(name, k),
                reference.metrics.series(name, k),
                strict=True,
            ):
                assert torch.equal(mine, theirs), (name, k)
        for networks in ("best", "final"):
            for mine, theirs in zip(
                getattr(faulty, networks).tensors, getattr(reference, networks).tensors, strict=True
            ):
                assert torch.equal(mine[k], theirs[k]), (networks, k)


def nothing_else_is(result: TrainingResult, agent: int, tmp_path: Path) -> None:
    """The agent is named, nothing that is kept is not finite, and another is exported."""
    assert result.agents[agent].diverged is not None
    assert "not finite" in result.agents[agent].divergence
    assert [each.agent for each in result.agents if each.diverged is not None] == [agent]
    assert result.best_agent != agent
    for networks in (result.best, result.final):
        assert all(bool(tensor.isfinite().all()) for tensor in networks.tensors)
    assert bool(np.isfinite(result.curves()["value"]).all())
    result.export(tmp_path / "policy.onnx")
