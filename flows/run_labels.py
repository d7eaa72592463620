"""What a run is called, what it says about itself, and its parameters."""

from typing import Final

from mlflow.entities import Param

from dqn.config import WORLDS, DQNConfig
from flows.general import StartName, start_of

_LONGEST_NAME: Final = 250
"""MLflow takes no more."""


def run_name(config: DQNConfig, preset: StartName) -> str:
    """A run by what it is: environment, preset, what differs from the preset, and seed."""
    usual = start_of(preset, config.env_id)
    overrides = [
        f"{name}={value}"
        for name, value in config.to_dict().items()
        if name not in ("env_id", "seed", *WORLDS) and value != usual.to_dict()[name]
    ]
    worlds = [f"{name} {getattr(config, name)}" for name in WORLDS if getattr(config, name) != getattr(usual, name)]
    what = ", ".join([f"{config.env_id} {preset}", *overrides, *worlds])
    seed = f", seed {config.seed}"
    return what[: _LONGEST_NAME - len(seed)] + seed


def description(config: DQNConfig, preset: StartName) -> str:
    """For the run's page."""
    return (
        f"A population of {config.num_agents} DQN agents on {config.env_id}, preset `{preset}`, seed {config.seed}. "
        "Each agent has a child run.\n\n"
        "One generator draws for the whole population: agent k is reproduced by the seed and the number of agents "
        "together, not by itself."
    )


def params(config: DQNConfig) -> list[Param]:
    """All hyper-parameters, as MLflow has them."""
    worlds = {name: getattr(config, name) for name in WORLDS}
    entries = {f"{name}.{key}": value for name, world in worlds.items() for key, value in world.to_dict().items()}
    values = {**config.to_dict(), **worlds, **entries}
    return [Param(key, "none" if value is None else str(value)) for key, value in values.items()]
