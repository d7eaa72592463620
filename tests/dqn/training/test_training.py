import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Never

import pytest
import torch
from tqdm import tqdm

from dqn.experience.transitions import Batch
from dqn.presets import PRESETS
from dqn.seeding import SELECTION, TEST, TRAINING, stream_seed
from dqn.training import loop
from dqn.training.checkpoint import load_checkpoint, save_checkpoint
from dqn.training.loop import train
from dqn.training.metrics import POPULATION, MetricName, Metrics
from dqn.training.state import TrainingState
from dqn.training.steps import advance, collect, learn
from tests.support.dqn.probes import QUICK
from tests.support.dqn.training import Make, equal


@pytest.mark.slow
@pytest.mark.parametrize(
    ("probe", "observation", "expected"),
    [
        ("ConstantReward", [0.0], [[1.0, 1.0]]),
        ("ObservedReward", [-1.0, 1.0], [[-1.0, -1.0], [1.0, 1.0]]),
        ("DelayedReward", [0.0, 1.0], [[0.9, 0.9], [1.0, 1.0]]),
        ("ActionReward", [0.0], [[-1.0, 1.0]]),
        ("EndlessReward", [0.0], [[10.0, 10.0]]),
    ],
)
@pytest.mark.parametrize("n_step", [1, 3])
def test_known_values_are_learned(
    probe: str, observation: list[float], expected: list[list[float]], n_step: int
) -> None:
    result = train(dataclasses.replace(QUICK, env_id=f"Probe{probe}-v0", n_step=n_step))
    q_values = result.final(torch.tensor(observation).view(1, -1, 1).expand(2, -1, 1))
    torch.testing.assert_close(q_values, torch.tensor(expected).expand(2, -1, -1), rtol=0.05, atol=0.05)


def test_rewards_are_scaled_before_learning() -> None:
    result = train(dataclasses.replace(QUICK, env_id="ProbeDelayedReward-v0", reward_scale=0.1, max_updates=400))
    q_values = result.final(torch.tensor([0.0, 1.0]).view(1, -1, 1).expand(2, -1, 1))
    torch.testing.assert_close(q_values[..., 0], torch.tensor([[0.09, 0.1]]).expand(2, -1), rtol=0.05, atol=0.005)
    returns = [float(result.metrics.series("train/episodic_return", agent)[1].mean()) for agent in range(2)]
    assert returns == [1.0, 1.0]  # what is reported is not scaled


def test_returns_are_recorded_as_the_mean_of_the_episodes_since_the_last_time(small_config: Make) -> None:
    def returns(log_interval: int) -> tuple[list[float], int]:
        result = train(small_config(num_agents=1, num_envs=1, log_interval=log_interval, max_updates=300))
        steps, values = result.metrics.series("train/episodic_return", 0)
        assert int(steps[-1]) <= result.agents[0].environment_steps
        return values.tolist(), result.agents[0].episodes

    (before_learning, *one_by_one), episodes = returns(log_interval=1)
    assert len(one_by_one) > 5
    total = before_learning * (episodes - len(one_by_one)) + sum(one_by_one)
    (mean,), _ = returns(log_interval=301)  # recorded when the agent leaves
    assert mean == pytest.approx(total / episodes)


def test_the_article_takes_a_time_limit_for_an_end() -> None:
    result = train(dataclasses.replace(QUICK, env_id="ProbeEndlessReward-v0", bootstrap_on_truncation=False))
    q_value = float(result.final(torch.zeros(2, 1, 1)).mean())
    assert 1.0 < q_value < 1 + 0.9 + 0.81 + 0.729 + 0.6561  # no more than the five steps to the limit


def test_the_seed_decides_everything(small_config: Make) -> None:
    first, again, other = (train(small_config(seed=seed)) for seed in (1, 1, 2))
    assert equal(first, again)
    assert not equal(first, other)


LEAVING = {"acceptance_return": 9.0, "acceptance_episodes": 3, "eval_interval": 10, "max_updates": 200}


@pytest.mark.slow
@pytest.mark.parametrize(
    "variant",
    [
        {},
        LEAVING,
        {"env_id": "Acrobot-v1", "num_envs": 2},
        {"average_rate": 0.1, "tau": 0.1, "target_update_interval": 0, "double_dqn": False},
        {"target_update_interval": 0, "target_update_episodes": 2, "epsilon_decay_per_episode": 1e-2},
        {"priority_exponent": 0.6, "dueling": True, "loss": "huber", "exploration_persistence": 0.9},
    ],
    ids=["plain", "agents leave", "sync environments", "averaged", "the article's schedules", "priorities and dueling"],
)
def test_a_run_resumed_from_any_checkpoint_ends_as_the_unbroken_one(
    small_config: Make, tmp_path: Path, variant: dict[str, float]
) -> None:
    config = small_config(checkpoint_interval=0.0, **variant)
    paths: list[Path] = []

    def checkpoint(state: TrainingState) -> None:
        if state.environment_steps // config.num_envs % 13 == 0:
            paths.append(tmp_path / f"{len(paths)}.ckpt")
            save_checkpoint(paths[-1], state)

    unbroken = train(config, on_checkpoint=checkpoint, now=lambda: 0.0)  # a clock by which saving takes no time
    assert len(paths) > 3
    for path in (paths[0], paths[len(paths) // 2], paths[-1]):
        state, continues = load_checkpoint(path, config)
        assert continues
        assert equal(train(config, state=state), unbroken)


def test_metrics_come_in_order_and_once(small_config: Make, tmp_path: Path) -> None:
    received: list[Metrics] = []

    def receive(records: Sequence[Metrics]) -> None:
        received.extend(records)

    result = train(small_config(), on_metrics=receive)
    assert received == result.metrics.since(0)
    names: tuple[MetricName, ...] = ("train/episodic_return", "train/td_loss", "eval/mean_return")
    for name in names:
        steps, values = result.metrics.series(name, 0)
        assert len(steps) > 0
        assert bool((steps.diff() > 0).all()), name
        assert bool(values.isfinite().all())
    assert len(result.metrics.series("eval/solved_fraction", POPULATION)[0]) == 3


def test_solved_agents_leave_with_their_networks(small_config: Make) -> None:
    result = train(small_config(**LEAVING))
    solved = [agent for agent in result.agents if agent.solved]
    assert solved, "a ceiling of 9 is within reach of any policy that sometimes changes direction"
    for agent in solved:
        assert agent.selection_return is not None
        assert agent.selection_return >= 9.0
        assert agent.updates <= 200
        steps, _ = result.metrics.series("train/td_loss", agent.agent)
        assert int(steps.max()) <= agent.environment_steps
        for best, final in zip(result.best.parameters(), result.final.parameters(), strict=True):
            assert torch.equal(best[agent.agent], final[agent.agent])


def test_every_agent_knows_the_range_of_what_it_observed(small_config: Make) -> None:
    result = train(small_config(**LEAVING))
    assert len({agent.observed for agent in result.agents}) == 3
    for agent in result.agents:
        assert len(agent.observed) == 4
        assert all(-5 < low < 0 < high < 5 for low, high in agent.observed), "CartPole begins around 0 and ends soon"


def test_an_episode_budget_retires_agents_one_by_one() -> None:
    config = dataclasses.replace(PRESETS["article"], num_agents=3, max_episodes=4, eval_episodes=1)
    result = train(config)
    assert [agent.episodes for agent in result.agents] == [4, 4, 4]
    assert len({agent.environment_steps for agent in result.agents}) > 1


def test_the_article_updates_once_a_step() -> None:
    config = dataclasses.replace(PRESETS["article"], max_episodes=30, eval_interval=100_000, eval_episodes=1)
    result = train(config)
    (agent,) = result.agents
    resets = agent.episodes - 1  # each costs a step of the vector environment in which nothing is learned
    transitions = agent.environment_steps - resets
    waiting = config.batch_size * config.min_replay_batches - 1
    assert agent.updates == transitions - waiting


def test_importance_weights_count_in_full_at_the_end_of_the_budget(
    small_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = TrainingState.begin(small_config(priority_exponent=0.6, importance_exponent=0.4, max_updates=100))
    advance(state, 1)
    exponents: list[float] = []
    sample = state.replay.sample

    def sampled(batch_size: int, *, importance_exponent: float) -> Batch:
        exponents.append(importance_exponent)
        return sample(batch_size, importance_exponent=importance_exponent)

    monkeypatch.setattr(state.replay, "sample", sampled)
    for updates in (0, 25, 100):
        state.learner.updates = updates
        learn(state)
    assert exponents == pytest.approx([0.4, 0.55, 1.0])


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ({"epsilon_decay_updates": 40}, [0.525, 0.525]),  # after half of the updates
        ({"epsilon_decay_per_episode": 0.1}, [0.8, 0.7]),  # after two and three episodes of one's own
    ],
)
def test_exploration_falls_by_updates_or_by_episodes(
    small_config: Make, schedule: dict[str, Any], expected: list[float]
) -> None:
    state = TrainingState.begin(small_config(num_agents=2, epsilon_start=1.0, epsilon_end=0.05, **schedule))
    state.learner.updates = 20
    state.episodes[:] = torch.tensor([2, 3])
    collect(state)
    assert state.epsilon.tolist() == pytest.approx(expected)


@pytest.mark.parametrize(("updates_per_step", "max_updates"), [(4, 5), (4, 8), (8, 5), (1, 5)])
def test_the_budget_is_met_exactly(small_config: Make, updates_per_step: int, max_updates: int) -> None:
    result = train(small_config(updates_per_step=updates_per_step, max_updates=max_updates))
    assert [agent.updates for agent in result.agents] == [max_updates] * 3


def test_a_replay_buffer_beyond_the_machine_is_refused(small_config: Make) -> None:
    with pytest.raises(MemoryError, match="lower replay_capacity or num_agents"):
        TrainingState.begin(small_config(replay_capacity=10**13))


def test_streams_never_meet() -> None:
    seeds = {
        stream: {stream_seed(seed, stream, index) for seed in range(50) for index in range(50)}
        for stream in (TRAINING, SELECTION, TEST)
    }
    span = 2**28
    for stream, drawn in seeds.items():
        assert all(stream << 29 <= seed < (stream << 29) + span for seed in drawn)
        assert len(drawn) == 2_500


@pytest.mark.parametrize(
    ("acceptance_return", "said"), [(9.0, "solved=3 of 3"), (10_000.0, "solved=0 of 3"), (None, "")]
)
def test_the_bar_counts_updates_and_names_the_solved_where_agents_can_be(
    acceptance_return: float | None, said: str, small_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    bars: list[tqdm[Never]] = []

    def bar(**options: Any) -> "tqdm[Never]":
        bars.append(tqdm(**(options | {"disable": False, "file": io.StringIO()})))
        return bars[0]

    monkeypatch.setattr(loop, "tqdm", bar)
    result = train(small_config(acceptance_return=acceptance_return, acceptance_episodes=3, eval_interval=10))
    (shown,) = bars
    last = max(agent.updates for agent in result.agents)
    assert (shown.unit, shown.n, shown.total) == ("update", last, 120)
    assert (last < 120) == (acceptance_return == 9.0)
    assert said in str(shown.postfix)
    assert ("solved" in str(shown.postfix)) == bool(said)
