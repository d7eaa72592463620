"""The data of the learning curves: computed when training ends, kept in the run and drawn later."""

from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from dqn.training.metrics import MetricName
from dqn.training.result import TrainingResult

Floats = npt.NDArray[np.float64]

_BINS: Final = 60


@dataclass(frozen=True, kw_only=True)
class Curves:
    """Returns of every agent against its environment steps; NaN where an agent has none."""

    env_id: str
    exploring_steps: Floats
    """`[bins]`, the end of each bin"""
    exploring: Floats
    """`[A, bins]`, mean return of the training episodes that ended in the bin"""
    greedy_steps: Floats
    """`[N]`, steps of the evaluations"""
    greedy: Floats
    """`[A, N]`, mean return of the latest evaluation; an agent that has left keeps the value of its best network"""
    solved_at: Floats
    """`[A]`, environment steps; NaN for an agent that is not solved"""

    @classmethod
    def of(cls, result: TrainingResult) -> Self:
        """The curves of a trained population."""
        agents = range(len(result.agents))
        edges = np.linspace(0, max(agent.environment_steps for agent in result.agents), _BINS + 1)
        evaluations = [_series(result, "eval/mean_return", agent) for agent in agents]
        greedy_steps = np.unique(np.concatenate([steps for steps, _ in evaluations]))
        return cls(
            env_id=result.config.env_id,
            exploring_steps=edges[1:],
            exploring=np.stack([_binned(*_series(result, "train/episodic_return", agent), edges) for agent in agents]),
            greedy_steps=greedy_steps.astype(np.float64),
            greedy=np.stack([_last_known(*evaluation, greedy_steps) for evaluation in evaluations]),
            solved_at=np.array([agent.environment_steps if agent.solved else np.nan for agent in result.agents]),
        )

    def to_dict(self) -> dict[str, Any]:
        """As JSON values: lists, with null for NaN."""
        content = {name: value for name, value in vars(self).items() if name != "env_id"}
        return {"env_id": self.env_id, **{name: _without_nan(value) for name, value in content.items()}}

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Self:
        """Inverse of `to_dict`."""
        arrays = {name: np.array(value, dtype=np.float64) for name, value in content.items() if name != "env_id"}
        return cls(env_id=content["env_id"], **arrays)


def _without_nan(values: Floats) -> Any:
    return np.where(np.isnan(values), np.array(None), values).tolist()


def _series(result: TrainingResult, name: MetricName, agent: int) -> tuple[Floats, Floats]:
    steps, values = result.metrics.series(name, agent)
    return steps.numpy(), values.numpy()


def _last_known(known_steps: Floats, values: Floats, steps: Floats) -> Floats:
    """Values `[N]` at `steps` `[N]`: the latest known one, NaN before the first."""
    if not len(known_steps):  # the agent diverged before its first evaluation
        return np.full(len(steps), np.nan)
    position = np.searchsorted(known_steps, steps, side="right") - 1
    return np.where(position >= 0, values[np.maximum(position, 0)], np.nan)


def _binned(steps: Floats, values: Floats, edges: Floats) -> Floats:
    """Mean `[bins]` of the returns recorded in each bin; NaN after the agent's last one."""
    index = np.clip(np.digitize(steps, edges) - 1, 0, len(edges) - 2)
    count = np.bincount(index, minlength=len(edges) - 1)
    total = np.bincount(index, weights=values, minlength=len(edges) - 1)
    curve = np.full(len(edges) - 1, np.nan)
    if not len(steps):  # an agent may be solved before its first training episode ends
        return curve
    np.divide(total, count, out=curve, where=count > 0)
    between = np.isnan(curve) & (np.arange(len(curve)) < index.max(initial=0))
    curve[between] = np.interp(edges[1:][between], edges[1:][count > 0], curve[count > 0])
    return curve
