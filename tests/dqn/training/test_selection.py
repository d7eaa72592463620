from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from dqn.config import DQNConfig
from dqn.environments.world import World
from dqn.evaluation import greedy
from dqn.evaluation.greedy import greedy_returns
from dqn.evaluation.returns import Act, episodic_returns
from dqn.networks.bodies.mlp import MLP
from dqn.networks.population import QNetworks
from dqn.stress import finalists as choice
from dqn.stress.finalists import finalists
from dqn.stress.robustness import Cell
from dqn.training import selection
from dqn.training.metrics import POPULATION
from dqn.training.selection import evaluate, evaluation_due, judge, retire
from dqn.training.state import TrainingState

Make = Callable[..., DQNConfig]

CONSTANT = {"eval_episodes": 4, "acceptance_episodes": 30, "hidden_sizes": ()}


def prefer(networks: QNetworks, actions: list[int]) -> None:
    """Make agent k take action `actions[k]` everywhere."""
    with torch.no_grad():
        networks.weights[0].zero_()
        networks.biases[0].zero_()
        for agent, action in enumerate(actions):
            networks.biases[0][agent, action] = 1.0


def test_the_solved_leave_with_their_networks_and_the_others_stay(small_config: Make) -> None:
    config = small_config(env_id="ProbeActionReward-v0", acceptance_return=1.0, **CONSTANT)
    state = TrainingState.begin(config)
    prefer(state.learner.online, [1, 0, 1])
    evaluate(state)
    assert state.agents.tolist() == [1]
    assert state.solved.tolist() == [True, False, True]
    assert state.metrics.series("eval/solved_fraction", POPULATION)[1].tolist() == [2 / 3]
    assert state.metrics.series("eval/iqm_return", POPULATION)[1].tolist() == pytest.approx([2 / 3])
    assert state.best_return.tolist() == [1.0, -1.0, 1.0]
    assert state.best.biases[0][:, 1, 0].tolist() == [1.0, 0.0, 1.0]
    assert state.final.biases[0][[0, 2], 1, 0].tolist() == [1.0, 1.0]


def test_luck_in_a_few_episodes_is_not_acceptance(small_config: Make) -> None:
    # the return is -1 or 1 by chance: one episode at the ceiling says nothing, thirty in a row do not happen
    config = small_config(
        env_id="ProbeObservedReward-v0", num_agents=20, acceptance_return=1.0, **(CONSTANT | {"eval_episodes": 1})
    )
    state = TrainingState.begin(config)
    evaluate(state)
    assert len(state.agents) == 20
    assert not state.solved.any()
    lucky = state.best_return == 1.0
    assert 0 < lucky.sum() < 20, "no agent was a candidate: the test tests nothing"
    assert (state.last_return[lucky] < 1.0).all(), "what is shown of a candidate is the mean of its acceptance episodes"
    assert set(state.best_return.tolist()) == {-1.0, 1.0}, "what is compared are means of as many episodes"


@pytest.mark.parametrize(("epsilon", "left"), [(0.0, []), (0.5, [0, 1, 2])])
def test_an_agent_that_reaches_the_ceiling_only_undisturbed_stays(
    small_config: Make, epsilon: float, left: list[int]
) -> None:
    config = small_config(env_id="ProbeActionReward-v0", acceptance_return=1.0, acceptance_epsilon=epsilon, **CONSTANT)
    state = TrainingState.begin(config)
    prefer(state.learner.online, [1, 1, 1])
    evaluate(state)
    assert state.agents.tolist() == left
    assert state.best_return.tolist() == [1.0, 1.0, 1.0], "a disturbed return is no measure of a greedy policy"


def test_each_agent_plays_its_own_policy(small_config: Make) -> None:
    state = TrainingState.begin(small_config(env_id="ProbeActionReward-v0", **CONSTANT))
    prefer(state.learner.online, [0, 1, 0])
    returns = greedy_returns(state.learner.online, "ProbeActionReward-v0", episodes=5, seed=0)
    assert returns.tolist() == [[-1.0] * 5, [1.0] * 5, [-1.0] * 5]
    disturbed = greedy_returns(state.learner.online, "ProbeActionReward-v0", episodes=400, seed=0, epsilon=0.5)
    assert disturbed.mean(1).tolist() == pytest.approx([-0.5, 0.5, -0.5], abs=0.15)


def test_the_best_network_by_evaluation_is_kept(small_config: Make) -> None:
    state = TrainingState.begin(small_config(env_id="ProbeActionReward-v0", **CONSTANT))
    prefer(state.learner.online, [1, 0, 1])
    evaluate(state)
    state.learner.updates += 1
    prefer(state.learner.online, [0, 1, 1])
    evaluate(state)
    assert state.best_return.tolist() == [1.0, 1.0, 1.0]
    assert state.last_return.tolist() == [-1.0, 1.0, 1.0]
    assert state.best.biases[0][:, 1, 0].tolist() == [1.0, 1.0, 1.0]


def test_what_is_accepted_takes_the_place_of_a_luckier_look(small_config: Make) -> None:
    """A threshold of -1 is no maximum: an earlier network has returned more, and was not accepted."""
    env_id = "ProbeActionReward-v0"
    config = small_config(env_id=env_id, acceptance_return=-1.0, acceptance_epsilon=0.5, **CONSTANT)
    state = TrainingState.begin(config)
    prefer(state.learner.online, [1, 1, 0])
    state.best.assign(torch.arange(3), state.learner.online)
    state.best_return[:] = torch.tensor([2.0, 1.0, 2.0])
    accepted = state.learner.online.select(torch.arange(3))
    prefer(state.best, [0, 0, 1])
    evaluate(state)
    assert state.agents.tolist() == []
    assert state.solved.all()
    for kept, passed in zip(state.best.parameters(), accepted.parameters(), strict=True):
        assert torch.equal(kept, passed)
    assert state.best_return.tolist() == [1.0, 1.0, -1.0], "the return is that of the network that is kept"


def test_of_equal_evaluations_the_later_network_is_kept(small_config: Make) -> None:
    state = TrainingState.begin(small_config(env_id="ProbeActionReward-v0", **CONSTANT))
    for update in (1, 2):
        state.learner.updates = update
        prefer(state.learner.online, [1, 1, 1])
        with torch.no_grad():
            state.learner.online.biases[0].mul_(update)
        evaluate(state)
    assert state.best.biases[0][:, 1, 0].tolist() == [2.0] * 3


def test_evaluations_come_at_their_interval_from_their_start(small_config: Make) -> None:
    config = small_config(eval_start=30, eval_interval=20, max_updates=120)
    assert [update for update in range(121) if evaluation_due(config, update)] == [30, 50, 70, 90, 110]
    config = small_config(eval_start=30, eval_interval=40, max_updates=120)
    assert [update for update in range(121) if evaluation_due(config, update)] == [30, 70, 110]


def test_an_agent_that_has_used_up_its_episodes_leaves_after_a_last_evaluation(small_config: Make) -> None:
    config = small_config(env_id="ProbeActionReward-v0", max_episodes=10, num_agents=4, **CONSTANT)
    state = TrainingState.begin(config)
    prefer(state.learner.online, [1, 1, 0, 1])
    state.learner.updates, state.environment_steps = 7, 70
    state.episodes[:] = torch.tensor([9, 9, 9, 9])
    retire(state)
    assert state.evaluations == 0
    state.episodes[:] = torch.tensor([9, 10, 11, 9])
    retire(state)
    assert state.evaluations == 1
    assert state.agents.tolist() == [0, 3]
    assert state.best_return.tolist() == [1.0, 1.0, -1.0, 1.0]
    assert state.updates.tolist() == [0, 7, 7, 0]
    assert state.steps.tolist() == [0, 70, 70, 0]
    state.learner.updates = 8
    state.episodes[0] = 10
    retire(state)
    assert state.agents.tolist() == [3]
    assert state.updates.tolist() == [8, 7, 7, 0]


def test_episodes_without_end_retire_no_agent(small_config: Make) -> None:
    state = TrainingState.begin(small_config(env_id="ProbeActionReward-v0", max_episodes=0, **CONSTANT))
    state.episodes[:] = 1_000_000
    retire(state)
    assert (state.evaluations, len(state.agents)) == (0, 3)


def test_objects_are_few_at_once_and_arrays_are_not_split(monkeypatch: pytest.MonkeyPatch) -> None:
    at_once: list[int] = []

    def returns(act: Act, env_id: str, world: World, *, num_episodes: int, **rest: Any) -> npt.NDArray[np.float64]:
        at_once.append(num_episodes)
        return np.zeros(num_episodes)

    monkeypatch.setattr(greedy, "episodic_returns", returns)
    monkeypatch.setattr(greedy, "_OBJECTS", 10)
    networks = QNetworks.initialised(seeds=range(5), body=MLP(observation_shape=(1,), hidden_sizes=()), num_actions=2)
    greedy_returns(networks, "ProbeRandomLength-v0", episodes=5, seed=0)
    greedy_returns(networks, "ProbeRandomLength-v0", episodes=50, seed=0)
    greedy_returns(networks, "CartPole-v1", episodes=50, seed=0)
    assert at_once == [10, 10, 5] + [50] * 5 + [250]


def test_playing_a_few_agents_at_once_changes_no_episode(monkeypatch: pytest.MonkeyPatch) -> None:
    networks = QNetworks.initialised(seeds=range(3), body=MLP(observation_shape=(1,), hidden_sizes=(4,)), num_actions=2)
    together = greedy_returns(networks, "ProbeRandomLength-v0", episodes=5, seed=7)
    monkeypatch.setattr(greedy, "_OBJECTS", 10)
    assert torch.equal(greedy_returns(networks, "ProbeRandomLength-v0", episodes=5, seed=7), together)
    assert together.std() > 0


def test_every_evaluation_draws_new_episodes(small_config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    config = small_config(env_id="ProbeActionReward-v0", acceptance_return=1.0, acceptance_epsilon=0.5, **CONSTANT)
    state = TrainingState.begin(config)
    prefer(state.learner.online, [1, 1, 0])
    seeds: list[int] = []

    def returns(
        networks: QNetworks,
        env_id: str,
        world: World,
        *,
        episodes: int,
        seed: int,
        epsilon: float = 0.0,
    ) -> torch.Tensor:
        seeds.append(seed)
        return greedy_returns(networks, env_id, episodes=episodes, seed=seed, epsilon=epsilon)

    monkeypatch.setattr(selection, "greedy_returns", returns)
    for _ in range(3):
        state.learner.updates += 1
        evaluate(state)
    evaluate(state)  # a second time after the same update: nothing new to see
    judge(state)

    def held(
        act: Act, world: World, cells: Sequence[Cell], *, policies: int, episodes: int, seed: int
    ) -> npt.NDArray[np.bool_]:
        seeds.append(seed)
        return np.ones((len(cells), policies, episodes), dtype=np.bool_)

    monkeypatch.setattr(choice, "balances", held)
    finalists(state.best, config)
    assert len(set(seeds)) == len(seeds) == 3 * 3 + 3


def judging(
    state: TrainingState, monkeypatch: pytest.MonkeyPatch, episodes_of: dict[int, list[float]]
) -> tuple[dict[int, float], list[tuple[int, int, int]]]:
    """What `judge` says where agent k has these returns, and agent, episodes and seed of each time it let one play."""
    played: list[tuple[int, int, int]] = []

    def returns(networks: QNetworks, env_id: str, world: World, *, episodes: int, seed: int) -> torch.Tensor:
        agent = int(networks.biases[0][0, 0, 0])
        played.append((agent, episodes, seed))
        return torch.tensor([episodes_of[agent]], dtype=torch.float64)

    with torch.no_grad():
        for agent in range(state.config.num_agents):
            state.best.biases[0][agent] = agent
    monkeypatch.setattr(selection, "greedy_returns", returns)
    return judge(state), played


def test_nominees_are_judged_on_the_same_fresh_episodes(small_config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    state = TrainingState.begin(small_config(num_agents=12, hidden_sizes=(), acceptance_episodes=100))
    state.best_return = torch.tensor([9.0, 1.0, 8.0, 7.0, 6.0, 6.0, 5.0, 4.0, 3.0, 2.0, 0.0, 0.0], dtype=torch.float64)
    state.updates[4] = 1
    state.solved[11] = True
    judged, played = judging(state, monkeypatch, {agent: [float(agent), 0.0] for agent in range(12)})
    assert [agent for agent, *_ in played] == [11, 0, 2, 3, 5, 4, 6, 7]
    assert len({(episodes, seed) for _, episodes, seed in played}) == 1
    assert played[0][1] == 100
    assert judged == {agent: agent / 2 for agent in (11, 0, 2, 3, 5, 4, 6, 7)}


def test_an_agent_that_reaches_the_ceiling_in_every_episode_is_not_surpassed(
    small_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = TrainingState.begin(small_config(num_agents=4, hidden_sizes=(), acceptance_return=1.0))
    state.solved[:] = True
    judged, _ = judging(state, monkeypatch, {0: [1.0, 0.5], 1: [1.0, 1.0], 2: [1.0, 1.0], 3: [1.0, 1.0]})
    assert judged == {0: 0.75, 1: 1.0}


def test_the_return_of_the_best_is_no_lucky_one(small_config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on LunarLander: 16 agents of returns 230 to 270 and a standard deviation of 100, ten looks of ten episodes."""
    generator = torch.Generator().manual_seed(0)
    state = TrainingState.begin(small_config(num_agents=16, hidden_sizes=()))
    truth = torch.linspace(230.0, 270.0, 16, dtype=torch.float64)
    looks = truth[:, None, None] + 100 * torch.randn(16, 10, 10, dtype=torch.float64, generator=generator)
    state.best_return = looks.mean(2).amax(1)
    fresh = truth[:, None] + 100 * torch.randn(16, 100, dtype=torch.float64, generator=generator)
    judged, _ = judging(state, monkeypatch, dict(enumerate(fresh.tolist())))
    best = max(judged, key=judged.__getitem__)
    lucky = int(state.best_return.argmax())
    assert state.best_return[lucky] - truth[lucky] > 40, "the mean of a look that was chosen"
    assert abs(judged[best] - truth[best]) < 2 * 10, "two standard errors of a hundred episodes"


def test_selection_plays_in_the_world_that_was_trained_in(small_config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(force_mag=-10.0, push_force=20.0)
    randomised: dict[str, Any] = {
        "world": World(force_mag=-10.0, push_force=5.0),
        "randomisation": World(push_force=20.0),
    }
    state = TrainingState.begin(small_config(**randomised, acceptance_return=1.0, acceptance_epsilon=0.5))
    worlds: list[Sequence[World]] = []
    played = episodic_returns

    def returns(act: Act, env_id: str, world: Sequence[World], **rest: Any) -> npt.NDArray[np.float64]:
        worlds.append(world)
        return played(act, env_id, world, **rest)

    monkeypatch.setattr(greedy, "episodic_returns", returns)
    judge(state)
    evaluate(state)
    assert worlds == [(world,)] * 4  # judged, looked at, accepted undisturbed and disturbed
