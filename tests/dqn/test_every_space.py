"""Environments with every kind of space, from training over checkpoint and files to the server."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from dqn.config import ConfigError, DQNConfig
from dqn.environments.spaces import Spaces
from dqn.experience.vector import describe
from dqn.policy import evaluate
from dqn.training.checkpoint import load_checkpoint, load_networks, save_checkpoint, save_networks
from dqn.training.fits import divisors
from dqn.training.loop import train
from dqn.training.state import TrainingState
from dqn.training.steps import advance
from serving.episodes.replay import record
from serving.models.served import ServedModel
from serving.models.source import Version
from serving.policy import OnnxPolicy
from tests.support.dqn.spaces import LENGTH, SPACES

NAMES = sorted(SPACES)


def config_of(name: str, **fields: Any) -> DQNConfig:
    """Learns the right action in a second."""
    values: dict[str, Any] = {
        "env_id": f"Shown-{name}-v0",
        "num_agents": 2,
        "num_envs": 4,
        "hidden_sizes": (16,),
        "batch_size": 32,
        "replay_capacity": 500,
        "n_step": 2,
        "max_updates": 250,
        "eval_interval": 250,
        "epsilon_decay_updates": 150,
        "learning_rate": 1e-2,
        "learning_rate_end": 1e-2,
        "gamma": 0.5,
        "target_update_interval": 20,
        "acceptance_episodes": 3,
        "eval_episodes": 3,
    }
    return DQNConfig(**(values | fields))


@pytest.mark.parametrize(("name", "body"), [*((name, "mlp") for name in NAMES), ("bits", "conv")])
def test_it_is_learned_exported_and_served_in_its_own_shape(name: str, body: str, tmp_path: Path) -> None:
    result, spaces = train(config_of(name, body=body)), describe(f"Shown-{name}-v0")
    assert evaluate(result.policy(), episodes=5).tolist() == [LENGTH] * 5
    shape = spaces.observation_shape

    result.export(tmp_path / "policy.onnx")
    content = (tmp_path / "policy.onnx").read_bytes()
    (given,) = onnx.load_model_from_string(content).graph.input
    tensor = given.type.tensor_type
    assert tensor.elem_type == onnx.TensorProto.FLOAT
    assert [size.dim_param or size.dim_value for size in tensor.shape.dim] == ["batch", *shape]
    served = ServedModel.load(
        "m", Version(number="1", source=""), content, environments=frozenset([f"Shown-{name}-v0"])
    )
    replay = record(served.policy, model="m", version="1", seed=0)
    assert replay.episodic_return == LENGTH
    assert bool(served.policy.metadata.observed) == (not spaces.is_image)

    save_networks(tmp_path, result.best, result.config)
    networks, _ = load_networks(tmp_path)
    assert networks.body == result.best.body
    kept, own = networks.state_dict(), result.best.state_dict()
    assert all(torch.equal(kept[name], own[name]) for name in own)


@pytest.mark.parametrize("name", NAMES)
def test_a_resumed_training_is_the_same(name: str, tmp_path: Path) -> None:
    config, path = config_of(name, max_updates=30), tmp_path / "run.ckpt"
    state, whole = TrainingState.begin(config), TrainingState.begin(config)
    advance(state, 10)
    save_checkpoint(path, state)
    state.environment.close()
    resumed, continues = load_checkpoint(path, config)
    assert continues
    for each in (whole, resumed):
        advance(each, 30)
        each.environment.close()
    assert resumed.replay.sample(9).observation.dtype == getattr(torch, describe(config.env_id).dtype)
    pairs = zip(whole.learner.online.parameters(), resumed.learner.online.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


@pytest.mark.parametrize("name", ["image", "dict", "whole", "bits"])
def test_bytes_are_divided_inside_the_graph(name: str) -> None:
    """A policy takes what the environment returns, as float32: the division is its own."""
    spaces = describe(f"Shown-{name}-v0")
    state = TrainingState.begin(config_of(name))
    state.environment.close()
    greatest = spaces.divisors or (1.0,) * spaces.observation_size
    assert state.learner.online.observation_scale.tolist() == list(greatest)
    given = state.environment.observation
    assert torch.equal(state.learner.online(given), state.learner.online(given.float()))
    named = config_of(name, observation_scale=(51.0,))
    assert divisors(named, spaces) == (51.0,)
    state = TrainingState.begin(named)
    assert state.learner.online.observation_scale.tolist() == [51.0] * spaces.observation_size
    again = TrainingState.begin(named, start=state.learner.online.select(torch.tensor([0])))
    for each in (state, again):
        each.environment.close()


@pytest.mark.parametrize("entries", [2, 17, 19])
def test_a_scale_fits_an_image_or_is_refused(entries: int) -> None:
    spaces = Spaces(observation_shape=(3, 2, 3), num_actions=2, dtype="uint8")
    with pytest.raises(ConfigError, match=rf"observation_scale has {entries} entries and .* has observations of 18;"):
        divisors(config_of("image", observation_scale=(2.0,) * entries), spaces)


def test_an_exported_policy_says_how_its_environment_is_made() -> None:
    config = config_of("image", env_id="Endless-image-v0", env_kwargs={"actions": 3}, max_episode_steps=5)
    result = train(config)
    policy = result.policy(1)
    metadata = OnnxPolicy.load(policy.model).metadata
    assert metadata.environment == policy.environment == config.environment
    assert (metadata.num_actions, metadata.observation_shape) == (3, (3, 2, 3))
    assert record(OnnxPolicy.load(policy.model), model="m", version="1", seed=0).truncated
    assert np.array_equal(evaluate(policy, episodes=4), evaluate(policy, config.environment, episodes=4))
