"""DQN for populations of agents: `from dqn import DQNConfig, PRESETS, Policy, World, evaluate, train`."""

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from dqn.config import DQNConfig
    from dqn.environments.world import World
    from dqn.policy import Policy, evaluate
    from dqn.presets import PRESETS
    from dqn.training.loop import train
    from dqn.training.result import TrainingResult

__all__ = ["PRESETS", "DQNConfig", "Policy", "TrainingResult", "World", "evaluate", "train"]

_HOMES: Final = {
    "PRESETS": "dqn.presets",
    "DQNConfig": "dqn.config",
    "Policy": "dqn.policy",
    "TrainingResult": "dqn.training.result",
    "World": "dqn.environments.world",
    "evaluate": "dqn.policy",
    "train": "dqn.training.loop",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that importing `dqn.environments` does not load PyTorch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'dqn' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(_HOMES[name]), name)
