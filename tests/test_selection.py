from collections.abc import Callable

import pytest
import torch

from dqn import selection
from dqn.config import DQNConfig
from dqn.network import QNetworks
from dqn.selection import evaluate, greedy_returns
from dqn.state import TrainingState

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
    state = TrainingState(config)
    prefer(state.learner.online, [1, 0, 1])
    evaluate(state)
    assert state.agents.tolist() == [1]
    assert state.solved.tolist() == [True, False, True]
    assert state.best_return.tolist() == [1.0, -1.0, 1.0]
    assert state.best.biases[0][:, 1, 0].tolist() == [1.0, 0.0, 1.0]
    assert state.final.biases[0][[0, 2], 1, 0].tolist() == [1.0, 1.0]


def test_luck_in_a_few_episodes_is_not_acceptance(small_config: Make) -> None:
    # the return is -1 or 1 by chance: one episode at the ceiling says nothing, thirty in a row do not happen
    config = small_config(
        env_id="ProbeObservedReward-v0", num_agents=20, acceptance_return=1.0, **(CONSTANT | {"eval_episodes": 1})
    )
    state = TrainingState(config)
    evaluate(state)
    assert len(state.agents) == 20
    assert not state.solved.any()
    lucky = state.best_return > -1.0
    assert lucky.any(), "no agent was a candidate: the test tests nothing"
    assert (state.best_return[lucky] < 1.0).all(), "a candidate's return is that of its acceptance episodes"


@pytest.mark.parametrize(("epsilon", "left"), [(0.0, []), (0.5, [0, 1, 2])])
def test_who_holds_the_ceiling_only_undisturbed_stays(small_config: Make, epsilon: float, left: list[int]) -> None:
    config = small_config(env_id="ProbeActionReward-v0", acceptance_return=1.0, acceptance_epsilon=epsilon, **CONSTANT)
    state = TrainingState(config)
    prefer(state.learner.online, [1, 1, 1])
    evaluate(state)
    assert state.agents.tolist() == left
    assert state.best_return.tolist() == [1.0, 1.0, 1.0], "a disturbed return is no measure of a greedy policy"


def test_each_agent_plays_its_own_policy(small_config: Make) -> None:
    state = TrainingState(small_config(env_id="ProbeActionReward-v0", **CONSTANT))
    prefer(state.learner.online, [0, 1, 0])
    returns = greedy_returns(state.learner.online, "ProbeActionReward-v0", episodes=5, seed=0)
    assert returns.tolist() == [[-1.0] * 5, [1.0] * 5, [-1.0] * 5]
    disturbed = greedy_returns(state.learner.online, "ProbeActionReward-v0", episodes=400, seed=0, epsilon=0.5)
    assert disturbed.mean(1).tolist() == pytest.approx([-0.5, 0.5, -0.5], abs=0.15)


def test_the_best_network_by_evaluation_is_kept(small_config: Make) -> None:
    state = TrainingState(small_config(env_id="ProbeActionReward-v0", **CONSTANT))
    prefer(state.learner.online, [1, 0, 1])
    evaluate(state)
    state.learner.updates += 1
    prefer(state.learner.online, [0, 1, 1])
    evaluate(state)
    assert state.best_return.tolist() == [1.0, 1.0, 1.0]
    assert state.last_return.tolist() == [-1.0, 1.0, 1.0]
    assert state.best.biases[0][:, 1, 0].tolist() == [1.0, 1.0, 1.0]


def test_playing_a_few_agents_at_once_changes_no_episode(monkeypatch: pytest.MonkeyPatch) -> None:
    networks = QNetworks.initialised(seeds=range(3), observation_size=1, hidden_sizes=(4,), num_actions=2)
    together = greedy_returns(networks, "ProbeRandomLength-v0", episodes=5, seed=7)
    monkeypatch.setattr(selection, "_OBJECTS", 10)
    assert torch.equal(greedy_returns(networks, "ProbeRandomLength-v0", episodes=5, seed=7), together)
    assert together.std() > 0
