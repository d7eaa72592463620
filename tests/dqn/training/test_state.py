"""The state of a training: how it begins, which agents stay in it, and that it goes on as it was."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch

from dqn.config import DQNConfig
from dqn.environments.world import World
from dqn.experience.buffer import ReplayBuffer
from dqn.experience.vector import VectorEnvironment
from dqn.learning.learner import Learner
from dqn.networks.bodies.mlp import MLP
from dqn.networks.population import QNetworks
from dqn.training import state as state_module
from dqn.training.metrics import POPULATION
from dqn.training.state import TrainingState
from dqn.training.steps import collect, learn

Make = Callable[..., DQNConfig]

FEATURES = {"priority_exponent": 0.6, "exploration_persistence": 0.9, "average_rate": 0.1, "loss": "huber"}


def equal(first: Any, second: Any) -> bool:
    """Whether two nested states hold the same."""
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(equal(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(equal, first, second))
    return bool(first == second)


def train_for(state: TrainingState, steps: int) -> None:
    for _ in range(steps):
        collect(state)
        if state.replay.can_sample(state.config.batch_size, state.config.min_replay_batches):
            learn(state)


def test_a_training_begins_with_nothing_done_and_no_agent_judged(small_config: Make) -> None:
    config = small_config()
    state = TrainingState.begin(config)
    assert state.config == config
    assert state.agents.tolist() == [0, 1, 2]
    assert state.epsilon.tolist() == [1.0] * 3
    assert state.persisting.tolist() == [[-1] * 4] * 3  # no sub-environment repeats an action
    assert state.last_step_valid is True
    assert (state.environment_steps, state.evaluations, state.learner.updates) == (0, 0, 0)
    assert state.evaluated_at < 0  # an evaluation before the first update is one
    assert (state.seconds, state.cpu_seconds) == (0.0, 0.0)
    assert state.best_return.tolist() == [float("-inf")] * 3
    assert state.last_return.tolist() == [0.0] * 3
    assert state.solved.tolist() == [False] * 3
    assert [each.tolist() for each in (state.episodes, state.updates, state.steps)] == [[0] * 3] * 3
    assert state.observed.tolist() == [[[float("inf"), float("-inf")]] * 4] * 3  # nothing: any number is further out
    assert (len(state.metrics), state.milestones) == (0, [])


def test_a_training_plays_in_the_world_that_is_randomised(small_config: Make) -> None:
    envs: Any = TrainingState.begin(small_config(randomisation=World(length=(2.0, 3.0)))).environment
    assert (envs._envs.unwrapped.length >= 2.0).all()


def test_what_is_kept_is_no_view_of_what_learns(small_config: Make) -> None:
    state = TrainingState.begin(small_config())
    before = [weight.clone() for weight in (*state.best.weights, *state.final.weights)]
    train_for(state, 60)
    assert state.learner.updates > 0
    assert all(map(torch.equal, before, (*state.best.weights, *state.final.weights)))
    state.best.assign(torch.tensor([0]), state.learner.online.select(torch.tensor([0])))
    assert torch.equal(state.final.weights[0], before[len(before) // 2])


def test_no_two_parts_of_a_training_share_a_stream(small_config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[int, ...]] = []

    def seed(*key: int) -> int:
        drawn.append(key)
        return len(drawn)

    monkeypatch.setattr(state_module, "stream_seed", seed)
    state = TrainingState.begin(small_config(env_id="Lock-v0", seed=9))
    state.environment_steps = 1
    other = TrainingState.begin(small_config(env_id="Lock-v0", seed=9))
    other.load_state_dict(state.state_dict())  # begins new episodes
    assert all(key[0] == 9 for key in drawn)
    once = drawn[: len(drawn) // 2]
    assert drawn[: len(once)] == once
    assert len(set(once)) == len(once) == 2 + 3  # what is drawn, the environments, and each agent's network
    assert drawn[-1] not in once, "new episodes are none that were played"


def test_a_milestone_is_kept_once_with_the_networks_of_then(small_config: Make) -> None:
    state = TrainingState.begin(small_config())
    untrained = state.learner.evaluated.weights[0].clone()
    state.select(torch.tensor([0, 2]))
    state.environment_steps = 12
    state.keep_milestone()
    state.keep_milestone()
    train_for(state, 60)
    (milestone,) = state.milestones
    assert (milestone.updates, milestone.environment_steps, milestone.agents.tolist()) == (0, 12, [0, 2])
    assert torch.equal(milestone.networks.weights[0], untrained[[0, 2]])


def test_every_agent_may_start_from_one_network(small_config: Make) -> None:
    start = QNetworks.initialised(seeds=[5], body=MLP(observation_shape=(4,), hidden_sizes=(16,)), num_actions=2)
    state = TrainingState.begin(small_config(), start=start)
    observation = torch.randn(1, 6, 4)
    expected = start(observation).expand(3, 6, 2)
    for networks in (state.learner.online, state.learner.target, state.best, state.final):
        assert torch.equal(networks(observation.expand(3, 6, 4)), expected)
    drawn = TrainingState.begin(small_config()).learner.online.weights[0]
    assert not torch.equal(drawn[0], drawn[1]), "without one each draws its own"


def test_priorities_are_kept_where_they_are_asked_for(small_config: Make) -> None:
    for exponent, keys in ((0.0, set()), (0.6, {"priorities"})):
        replay = TrainingState.begin(small_config(priority_exponent=exponent)).replay.state_dict()
        assert {name for name in replay if replay[name] is not None} & {"priorities"} == keys


def test_metrics_are_recorded_at_their_environment_step_of_those_in_training(small_config: Make) -> None:
    state = TrainingState.begin(small_config())
    state.environment_steps = 70
    state.select(torch.tensor([0, 2]))
    state.record("train/td_loss", torch.tensor([0.5, 0.25]))
    state.record_population("eval/solved_fraction", 0.75)
    for agent, expected in ((0, [0.5]), (1, []), (2, [0.25])):
        steps, values = state.metrics.series("train/td_loss", agent)
        assert (steps.tolist(), values.tolist()) == ([70] * len(expected), expected)
    steps, values = state.metrics.series("eval/solved_fraction", POPULATION)
    assert (steps.tolist(), values.tolist()) == ([70], [0.75])


def test_agents_that_stay_go_on_with_their_own_state(small_config: Make) -> None:
    state = TrainingState.begin(small_config(**FEATURES))
    train_for(state, 60)
    state.epsilon = torch.tensor([0.1, 0.2, 0.3])
    state.persisting = torch.tensor([[0], [1], [-1]]).repeat(1, 4)
    online, observation = state.learner.online.weights[0].clone(), state.environment.observation.clone()
    state.select(torch.tensor([0, 2]))
    assert state.agents.tolist() == [0, 2]
    assert state.epsilon.tolist() == pytest.approx([0.1, 0.3])
    assert state.persisting.tolist() == [[0] * 4, [-1] * 4]
    assert torch.equal(state.learner.online.weights[0], online[[0, 2]])
    assert torch.equal(state.environment.observation, observation[[0, 2]])
    train_for(state, 5)  # the parts fit each other
    state.select(torch.tensor([1]))
    assert state.agents.tolist() == [2]
    state.select(torch.tensor([], dtype=torch.int64))
    assert (state.agents.tolist(), len(state.epsilon), len(state.persisting)) == ([], 0, 0)


def test_a_state_goes_on_in_another_process_as_it_would_have_here(small_config: Make) -> None:
    config = small_config(**FEATURES)
    state = TrainingState.begin(config)
    state.keep_milestone()
    train_for(state, 60)
    state.select(torch.tensor([0, 2]))
    train_for(state, 7)
    state.solved[1], state.evaluated_at, state.seconds, state.cpu_seconds = True, 40, 2.5, 1.5
    state.best_return[0], state.last_return[1], state.steps[1], state.evaluations = 9.0, 8.0, 7, 6
    state.best.assign(torch.tensor([1]), state.learner.online.select(torch.tensor([0])))
    state.final.assign(torch.tensor([2]), state.learner.online.select(torch.tensor([1])))
    saved, rows = copy.deepcopy(state.state_dict()), [chunk.clone() for chunk in state.replay.chunks()]
    restored = TrainingState.begin(config)
    assert restored.load_state_dict(saved) is True
    for chunk, content in zip(restored.replay.chunks(), rows, strict=True):
        chunk.copy_(content)
    assert equal(without_environments(restored), without_environments(state))
    for going_on in (state, restored):
        train_for(going_on, 20)
    assert equal(without_environments(restored), without_environments(state))
    assert torch.equal(restored.environment.observation, state.environment.observation)


def without_environments(state: TrainingState) -> dict[str, Any]:
    """Pickles of equal environments need not be equal."""
    content = state.state_dict()
    content["environment"].pop("envs")
    return content


def test_episodes_that_cannot_go_on_begin_anew_and_nothing_joins_them_to_the_old(small_config: Make) -> None:
    config = small_config(env_id="Lock-v0", n_step=3)
    state = TrainingState.begin(config)
    for _ in range(2):  # fewer than an n-step transition takes: they are pending
        collect(state)
    restored = TrainingState.begin(config)
    begun = restored.environment.observation.clone()
    assert restored.load_state_dict(state.state_dict()) is False
    assert restored.environment_steps == state.environment_steps
    assert not torch.equal(restored.environment.observation, begun)
    collect(restored)
    assert sum(int(chunk.any()) for chunk in restored.replay.chunks()) == 0, "a transition of two episodes was stored"


def test_what_this_machine_cannot_hold_is_refused_before_it_is_made(small_config: Make) -> None:
    with pytest.raises(MemoryError, match="lower replay_capacity or num_agents"):
        TrainingState.begin(small_config(replay_capacity=10**13))


def test_a_state_trains_with_the_parts_that_it_is_handed(small_config: Make) -> None:
    config = small_config()
    begun = TrainingState.begin(config)
    replay = ReplayBuffer(num_agents=3, capacity=config.replay_capacity, obs=4, generator=torch.Generator())
    learner = Learner(config, begun.learner.online)
    state = TrainingState(
        config,
        environment=begun.environment,
        accumulator=begun.accumulator,
        replay=replay,
        learner=learner,
        generator=begun.generator,
    )
    before = learner.online.weights[0].clone()
    train_for(state, 60)
    assert state.hyperparameters is learner.hyperparameters
    assert replay.size.min() > 0
    assert not torch.equal(learner.online.weights[0], before)
    assert torch.equal(state.best.weights[0], before)
    assert isinstance(begun.replay, ReplayBuffer)
    assert begun.replay.size.max() == begun.learner.updates == 0


def test_the_environments_are_closed_if_a_later_part_cannot_be_built(
    small_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[VectorEnvironment] = []
    monkeypatch.setattr(VectorEnvironment, "close", lambda self: closed.append(self))
    monkeypatch.setattr(state_module, "Learner", lambda *_: [][0])
    with pytest.raises(IndexError):
        TrainingState.begin(small_config())
    assert len(closed) == 1
