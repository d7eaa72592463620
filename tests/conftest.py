from collections.abc import Callable
from typing import Any

import pytest
import torch

from dqn.config import DQNConfig
from tests import probes

torch.set_num_threads(1)  # the machine's other cores run other tests; results depend on the number
probes.register()


@pytest.fixture
def small_config() -> Callable[..., DQNConfig]:
    """A configuration that trains in a second, with overrides."""

    def make(**overrides: Any) -> DQNConfig:
        fields: dict[str, Any] = {
            "num_agents": 3,
            "num_envs": 4,
            "hidden_sizes": (16,),
            "batch_size": 16,
            "replay_capacity": 400,
            "n_step": 3,
            "epsilon_decay_updates": 100,
            "max_updates": 120,
            "eval_interval": 40,
            "eval_episodes": 2,
            "log_interval": 1,
            "target_update_interval": 20,
        }
        return DQNConfig(**(fields | overrides))

    return make
