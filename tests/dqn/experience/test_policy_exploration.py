from collections.abc import Callable

import pytest
import torch

from dqn.config import DQNConfig
from dqn.experience.exploration import episode_epsilon, epsilon_greedy, linear_epsilon
from dqn.experience.transitions import Transition
from dqn.networks.population import greedy_action
from dqn.training.state import TrainingState
from dqn.training.steps import collect


@pytest.mark.parametrize(
    ("update", "decay_updates", "expected"),
    [(0, 100, 1.0), (50, 100, 0.55), (100, 100, 0.1), (1_000, 100, 0.1), (0, 0, 0.1)],
)
def test_linear_schedule(update: int, decay_updates: int, expected: float) -> None:
    assert linear_epsilon(update, start=1.0, end=0.1, decay_updates=decay_updates) == pytest.approx(expected)


def test_the_articles_schedule_falls_by_episode() -> None:
    epsilon = episode_epsilon(torch.tensor([0, 1, 5_000, 20_000]), start=1.0, end=0.0, decay=1e-4)
    torch.testing.assert_close(epsilon, torch.tensor([1.0, 0.9999, 0.5, 0.0]))


@pytest.mark.parametrize("shape", [(50, 2), (50, 3), (2,), (3,), (5, 2, 3), (5, 3, 2)], ids=str)
def test_greedy_takes_the_first_of_the_best(shape: tuple[int, ...]) -> None:
    q_values = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    assert torch.equal(greedy_action(q_values), q_values.argmax(-1))
    assert not greedy_action(torch.ones(shape)).any()


def test_exploration_happens_as_often_as_each_agents_epsilon_says() -> None:
    q_values = torch.tensor([0.0, 0.0, 1.0]).expand(3, 20_000, 3)
    action = epsilon_greedy(q_values, torch.tensor([0.0, 0.3, 1.0]), torch.Generator().manual_seed(0))
    greedy_share = (action == 2).double().mean(1)
    assert greedy_share.tolist() == pytest.approx([1.0, 0.8, 1 / 3], abs=0.02)


def test_exploratory_actions_persist() -> None:
    generator = torch.Generator().manual_seed(0)
    q_values = torch.tensor([1.0, 0.0, 0.0]).expand(1, 1_000, 3)
    persisting = torch.full((1, 1_000), -1)
    actions = torch.stack(
        [
            epsilon_greedy(q_values, torch.tensor([0.05]), generator, persistence=0.9, persisting=persisting)[0]
            for _ in range(400)
        ]
    )[50:]
    exploring = actions > 0  # two of three exploratory actions
    again = (actions[1:] == actions[:-1])[exploring[:-1]].double().mean()
    assert float(again) == pytest.approx(0.9 + 0.1 * 0.05 / 3, abs=0.01)
    share = 0.05 / (1 - 0.9 * 0.95)  # starts with probability epsilon, goes on with 0.9
    assert float(exploring.double().mean()) == pytest.approx(share * 2 / 3, rel=0.05)


def test_without_persistence_nothing_is_remembered_and_nothing_drawn_for_it() -> None:
    q_values, epsilon = torch.tensor([0.0, 1.0]).expand(1, 500, 2), torch.tensor([0.5])
    persisting = torch.full((1, 500), 0)
    plain, given, unasked = (torch.Generator().manual_seed(0) for _ in range(3))
    expected = epsilon_greedy(q_values, epsilon, plain)
    assert torch.equal(epsilon_greedy(q_values, epsilon, given, persistence=0.0, persisting=persisting), expected)
    assert torch.equal(epsilon_greedy(q_values, epsilon, unasked, persisting=persisting), expected)
    assert not persisting.any()
    assert torch.equal(plain.get_state(), given.get_state())


def test_what_persists_is_the_exploratory_action_and_minus_one_after_a_greedy_one() -> None:
    persisting = torch.full((2, 100), -1)
    q_values = torch.tensor([0.0, 1.0, 0.0]).expand(2, 100, 3)
    generator = torch.Generator().manual_seed(0)
    action = epsilon_greedy(q_values, torch.tensor([0.0, 1.0]), generator, persistence=0.5, persisting=persisting)
    assert persisting[0].tolist() == [-1] * 100
    assert torch.equal(persisting[1], action[1])


EPISODES = ["ProbeEndlessReward-v0", "ProbeActionReward-v0", "CartPole-v1"]


@pytest.mark.parametrize("env_id", EPISODES)
def test_exploration_ends_with_its_episode(
    env_id: str, small_config: Callable[..., DQNConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    state = TrainingState.begin(small_config(env_id=env_id, exploration_persistence=1.0, num_envs=50))
    valid = watched(state, monkeypatch)
    began = 0
    for _ in range(60):
        collect(state)
        beginning = ~valid[-1] | state.environment._previous_ended  # the next step resets, or is an episode's first
        assert (state.persisting[beginning] == -1).all(), "an action of the episode before, or one that was not taken"
        began += int(beginning.sum())
    assert began > 100


@pytest.mark.parametrize("env_id", EPISODES)
def test_the_share_of_random_actions_is_what_is_recorded(
    env_id: str, small_config: Callable[..., DQNConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    fixed = {"env_id": env_id, "epsilon_start": 0.05, "epsilon_end": 0.05}
    once = TrainingState.begin(small_config(**fixed))
    collect(once)
    assert torch.equal(once.epsilon, torch.full((3,), 0.05))
    state = TrainingState.begin(small_config(**fixed, exploration_persistence=0.9, num_envs=200))
    random: list[torch.Tensor] = []
    step = state.environment.step

    def stepped(action: torch.Tensor) -> Transition:
        random.append(state.persisting >= 0)
        return step(action)

    monkeypatch.setattr(state.environment, "step", stepped)
    valid = watched(state, monkeypatch)
    taken, recorded, steps = torch.zeros(3), torch.zeros(3), torch.zeros(3)
    for _ in range(150):
        collect(state)
        taken += (random[-1] & valid[-1]).sum(1)
        recorded += state.epsilon * valid[-1].sum(1)
        steps += valid[-1].sum(1)
    assert (recorded / steps).tolist() == pytest.approx((taken / steps).tolist(), abs=0.01)
    if env_id == "CartPole-v1":
        assert (recorded / steps).min() > 0.1, "it is several times epsilon"


def watched(state: TrainingState, monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """Which steps of the sub-environments are transitions, as they are taken."""
    valid: list[torch.Tensor] = []
    step = state.environment.step

    def stepped(action: torch.Tensor) -> Transition:
        transition = step(action)
        valid.append(transition.valid)
        return transition

    monkeypatch.setattr(state.environment, "step", stepped)
    return valid
