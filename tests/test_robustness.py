import json
import re

import numpy as np
import numpy.typing as npt
import pytest
import torch

from dqn import robustness, selection, training
from dqn.config import DQNConfig
from dqn.evaluation import Act
from dqn.metrics import MetricHistory
from dqn.network import QNetworks
from dqn.result import AgentResult, TrainingResult
from dqn.robustness import CELLS, SINGLE_PUSH, Cell, StressTest, altered, stress_test
from dqn.training import stressed
from dqn.world import World


def balance(observation: npt.NDArray[np.float32]) -> npt.NDArray[np.integer]:
    """A linear controller; it holds CartPole for 10,000 steps."""
    return np.asarray(observation @ np.array([0.1, 0.3, 1.0, 0.9]) > 0, dtype=np.int64)


def push_left(observation: npt.NDArray[np.float32]) -> npt.NDArray[np.integer]:
    return np.zeros(len(observation), dtype=np.int64)


def test_a_controller_holds_what_it_can_and_a_constant_push_nothing() -> None:
    tested = stress_test(balance, World(), episodes=20, seed=0)
    assert tested.held.shape == (len(CELLS), 20)
    assert tested.shares["10,000 steps"] == 1.0
    assert tested.shares["pushes 40 N"] == 1.0
    assert tested.shares["gravity 30"] < 0.6
    assert tested.worst_cell == "gravity 30"
    assert tested.robustness == pytest.approx(sum(tested.shares.values()) / len(CELLS))
    assert 40 <= tested.push <= 84  # the limit of an LQR from rest
    nothing = stress_test(push_left, World(), episodes=5, seed=0)
    assert (nothing.robustness, nothing.push) == (0.0, 0)


@pytest.mark.parametrize("limit", [0, 2, 62, 126])
def test_the_greatest_push_is_found_to_two_newtons(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    cells: list[Cell] = []

    def holds(act: Act, world: World, cell: Cell, *, episodes: int, seed: int) -> npt.NDArray[np.bool_]:
        held = np.ones(episodes, dtype=np.bool_)
        if not cell.name:
            cells.append(cell)
            force = np.max(cell.change.push_force)
            held[: 1 if force == limit else 2] = force < limit  # 99 of 100 are enough, 98 are not
        return held

    monkeypatch.setattr(robustness, "holds", holds)
    assert stress_test(balance, World(), episodes=100, seed=0).push == limit
    assert {cell.change.push_interval for cell in cells} == {SINGLE_PUSH}
    assert {cell.steps for cell in cells} == {2 * SINGLE_PUSH}  # a second push would come after the end


def test_a_cell_replaces_what_it_names_in_the_world_that_was_trained_in() -> None:
    trained = World(length=1.0, force_mag=-10.0)
    assert altered(trained, CELLS[3]) == World(length=2.0, force_mag=-10.0)
    assert altered(trained, CELLS[0]) == trained


def test_a_test_is_told_in_a_line_and_survives_json() -> None:
    held = np.ones((len(CELLS), 4), dtype=np.bool_)
    held[2, 0] = held[4, :2] = False
    tested = StressTest(held=held, push=64)
    assert str(tested) == "robustness 0.917, worst at gravity 30 (50%), single push 64 N"
    again = StressTest.from_dict(json.loads(json.dumps(tested.to_dict())))
    assert again.push == 64
    assert np.array_equal(again.held, held)


def test_agents_are_told_apart_in_every_cell_on_the_same_selection_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    played = []

    def returns(
        networks: QNetworks, env_id: str, world: World, *, episodes: int, seed: int, max_episode_steps: int
    ) -> torch.Tensor:
        played.append((world, seed, max_episode_steps))
        held = torch.zeros(3, episodes, dtype=torch.float64)
        held[1:] = max_episode_steps
        held[2, : episodes // 2] -= 1
        return held

    monkeypatch.setattr(selection, "greedy_returns", returns)
    networks = QNetworks.initialised(seeds=[0, 1, 2], observation_size=4, hidden_sizes=(), num_actions=2)
    config = DQNConfig(num_agents=3, world=World(length=0.6))
    assert selection.robustness(networks, config).tolist() == [0.0, 1.0, 0.5]
    assert [world for world, _, _ in played] == [altered(config.world, cell) for cell in CELLS]
    assert len({seed for _, seed, _ in played}) == 1
    assert [steps for _, _, steps in played] == [2_000] + [500] * (len(CELLS) - 1)


def result(config: DQNConfig, solved: list[bool]) -> TrainingResult:
    networks = QNetworks.initialised(seeds=range(len(solved)), observation_size=4, hidden_sizes=(), num_actions=2)
    agents = tuple(
        AgentResult(
            agent=k,
            solved=s,
            selection_return=500.0,
            updates=100 - k,
            environment_steps=1,
            episodes=1,
            judged_return=500.0 if k == 0 else None,
        )
        for k, s in enumerate(solved)
    )
    return TrainingResult(
        config=config, best=networks, final=networks, agents=agents, metrics=MetricHistory(), seconds=1, cpu_seconds=1
    )


def test_of_solved_agents_the_most_robust_is_chosen_and_of_equals_the_quickest(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def measured(networks: QNetworks, config: DQNConfig) -> torch.Tensor:
        asked.append(networks.num_agents)
        return torch.tensor([0.5, 0.9, 0.9], dtype=torch.float64)

    monkeypatch.setattr(training, "robustness", measured)
    config = DQNConfig(num_agents=4)
    trained = stressed(result(config, [True, False, True, True]))
    assert [agent.robustness for agent in trained.agents] == [0.5, None, 0.9, 0.9]
    assert trained.best_agent == 3
    assert asked == [3]
    unsolved = stressed(result(config, [False] * 4))
    assert unsolved.best_agent == 0
    assert stressed(result(DQNConfig(env_id="Acrobot-v1", num_agents=1), [True])).agents[0].robustness is None
    assert asked == [3]


def test_what_is_told_has_no_more_words_than_a_tag_takes() -> None:
    assert all(re.fullmatch(r"[\w ,.]+", cell.name) for cell in CELLS)
