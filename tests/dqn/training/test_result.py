"""What the package offers to a user who trains from Python."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import dqn
from dqn.config import DQNConfig
from dqn.environments.world import World
from dqn.evaluation.greedy import greedy_returns
from dqn.networks.onnx import ExportError, by_reference
from dqn.seeding import TEST, stream_seed
from dqn.training.loop import train
from dqn.training.metrics import POPULATION
from dqn.training.result import TrainingResult
from serving.policy import OnnxPolicy

LIGHT = """
import sys
import dqn
from dqn import World
assert World().wind == 0.0
print("torch" in sys.modules)
from dqn import train
print("torch" in sys.modules)
"""


@pytest.mark.slow
def test_the_package_loads_torch_when_somebody_trains() -> None:
    ran = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["False", "True"]


def test_the_package_has_what_it_names_and_says_so() -> None:
    assert dqn.train is train
    assert dqn.DQNConfig is DQNConfig
    assert dqn.TrainingResult is TrainingResult
    assert all(getattr(dqn, name) is not None for name in dqn.__all__)
    with pytest.raises(AttributeError, match=r"no attribute 'fit'; it has PRESETS, DQNConfig, .*train"):
        _ = dqn.fit


@pytest.fixture(scope="module")
def result() -> TrainingResult:
    return train(
        DQNConfig(
            num_agents=3,
            num_envs=4,
            hidden_sizes=(16,),
            batch_size=16,
            replay_capacity=400,
            max_updates=120,
            eval_interval=40,
            eval_episodes=2,
            acceptance_return=9.0,
            acceptance_episodes=5,
            world=World(length=0.7),
        )
    )


def test_curves_are_every_value_in_columns(result: TrainingResult) -> None:
    curves = result.curves()
    assert list(curves) == ["metric", "agent", "step", "value"]
    assert len({len(column) for column in curves.values()}) == 1
    for metric, agent in (("train/td_loss", 1), ("train/episodic_return", 2), ("eval/iqm_return", POPULATION)):
        mine = (curves["metric"] == metric) & (curves["agent"] == agent)
        steps, values = result.metrics.series(metric, agent)  # type: ignore[arg-type] # names of metrics
        assert len(steps) > 0
        assert curves["step"][mine].tolist() == steps.tolist()
        assert curves["value"][mine].tolist() == values.tolist()
    assert len(curves["value"]) == sum(len(record.value) for record in result.metrics.since(0))


def test_returns_are_those_of_the_best_networks_on_seeds_kept_for_testing(result: TrainingResult) -> None:
    config = result.config
    expected = greedy_returns(
        result.best, config.env_id, config.world, episodes=7, seed=stream_seed(config.seed, TEST, 0)
    )
    assert np.array_equal(result.test_returns(7), expected.numpy())
    assert result.test_returns().shape == (3, 100)


def test_a_policy_is_exported_as_what_the_server_plays(result: TrainingResult, tmp_path: Path) -> None:
    result.export(tmp_path / "policy.onnx")
    policy = OnnxPolicy.load((tmp_path / "policy.onnx").read_bytes())
    observation = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    expected = result.best.agent(result.best_agent)(torch.from_numpy(observation)).detach().numpy()
    np.testing.assert_allclose(policy.q_values(observation), expected, atol=1e-6)
    assert policy.metadata.env_id == "CartPole-v1"
    assert policy.metadata.action_meanings == ("left", "right")
    assert policy.metadata.world == World(length=0.7)
    assert policy.metadata.config_sha256 == result.config.sha256
    assert policy.metadata.observed == result.agents[result.best_agent].observed
    assert len(policy.metadata.observed) == 4


def test_an_export_that_computes_something_else_is_not_written(
    result: TrainingResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(model: bytes) -> Callable[[np.ndarray], np.ndarray]:
        q_values = by_reference(model)
        return lambda observation: 1.001 * q_values(observation)

    monkeypatch.setattr("dqn.networks.onnx.by_reference", broken)
    with pytest.raises(ExportError, match="differ by"):
        result.export(tmp_path / "policy.onnx")
    assert not (tmp_path / "policy.onnx").exists()


def test_a_name_of_a_page_gives_a_card_that_says_how_it_was_trained(result: TrainingResult, tmp_path: Path) -> None:
    result.export(tmp_path / "policy.html")
    page = (tmp_path / "policy.html").read_text()
    best = result.agents[result.best_agent]
    assert f"CartPole-v1, agent {result.best_agent:02d}" in page
    assert f"{best.updates:,} gradient updates with 16 transitions each" in page
    assert "in a population of 3" in page
    assert f"{sum(agent.solved for agent in result.agents)} of them were accepted" in page
    assert f"This one was {'' if best.solved else 'not '}accepted." in page


def test_a_result_says_how_it_went_in_a_line(result: TrainingResult) -> None:
    solved = sum(agent.solved for agent in result.agents)
    said = f"{solved} of 3 agents solved CartPole-v1, the best is agent {result.best_agent:02d}; training took "
    assert repr(result).startswith(said)
    assert solved > 0
