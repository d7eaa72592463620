"""A policy that is kept: it acts, is saved and loaded, and is evaluated, without PyTorch."""

import dataclasses
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dqn import Policy, evaluate
from dqn.config import DQNConfig
from dqn.environments.world import World
from dqn.seeding import TEST, stream_seed
from dqn.training.loop import train
from dqn.training.result import TrainingResult
from serving.policy import OnnxPolicy
from tests.support.dqn import masked
from tests.support.dqn.spaces import LENGTH, make_shown

Make = Callable[..., DQNConfig]


@pytest.fixture(scope="module")
def result() -> TrainingResult:
    return train(
        DQNConfig(
            env_id="FrozenLake-v1",
            env_kwargs={"is_slippery": False},
            max_episode_steps=9,
            world=World(action_delay=0),
            num_agents=2,
            num_envs=4,
            hidden_sizes=(16,),
            batch_size=8,
            replay_capacity=200,
            max_updates=20,
            seed=4,
        )
    )


def test_it_acts_as_the_network_and_as_the_server_do(result: TrainingResult, tmp_path: Path) -> None:
    observations = np.eye(16, dtype=np.float32)
    for agent in (0, 1, -1):
        policy, path = result.policy(agent), tmp_path / f"{agent}.onnx"
        expected = result.best.agent(agent % 2)(torch.from_numpy(observations)).argmax(1).tolist()
        policy.save(path)
        for each in (policy, Policy.load(path), Policy.load(str(path))):
            assert each.predict(observations).tolist() == expected
            assert [each.predict(row) for row in observations.tolist()] == expected
        served = OnnxPolicy.load(path)
        assert served.act(observations).tolist() == expected
        assert served.metadata.environment == policy.environment == result.config.environment
        assert served.metadata.observation_shape == policy.observation_shape == (16,)
    assert policy.seed == 4
    best = result.best.agent(result.best_agent)(torch.from_numpy(observations)).argmax(1)
    assert result.policy().predict(observations).tolist() == best.tolist()
    with pytest.raises(IndexError):
        result.policy(2)


@pytest.mark.parametrize(
    ("observation", "message"),
    [
        ([1.0, 2.0], r"observations of the shape \[16\], got \[2\]"),
        (3, r"observations of the shape \[16\], got \[\]"),
        (np.zeros((2, 2, 16)), r"got \[2, 2, 16\]"),
        ({"a": 1}, r"numbers of the shape \[16\], got a dict: wrap the environment in gymnasium.wrappers"),
        ([[1.0], [1.0, 2.0]], "got a list"),
        (None, "got"),
    ],
    ids=str,
)
def test_an_observation_of_another_shape_is_refused(result: TrainingResult, observation: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^the policy takes .*{message}"):
        result.policy().predict(observation)


def test_an_environment_with_other_observations_is_refused(result: TrainingResult) -> None:
    with pytest.raises(ValueError, match=r"takes a batch of observations of the shape \[16\], got \[2, 4\]"):
        evaluate(result.policy(), "CartPole-v1", episodes=2)


def test_a_file_that_is_no_policy_is_named(tmp_path: Path) -> None:
    path = tmp_path / "policy.onnx"
    path.write_bytes(b"no model")
    with pytest.raises(ValueError, match=r"policy\.onnx is not an exported policy"):
        Policy.load(path)
    with pytest.raises(FileNotFoundError):
        Policy.load(tmp_path / "missing.onnx")


def test_it_is_loaded_and_evaluated_without_pytorch(result: TrainingResult, tmp_path: Path) -> None:
    result.policy().save(tmp_path / "policy.onnx")
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from dqn import Policy, evaluate\n"
        f"policy = Policy.load({str(tmp_path / 'policy.onnx')!r})\n"
        "print(evaluate(policy, episodes=7).tolist())"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.strip() == str(evaluate(result.policy(), episodes=7).tolist())


def test_an_evaluation_is_of_the_environment_the_world_and_the_seeds_that_it_names(
    monkeypatch: pytest.MonkeyPatch, result: TrainingResult
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr("dqn.policy.episodic_returns", lambda *given, **named: asked.append((*given, named)))
    policy, other = result.policy(), World(action_delay=1)
    evaluate(policy)
    evaluate(policy, "CartPole-v1", world=other, episodes=3, seed=5, max_episode_steps=20)
    own, elsewhere = asked
    assert own[1:3] == (policy.environment, policy.world)
    assert own[3] == {"num_episodes": 100, "seed": stream_seed(0, TEST, 1)}
    assert (elsewhere[1].env_id, elsewhere[1].max_episode_steps, elsewhere[2]) == ("CartPole-v1", 20, other)
    assert elsewhere[3] == {"num_episodes": 3, "seed": stream_seed(5, TEST, 1)}


@pytest.mark.parametrize("name", ["image", "dict", "discrete"])
def test_any_function_is_evaluated_in_any_environment(name: str) -> None:
    """One that always says 0 is right as often as a coin; equal seeds are equal episodes."""

    def act(observation: Any) -> Any:
        return np.zeros(len(observation), dtype=np.int64)

    made = lambda: make_shown(name, ends=False)  # noqa: E731 # its name, <lambda>, is none that Gymnasium accepts
    returns = evaluate(act, made, episodes=50, max_episode_steps=LENGTH)
    assert 0.35 * LENGTH < returns.mean() < 0.65 * LENGTH
    assert evaluate(act, made, episodes=50, max_episode_steps=LENGTH).tolist() == returns.tolist()
    assert evaluate(act, made, episodes=50, seed=1, max_episode_steps=LENGTH).tolist() != returns.tolist()
    with pytest.raises(ValueError, match="a function does not say its environment"):
        evaluate(act)


def test_it_takes_allowed_actions_alone() -> None:
    """Not the best of all actions but the best of the allowed ones, for one observation and for many."""
    policy = train(dataclasses.replace(masked.QUICK, max_updates=400)).policy()
    assert evaluate(policy, episodes=3).tolist() == [masked.BEST] * 3
    observations = np.eye(masked.LENGTH, dtype=np.float32)
    for allowed in range(masked.ACTIONS):
        mask = np.eye(masked.ACTIONS, dtype=np.int8)[allowed]
        assert (
            policy.predict(observations[0], mask) == policy.predict(observations[0].tolist(), mask.tolist()) == allowed
        )
        assert policy.predict(observations, np.tile(mask, (masked.LENGTH, 1))).tolist() == [allowed] * masked.LENGTH
