"""What a training gives: networks, how every agent ended, curves, returns on unseen episodes, an ONNX file."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dqn.config import DQNConfig
from dqn.evaluation.greedy import greedy_returns
from dqn.finite import DivergedError
from dqn.networks.population import QNetworks
from dqn.seeding import TEST, stream_seed
from dqn.training.machine import torch_threads
from dqn.training.metrics import MetricHistory
from dqn.training.milestones import Milestone
from dqn.training.state import TrainingState


@dataclass(frozen=True, kw_only=True)
class AgentResult:
    """How one agent ended."""

    agent: int
    solved: bool
    """Whether it passed the acceptance evaluation."""
    selection_return: float | None
    """Mean greedy return of the network that is kept, in the evaluation it was kept for; the best of many is lucky.

    None if it diverged before its first evaluation: what is kept of it is untrained."""
    updates: int
    environment_steps: int
    episodes: int
    observed: tuple[tuple[float, float], ...] = ()
    """Least and greatest value of each entry of the observations in its replay memory when its training ended."""
    judged_return: float | None = None
    """Mean greedy return on the fresh episodes that all nominees of the population play; none where it was none."""
    robustness: float | None = None
    """Share of episodes held under stress, of a solved agent that was among the last to choose from."""
    diverged: int | None = None
    """Gradient updates after which something of it was not finite, so that it left; none if that never happened."""
    divergence: str = ""
    """What was not finite."""


@dataclass(frozen=True, kw_only=True, repr=False)
class TrainingResult:
    """A trained population."""

    config: DQNConfig
    best: QNetworks
    """Each agent's best network by evaluation; the accepted one of a solved agent.

    Of one that diverged before its first evaluation it is untrained, and `best_agent` is never that one."""
    final: QNetworks
    """Each agent's last network, whatever its evaluation said."""
    agents: tuple[AgentResult, ...]
    metrics: MetricHistory
    seconds: float
    """Wall-clock time of the loop, over all processes that took part."""
    cpu_seconds: float
    milestones: tuple[Milestone, ...] = ()
    """Networks on the way, oldest first."""

    @property
    def best_agent(self) -> int:
        """The most robust of the agents, where that was looked at, of equals the quickest.

        Otherwise of those that were judged the one with the highest return: solved ones first, of equals the quickest.
        Neither an agent that diverged nor a return that is not finite counts.

        Raises:
            DivergedError: if none is left.
        """
        sound = [agent for agent in self.agents if agent.diverged is None]
        robust = [
            (-a.robustness, a.updates, a.agent) for a in sound if a.robustness is not None and isfinite(a.robustness)
        ]
        if robust:
            return min(robust)[-1]
        judged = [
            (not agent.solved, -agent.judged_return, agent.updates, agent.agent)
            for agent in sound
            if agent.judged_return is not None and isfinite(agent.judged_return)
        ]
        if not judged:
            raise DivergedError("there is no best agent: none that has not diverged was judged by finite returns")
        return min(judged)[-1]

    @property
    def solved_fraction(self) -> float:
        """Share of agents that passed the acceptance evaluation."""
        return sum(agent.solved for agent in self.agents) / len(self.agents)

    def way_of(self, agent: int) -> list[Milestone]:
        """The milestones of one agent, from untrained to before the end of its training."""
        return [
            Milestone(
                updates=kept.updates,
                environment_steps=kept.environment_steps,
                agents=torch.tensor([agent]),
                networks=kept.of(agent),
            )
            for kept in self.milestones
            if agent in kept.agents.tolist() and kept.updates < self.agents[agent].updates
        ]

    def __repr__(self) -> str:
        solved = sum(agent.solved for agent in self.agents)
        return (
            f"{solved} of {len(self.agents)} agents solved {self.config.env_id}, the best is agent "
            f"{self.best_agent:02d}; training took {self.seconds:.1f} s ({self.cpu_seconds:.1f} CPU-seconds)"
        )

    def curves(self) -> dict[str, npt.NDArray[Any]]:
        """All metrics in columns that `pandas.DataFrame` takes: `metric`, `agent` (-1: all), `step` and `value`."""
        return self.metrics.columns()

    def test_returns(self, episodes: int = 100) -> npt.NDArray[np.float64]:
        """Undiscounted returns `[A, episodes]` of every agent's best network, greedily on seeds kept for testing."""
        config = self.config
        seed = stream_seed(config.seed, TEST, 0)
        with torch_threads(config.num_threads):
            return greedy_returns(self.best, config.env_id, config.world, episodes=episodes, seed=seed).numpy()

    def export(self, path: str | Path) -> None:
        """Write the best agent's policy as an ONNX file that any runtime, and this project's server, plays.

        It is held against the network in ONNX's reference implementation.

        Raises:
            DivergedError: if no agent is left to export.
            ExportError: if it is not finite, or does not compute what the network computes.
        """
        from dqn.networks.onnx import ModelProperties, by_reference, export_onnx

        agent = self.best_agent
        properties = ModelProperties.of(
            self.config,
            num_actions=self.best.num_actions,
            run_id="",
            agent=agent,
            observed=self.agents[agent].observed,
        )
        Path(path).write_bytes(export_onnx(self.best, properties, load=by_reference))


_CPU: Final = torch.device("cpu")


def result_of(state: TrainingState, judged: Mapping[int, float]) -> TrainingResult:
    """What a training that is over gives, on the CPU.

    Args:
        state: of the training.
        judged: mean returns on the episodes of the final choice, by agent.
    """
    agents = tuple(
        AgentResult(
            agent=agent,
            solved=bool(state.solved[agent]),
            selection_return=float(best) if (best := state.best_return[agent]).isfinite() else None,
            updates=int(state.updates[agent]),
            environment_steps=int(state.steps[agent]),
            episodes=int(state.episodes[agent]),
            observed=_ranges(state.observed[agent]),
            judged_return=judged.get(agent),
            diverged=state.diverged[agent][0] if agent in state.diverged else None,
            divergence=state.diverged[agent][1] if agent in state.diverged else "",
        )
        for agent in range(state.config.num_agents)
    )
    return TrainingResult(
        config=state.config,
        best=state.best.on(_CPU),
        final=state.final.on(_CPU),
        agents=agents,
        metrics=state.metrics,
        milestones=tuple(dataclasses.replace(kept, networks=kept.networks.on(_CPU)) for kept in state.milestones),
        seconds=state.seconds,
        cpu_seconds=state.cpu_seconds,
    )


def _ranges(observed: Tensor) -> tuple[tuple[float, float], ...]:
    return tuple((low, high) for low, high in observed.tolist()) if bool(observed.isfinite().all()) else ()
