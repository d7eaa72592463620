"""Robustness of solved agents: which of them balances longest under stress."""

import dataclasses

import torch
from torch import Tensor

from dqn.config import DQNConfig
from dqn.evaluation.greedy import acting
from dqn.networks.population import QNetworks
from dqn.seeding import SELECTION, stream_seed
from dqn.stress.robustness import CELLS, balances, single_push
from dqn.stress.robustness import ENVIRONMENT as STRESSED
from dqn.training.machine import torch_threads
from dqn.training.result import TrainingResult

FINALISTS = 4
_STRESS_EPISODES = 20
_FINAL_EPISODES = 100
_STRESS_STEPS = 2_000
_PUSH = single_push(64)  # the force in newtons that only a few agents of a population withstand


@torch.no_grad()
def balanced_share(networks: QNetworks, config: DQNConfig, *, episodes: int, heat: int) -> Tensor:
    """Fraction of the stress test's episodes that each agent balances to the end, `[A]`.

    Every cell and one single push have `episodes` episodes of at most 2,000 steps, on the selection seeds of `heat`.
    This ranks agents; a registered version is tested in full.
    """
    cells = [dataclasses.replace(cell, steps=min(cell.steps, _STRESS_STEPS)) for cell in (*CELLS, _PUSH)]
    seed = stream_seed(config.seed, SELECTION, 0, heat)
    act = acting(networks, episodes=episodes, seed=seed)
    balanced = balances(act, config.world, cells, policies=networks.num_agents, episodes=episodes, seed=seed)
    return torch.from_numpy(balanced).double().mean((0, 2))


def finalists(networks: QNetworks, config: DQNConfig) -> dict[int, float]:
    """Robustness of the most robust agents, by row in `[A]`, on fresh episodes.

    All agents play a few episodes, which leaves ties and luck. The best few then play more.
    """
    ranking = balanced_share(networks, config, episodes=_STRESS_EPISODES, heat=1)
    rows = ranking.argsort(descending=True, stable=True)[:FINALISTS]
    final = balanced_share(networks.select(rows), config, episodes=_FINAL_EPISODES, heat=2)
    return dict(zip(rows.tolist(), final.tolist(), strict=True))


def stressed(result: TrainingResult) -> TrainingResult:
    """The result with the robustness of its most robust solved agents, if the environment has a stress test.

    The stress test changes one world: agents with worlds of their own have none. Solved agents all reach the greatest
    return, so that returns cannot rank them.
    """
    config = result.config
    solved = [agent.agent for agent in result.agents if agent.solved and agent.diverged is None]
    if config.env_id != STRESSED or config.worlds or not solved:
        return result
    with torch_threads(config.num_threads):
        found = {solved[row]: mean for row, mean in finalists(result.best.select(torch.tensor(solved)), config).items()}
    agents = tuple(dataclasses.replace(agent, robustness=found.get(agent.agent)) for agent in result.agents)
    return dataclasses.replace(result, agents=agents)
