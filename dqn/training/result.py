"""The result of a training: networks, agents, metrics and milestones; test returns and ONNX export."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dqn.config import DQNConfig
from dqn.environments.spec import Environment
from dqn.evaluation.greedy import greedy_returns
from dqn.finite import DivergedError
from dqn.networks.population import QNetworks
from dqn.policy import Policy
from dqn.seeding import TEST, stream_seed
from dqn.training.fits import Factory, require_one_world
from dqn.training.machine import torch_threads
from dqn.training.metrics import MetricHistory
from dqn.training.milestones import Milestone
from dqn.training.state import TrainingState


@dataclass(frozen=True, kw_only=True)
class AgentResult:
    """The result of one agent."""

    agent: int
    solved: bool
    """Whether it passed the acceptance evaluation."""
    selection_return: float | None
    """Mean greedy return of `best` in the evaluation that selected it, biased upwards; None if there was no evaluation.
    """
    updates: int
    environment_steps: int
    episodes: int
    observed: tuple[tuple[float, float], ...] = ()
    """Minimum and maximum of each entry of the observations in its replay buffer at the end; empty for images."""
    judged_return: float | None = None
    """Mean greedy return on the final comparison's episodes; None if the agent was not compared."""
    robustness: float | None = None
    """Fraction of stress test episodes that it balances to the end; None if it was not a finalist."""
    diverged: int | None = None
    """Update at which it diverged; None if it did not."""
    divergence: str = ""
    """What was not finite."""


@dataclass(frozen=True, kw_only=True, repr=False)
class TrainingResult:
    """A trained population of A agents."""

    config: DQNConfig
    best: QNetworks
    """Each agent's best network by evaluation; the accepted one if it is solved, an untrained one without evaluation.
    """
    final: QNetworks
    """Each agent's last network."""
    agents: tuple[AgentResult, ...]
    metrics: MetricHistory
    seconds: float
    """Wall-clock time of the training loop, over all processes that resumed it."""
    cpu_seconds: float
    milestones: tuple[Milestone, ...] = ()
    """Networks during training, oldest first."""
    factory: Factory | None = None
    """Makes the environment, if Gymnasium does not."""

    @property
    def environment(self) -> Environment:
        """What it was trained in."""
        return dataclasses.replace(self.config.environment, factory=self.factory)

    @property
    def best_agent(self) -> int:
        """Index of the best agent of one world.

        If agents have a robustness, the one with the greatest; otherwise the compared agent with the highest return,
        solved agents before the others. Ties go to the agent with the fewest updates. Diverged agents and non-finite
        values are excluded.

        Raises:
            ConfigError: if the agents have different worlds.
            DivergedError: if no agent remains.
        """
        require_one_world(self.config)
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
            raise DivergedError("there is no best agent: every agent diverged or has returns that are not finite")
        return min(judged)[-1]

    @property
    def solved_fraction(self) -> float:
        """Fraction of agents that are solved."""
        return sum(agent.solved for agent in self.agents) / len(self.agents)

    def milestones_of(self, agent: int) -> list[Milestone]:
        """The milestones of one agent, from the untrained network to the last before its training ended."""
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
        worlds = len(set(self.config.worlds))
        what = f"in {worlds} worlds" if worlds > 1 else f"the best is agent {self.best_agent:02d}"
        return (
            f"{solved} of {len(self.agents)} agents solved {self.config.env_id}, {what}; training took "
            f"{self.seconds:.1f} s ({self.cpu_seconds:.1f} CPU-seconds)"
        )

    def curves(self) -> dict[str, npt.NDArray[Any]]:
        """All metrics as columns for `pandas.DataFrame`: `metric`, `agent` (-1: population), `step` and `value`."""
        return self.metrics.columns()

    def test_returns(self, episodes: int = 100) -> npt.NDArray[np.float64]:
        """Undiscounted greedy returns `[A, episodes]` of every agent's best network in its world, on test seeds."""
        config = self.config
        seed = stream_seed(config.seed, TEST, 0)
        with torch_threads(config.num_threads):
            worlds = config.worlds or config.world
            return greedy_returns(self.best, self.environment, worlds, episodes=episodes, seed=seed).numpy()

    def export(self, path: str | Path) -> None:
        """Write the policy of `best_agent`: as an ONNX file for any runtime, or as a page that plays it.

        Args:
            path: of the file. A name that ends in `.html` gives a card (`dqn.cards.card`); any other name gives ONNX,
                which this project's server plays too.

        Raises:
            ConfigError, DivergedError, ExportError: as `policy`; nothing is written then.
        """
        from dqn.cards.card import card

        policy, agent = self.policy(), self.best_agent
        if Path(path).suffix != ".html":
            policy.save(path)
            return
        words = in_words(self.config, self.agents, agent, self.seconds, self.cpu_seconds)
        Path(path).write_bytes(card(policy.model, title=f"{self.config.env_id}, agent {agent:02d}", **words))

    def policy(self, agent: int | None = None) -> Policy:
        """The policy of an agent's best network, which acts without PyTorch.

        It is first compared with the network in ONNX's reference implementation.

        Args:
            agent: index of the agent; None for `best_agent`.

        Raises:
            ConfigError: if no agent is named and the agents have different worlds.
            DivergedError: if every agent diverged.
            ExportError: if a weight is not finite, or if the exported model computes other Q-values than the network.
        """
        from dqn.networks.onnx import ModelProperties, by_reference, export_onnx

        agent = self.best_agent if agent is None else range(len(self.agents))[agent]
        properties = ModelProperties.of(
            self.config,
            num_actions=self.best.num_actions,
            run_id="",
            agent=agent,
            observed=self.agents[agent].observed,
            environment=self.environment,
        )
        return Policy(export_onnx(self.best, properties, load=by_reference))


def in_words(
    config: DQNConfig, agents: Sequence[AgentResult], best: int, seconds: float, cpu_seconds: float
) -> dict[str, str]:
    """How the agent `best` was `trained` and `judged`, in sentences for its card."""
    mine = agents[best]
    judged = f"It is the best of {config.num_agents} agents."
    if config.acceptance_return is not None:
        judged += (
            f" {sum(agent.solved for agent in agents)} of them were accepted: return {config.acceptance_return:g} in "
            f"each of {config.acceptance_episodes} episodes. This one was {'' if mine.solved else 'not '}accepted."
        )
    if mine.judged_return is not None:
        judged += f" Its mean return in {config.acceptance_episodes} fresh episodes was {mine.judged_return:.4g}."
    if mine.robustness is not None:
        judged += f" As a finalist, it balanced {mine.robustness:.0%} of the episodes of a stress test."
    trained = (
        f"By {mine.updates:,} gradient updates with {config.batch_size} transitions each, from "
        f"{mine.environment_steps:,} environment steps, in a population of {config.num_agents}. The population took "
        f"{seconds:.1f} s ({cpu_seconds:.1f} CPU-seconds)."
    )
    return {"trained": trained, "judged": judged}


_CPU: Final = torch.device("cpu")


def result_of(state: TrainingState, judged: Mapping[int, float]) -> TrainingResult:
    """The result of a finished training, on the CPU.

    Args:
        state: of the training.
        judged: mean returns in the final comparison, by agent.
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
        factory=state.environment.origin.factory,
    )


def _ranges(observed: Tensor) -> tuple[tuple[float, float], ...]:
    return tuple((low, high) for low, high in observed.tolist()) if bool(observed.isfinite().all()) else ()
