import json
from typing import Any

import numpy as np
import pytest

from dqn.config import ConfigError, DQNConfig
from dqn.presets import PRESETS
from dqn.world import World


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_agents": 0}, "num_agents must be above 0, got 0"),
        ({"learning_rate": -1.0}, "learning_rate must be above 0, got -1.0"),
        ({"learning_rate": float("nan")}, "learning_rate must be a finite number, got nan"),
        ({"gamma": 1.0}, "gamma must be below 1"),
        ({"gamma": 1.5}, "gamma must be from 0 to 1"),
        ({"epsilon_start": 2.0}, "epsilon_start must be from 0 to 1, got 2.0"),
        ({"hidden_sizes": (64, 0)}, "hidden_sizes must be positive"),
        ({"observation_scale": (1.0, 0.0)}, "observation_scale must be positive"),
        ({"loss": "l1"}, "loss must be 'squared' or 'huber', got 'l1'"),
        ({"replay_capacity": 100}, "min_replay_batches x batch_size = 1280"),
        ({"tau": 0.1}, "exactly one of target_update_interval, target_update_episodes and tau"),
        ({"target_update_interval": 0}, "exactly one of"),
        ({"seed": -1}, "seed must be 0 or above"),
        ({"num_agents": 2.5}, r"num_agents must be a whole number below 2\^63, got 2\.5"),
        ({"num_agents": 2.0}, "num_agents must be a whole number"),
        ({"num_agents": True}, "num_agents must be a whole number .*, got True"),
        ({"num_agents": "1"}, "num_agents must be a whole number .*, got '1'"),
        ({"num_agents": None}, "num_agents must be a whole number .*, got None"),
        ({"seed": 2**63}, "seed must be a whole number below"),
        ({"double_dqn": "no"}, "double_dqn must be true or false, got 'no'"),
        ({"double_dqn": 1}, "double_dqn must be true or false, got 1"),
        ({"reward_scale": float("inf")}, "reward_scale must be a finite number, got inf"),
        ({"reward_scale": 10**400}, "reward_scale must be a finite number, got 1000"),
        ({"reward_scale": True}, "reward_scale must be a finite number, got True"),
        ({"tau": "0.1"}, r"tau must be a finite number, got '0\.1'"),
        ({"initial_q": float("-inf")}, "initial_q must be a finite number, got -inf"),
        ({"acceptance_return": float("nan")}, "acceptance_return must be a finite number or none, got nan"),
        ({"env_id": None}, "env_id must be a text, got None"),
        ({"device": 0}, "device must be a text, got 0"),
        ({"hidden_sizes": "64"}, "hidden_sizes must be a tuple, each entry a whole number .*, got '64'"),
        ({"hidden_sizes": [64]}, r"hidden_sizes must be a tuple, .*, got \[64\]"),
        ({"hidden_sizes": (64.0,)}, "hidden_sizes must be a tuple, each entry a whole number"),
        ({"hidden_sizes": ((64, 64),)}, "hidden_sizes must be a tuple, each entry a whole number"),
        ({"observation_scale": (1.0, float("inf"))}, "observation_scale must be a tuple, each entry a finite number"),
        ({"observation_scale": 2.0}, "observation_scale must be a tuple, each entry a finite number, got 2"),
        ({"adam_betas": (0.9, 0.99, 0.999)}, "adam_betas must be a tuple of 2, each entry a finite number"),
        ({"adam_betas": (0.9,)}, "adam_betas must be a tuple of 2"),
        ({"adam_betas": (0.9, 1.0)}, "adam_betas must be from 0 to below 1"),
        ({"adam_betas": (-0.1, 0.9)}, "adam_betas must be from 0 to below 1"),
        ({"epsilon_end": -0.1}, "epsilon_end must be from 0 to 1"),
        ({"replay_capacity": 1_279}, "min_replay_batches x batch_size = 1280"),
        ({"num_envs": 100_001}, "replay_capacity must hold one step of 100001 envs, got 100000"),
        ({"adam_betas": (0.9, "0.99")}, "adam_betas must be a tuple of 2"),
    ],
)
def test_what_cannot_be_trained_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DQNConfig(**fields)
    if not any(isinstance(value, list) for value in fields.values()):  # JSON has no tuples: lists are read as such
        with pytest.raises(ConfigError, match=message):
            DQNConfig.from_dict(fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"reward_scale": 1, "initial_q": -3, "seed": 2**63 - 1},
        {"acceptance_return": None, "hidden_sizes": (), "observation_scale": ()},
        {"acceptance_return": 3, "observation_scale": (1, 2.5), "loss": "huber"},
        {"initial_q": 1e9, "weight_decay": np.float64(0.5)},
        {"replay_capacity": 1_280, "gamma": 0, "epsilon_start": 1, "adam_betas": (0.0, 0.0), "max_gradient_norm": 0},
        {"num_envs": 100_000},
    ],
)
def test_what_a_type_covers_is_taken(fields: dict[str, Any]) -> None:
    config = DQNConfig(**fields)
    assert {name: getattr(config, name) for name in fields} == fields


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS.keys())
def test_configurations_survive_json(preset: DQNConfig) -> None:
    restored = DQNConfig.from_dict(json.loads(json.dumps(preset.to_dict())))
    assert restored == preset
    assert restored.sha256 == preset.sha256


def test_unknown_fields_are_named() -> None:
    with pytest.raises(ConfigError, match="unknown field learning_rte"):
        DQNConfig.from_dict({"learning_rte": 0.1})


def test_the_digest_tells_configurations_apart() -> None:
    assert DQNConfig(seed=0).sha256 != DQNConfig(seed=1).sha256
    assert {DQNConfig(seed=0), DQNConfig(seed=0), DQNConfig(seed=1)} == {DQNConfig(seed=1), DQNConfig(seed=0)}


def test_what_was_measured_is_what_is_configured() -> None:
    """The documents' figures are of these values: who changes one measures again, and writes its digest here."""
    configurations: dict[str, DQNConfig] = {"default": DQNConfig()}
    configurations.update({str(name): config for name, config in PRESETS.items()})
    assert {name: config.sha256[:12] for name, config in configurations.items()} == {
        "default": "78bc4a61a8ac",
        "cartpole": "86f6c049bad4",
        "robust": "9863c00bbcb5",
        "article": "db03822027bf",
        "acrobot": "3a5d0e107ff4",
        "mountaincar": "6d3301ae6de3",
        "lunarlander": "63c7c6204166",
    }


def test_a_world_is_written_as_what_differs_and_read_again() -> None:
    config = DQNConfig(world=World(wind=(1.0, 2.0)))
    assert config.to_dict()["world"] == {"wind": (1.0, 2.0)}
    assert DQNConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert DQNConfig.from_dict({}).world == World()
    assert config.sha256 != DQNConfig().sha256
    assert DQNConfig.from_dict({"randomisation": {"wind": [1.0, 2.0]}}).randomisation == World(wind=(1.0, 2.0))
    assert DQNConfig(randomisation=World(wind=1.0)).to_dict()["randomisation"] == {"wind": 1.0}
    with pytest.raises(ConfigError, match=r"randomisation\.length must be a number above 0"):
        DQNConfig.from_dict({"randomisation": {"length": -1.0}})
    with pytest.raises(ConfigError, match="a world has no lenght"):
        DQNConfig.from_dict({"world": {"lenght": 1.0}})
    with pytest.raises(ConfigError, match="world must be a World, got"):
        DQNConfig(world={"length": 1.0})  # type: ignore[arg-type]


def test_what_is_randomised_takes_the_place_of_the_worlds_own() -> None:
    config = DQNConfig(world=World(length=1.0, wind=2.0), randomisation=World(length=(0.5, 1.5), action_delay=1))
    assert config.training_world == World(length=(0.5, 1.5), wind=2.0, action_delay=1)
    assert DQNConfig(world=World(wind=2.0)).training_world == World(wind=2.0)
