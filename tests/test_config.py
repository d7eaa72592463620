import json
from typing import Any

import pytest

from dqn.config import ConfigError, DQNConfig
from dqn.presets import PRESETS


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_agents": 0}, "num_agents must be above 0, got 0"),
        ({"learning_rate": -1.0}, "learning_rate must be above 0, got -1.0"),
        ({"learning_rate": float("nan")}, "learning_rate must be above 0, got nan"),
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
    ],
)
def test_what_cannot_be_trained_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DQNConfig(**fields)


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
