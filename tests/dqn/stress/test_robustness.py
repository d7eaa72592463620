import dataclasses
import json
import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
import torch

from dqn.config import DQNConfig
from dqn.environments.world import World
from dqn.evaluation.returns import Act, episodic_returns
from dqn.networks.bodies.mlp import MLP
from dqn.networks.population import QNetworks
from dqn.stress import finalists as choice
from dqn.stress import robustness
from dqn.stress.baselines import linear_policy
from dqn.stress.finalists import balanced_share, finalists, stressed
from dqn.stress.robustness import CELLS, SINGLE_PUSH, Cell, StressTest, balances, single_push, stress_test, stress_tests
from dqn.training.metrics import MetricHistory
from dqn.training.result import AgentResult, TrainingResult


def balance(observation: npt.NDArray[np.float32]) -> npt.NDArray[np.integer]:
    """A linear controller; it holds CartPole for 10,000 steps."""
    return np.asarray(observation @ np.array([0.1, 0.3, 1.0, 0.9]) > 0, dtype=np.int64)


def push_left(observation: npt.NDArray[np.float32]) -> npt.NDArray[np.integer]:
    return np.zeros(len(observation), dtype=np.int64)


def test_a_controller_holds_what_it_can_and_a_constant_push_nothing() -> None:
    tested = stress_test(balance, World(), episodes=20, seed=0)
    assert tested.balanced.shape == (len(CELLS), 20)
    assert tested.shares["10,000 steps"] == 1.0
    assert tested.shares["pushes 40 N"] == 1.0
    assert tested.shares["gravity 30"] < 0.6
    assert tested.worst_cell == "gravity 30"
    assert tested.robustness == pytest.approx(sum(tested.shares.values()) / len(CELLS))
    assert 40 <= tested.push <= 84  # the limit of an LQR from rest
    nothing = stress_test(push_left, World(), episodes=5, seed=0)
    assert (nothing.robustness, nothing.push) == (0.0, 0)


@pytest.mark.parametrize("limits", [(0, 126), (2, 16), (62, 64), (1_000, 128)])
def test_the_greatest_push_is_found_to_two_newtons(limits: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    cells: list[Cell] = []

    def balances(
        act: Act, world: World, played: Sequence[Cell], *, policies: int, episodes: int, seed: int
    ) -> npt.NDArray[np.bool_]:
        held = np.ones((len(played), policies, episodes), dtype=np.bool_)
        for cell, of_cell in zip(played, held, strict=True):
            if cell not in CELLS:
                cells.append(cell)
                for limit, of_policy in zip(limits, of_cell, strict=True):
                    force = np.max(cell.change.push_force)
                    of_policy[: 1 if force == limit else 2] = force < limit  # 99 of 100 are enough, 98 are not
        return held

    monkeypatch.setattr(robustness, "balances", balances)
    found = stress_tests(balance, World(), policies=2, episodes=100, seed=0)
    assert tuple(tested.push for tested in found) == tuple(min(limit, 126) for limit in limits)
    assert {cell.change.push_interval for cell in cells} == {SINGLE_PUSH}
    assert {cell.steps for cell in cells} == {2 * SINGLE_PUSH}  # a second push would come after the end
    assert len({cell.change.push_force for cell in cells}) == len(cells), "a force is played once"


def test_cells_and_policies_side_by_side_meet_the_episodes_that_each_would_alone() -> None:
    randomised = World(gravity=(9.0, 11.0), sensor_noise=(0.0, 0.0, 0.02, 0.0))
    cells = [dataclasses.replace(cell, steps=min(cell.steps, 600)) for cell in (*CELLS[:3], CELLS[4], *CELLS[6:])]
    cells.append(Cell(name="", change=World(push_force=(50.0, 80.0), push_interval=(30, 90), wind=1.0), steps=300))
    weights = np.array([[0.1, 0.3, 1.0, 0.9], [0.0, 0.0, 1.0, 0.6]])
    both = linear_policy(np.repeat(weights, 20, axis=0))
    together = balances(both, randomised, cells, policies=2, episodes=20, seed=5)
    for policy, mine in enumerate(weights):
        for cell, held in zip(cells, together, strict=True):
            alone = balances(linear_policy(mine), randomised, [cell], episodes=20, seed=5)
            assert alone.shape == (1, 1, 20)
            assert np.array_equal(held[policy], alone[0, 0])
            world = randomised.altered(cell.change)
            returns = episodic_returns(
                linear_policy(mine),
                "CartPole-v1",
                world,
                num_episodes=20,
                seed=5,
                max_episode_steps=cell.steps,
            )
            assert np.array_equal(held[policy], returns >= cell.steps)
    assert 0.2 < together.mean() < 0.9
    assert not np.array_equal(together[:, 0], together[:, 1])


def test_a_cell_that_is_over_is_played_no_further() -> None:
    rows: list[int] = []

    def act(observation: npt.NDArray[np.float32]) -> npt.NDArray[np.integer]:
        rows.append(len(observation))
        return balance(observation)

    cells = [Cell(name="", change=World(), steps=steps) for steps in (3, 7, 5)]
    falling = Cell(name="", change=World(force_mag=1e-9, sensor_bias=(0.0, 0.0, 9.0, 0.0)), steps=400)
    balanced = balances(act, World(), [*cells, falling], episodes=2, seed=0)[:, 0]
    assert balanced.tolist() == [[True] * 2] * 3 + [[False] * 2]
    fallen = len(rows)
    assert rows == [8] * 3 + [6] * 2 + [4] * 2 + [2] * (fallen - 7)
    assert 20 < fallen < 400


def test_a_cell_replaces_what_it_names_in_the_world_that_was_trained_in() -> None:
    trained = World(length=1.0, force_mag=-10.0)
    assert trained.altered(CELLS[3].change) == World(length=2.0, force_mag=-10.0)
    assert trained.altered(CELLS[0].change) == trained
    pushed = World(push_force=20.0, push_interval=50)
    assert pushed.altered(CELLS[1].change) == World(push_force=40.0, push_interval=100)


def test_a_test_is_told_in_a_line_and_survives_json() -> None:
    held = np.ones((len(CELLS), 4), dtype=np.bool_)
    held[2, 0] = held[4, :2] = False
    tested = StressTest(balanced=held, push=64)
    assert str(tested) == "robustness 0.917, worst at gravity 30 (50%), single push 64 N"
    one = dataclasses.replace(tested, balanced=np.ones_like(tested.balanced))
    assert str(one).startswith("robustness 1.000, every episode balanced, single push")
    again = StressTest.from_dict(json.loads(json.dumps(tested.to_dict())))
    assert again.push == 64
    assert np.array_equal(again.balanced, held)


def test_agents_are_told_apart_in_every_cell_on_the_same_selection_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    played = []

    def held(
        act: Act, world: World, cells: Sequence[Cell], *, policies: int, episodes: int, seed: int
    ) -> npt.NDArray[np.bool_]:
        played.append((world, cells, policies, episodes))
        actions = act(np.ones((len(cells) * policies * episodes, 4), dtype=np.float32)).reshape(len(cells), 3, 20)
        assert (actions == np.array([0, 1, 1])[:, np.newaxis]).all(), "each agent acts in its own rows"
        half = np.arange(20) < 10
        of_agents = np.stack([np.zeros(20, dtype=np.bool_), np.ones(20, dtype=np.bool_), half])
        return np.tile(of_agents, (len(cells), 1, 1))

    monkeypatch.setattr(choice, "balances", held)
    networks = QNetworks.initialised(seeds=[0, 1, 2], body=MLP(observation_shape=(4,), hidden_sizes=()), num_actions=2)
    with torch.no_grad():
        networks.weights[0].zero_()
        networks.biases[0][:, :, 0] = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]).view_as(
            networks.biases[0][..., 0]
        )
    config = DQNConfig(num_agents=3, world=World(length=0.6))
    assert balanced_share(networks, config, episodes=20, heat=1).tolist() == [0.0, 1.0, 0.5]
    ((world, cells, policies, episodes),) = played
    assert (world, policies, episodes) == (config.world, 3, 20)
    assert [cell.change for cell in cells] == [*(cell.change for cell in CELLS), single_push(64).change]
    assert [cell.steps for cell in cells] == [2_000] + [500] * len(CELLS)


def test_the_most_robust_play_another_and_longer_heat(monkeypatch: pytest.MonkeyPatch) -> None:
    heats = []
    of_agents = torch.tensor([0.5, 1.0, 0.9, 1.0, 0.8, 0.9, 0.1], dtype=torch.float64)

    def measured(networks: QNetworks, config: DQNConfig, *, episodes: int, heat: int) -> torch.Tensor:
        agents = networks.biases[0][:, 0, 0].long()
        heats.append((agents.tolist(), episodes, heat))
        return of_agents[agents] - (0.01 * agents if heat == 2 else 0.0)

    monkeypatch.setattr(choice, "balanced_share", measured)
    networks = QNetworks.initialised(seeds=range(7), body=MLP(observation_shape=(4,), hidden_sizes=()), num_actions=2)
    with torch.no_grad():
        networks.biases[0][:, 0, 0] = torch.arange(7)
    found = finalists(networks, DQNConfig(num_agents=7))
    assert found == pytest.approx({1: 0.99, 3: 0.97, 2: 0.88, 5: 0.85})
    assert heats == [([0, 1, 2, 3, 4, 5, 6], 20, 1), ([1, 3, 2, 5], 100, 2)]
    assert list(finalists(networks.select(torch.tensor([4])), DQNConfig(num_agents=1))) == [0]


def result(config: DQNConfig, solved: list[bool]) -> TrainingResult:
    networks = QNetworks.initialised(
        seeds=range(len(solved)), body=MLP(observation_shape=(4,), hidden_sizes=()), num_actions=2
    )
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

    def measured(networks: QNetworks, config: DQNConfig) -> dict[int, float]:
        asked.append(networks.num_agents)
        return {0: 0.5, 2: 0.9, 3: 0.9}

    monkeypatch.setattr(choice, "finalists", measured)
    config = DQNConfig(num_agents=5)
    trained = stressed(result(config, [True, False, True, True, True]))
    assert [agent.robustness for agent in trained.agents] == [0.5, None, None, 0.9, 0.9]
    assert trained.best_agent == 4
    assert asked == [4]
    unsolved = stressed(result(config, [False] * 4))
    assert unsolved.best_agent == 0
    assert stressed(result(DQNConfig(env_id="Acrobot-v1", num_agents=1), [True])).agents[0].robustness is None
    assert asked == [4]


def test_cells_are_what_the_documents_say() -> None:
    assert [(cell.name, cell.steps, str(cell.change)) for cell in (*CELLS, single_push(64))] == [
        ("10,000 steps", 10_000, "nominal"),
        ("pushes 40 N", 500, "push_force 40"),
        ("pushes 60 N", 500, "push_force 60"),
        ("length 2 m", 500, "length 2"),
        ("gravity 30", 500, "gravity 30"),
        ("tau 0.04 s", 500, "tau 0.04"),
        ("delay 2", 500, "action_delay 2"),
        ("bias 0.03 rad", 500, "sensor_bias [0, 0, 0.03, 0]"),
        ("noise 0.05", 500, "sensor_noise [0.05, 0.05, 0.05, 0.05]"),
        ("single push 64 N", 500, "push_force 64, push_interval 250"),
    ]
    assert CELLS[1].change.push_interval == CELLS[2].change.push_interval == 100


def test_what_is_told_has_no_more_words_than_a_tag_takes() -> None:
    assert all(re.fullmatch(r"[\w ,.]+", cell.name) for cell in CELLS)
