"""Checks that the arguments of a training, and its environment, fit the configuration."""

import dataclasses
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import torch

from dqn.config import ConfigError, DQNConfig
from dqn.environments.spaces import Spaces
from dqn.environments.spec import Environment
from dqn.experience.replay import MakeReplay
from dqn.hyperparameters import HyperParameters
from dqn.networks.bodies.body import Body
from dqn.networks.bodies.module import MakeModule
from dqn.networks.making import head_of
from dqn.networks.population import QNetworks

Factory = Callable[..., gym.Env[Any, Any]]
"""Makes an environment, given keyword arguments."""


def own_environment(config: DQNConfig, factory: Factory) -> Environment:
    """The environment that a factory makes, by the name `env_id`.

    Raises:
        ConfigError: if that is the id of a registered environment: what is trained would seem to play there.
    """
    if config.env_id.rpartition(":")[2] in gym.registry:
        raise ConfigError(
            f"env_id {config.env_id!r} is a registered environment, which env= would replace: leave out env=, or give "
            "yours a name of its own, such as DQNConfig(env_id='Mine-v0')"
        )
    return dataclasses.replace(config.environment, factory=factory)


def require_one_world(config: DQNConfig) -> None:
    """Check that returns can rank the agents.

    Raises:
        ConfigError: if the agents have different worlds.
    """
    if (number := len(set(config.worlds))) > 1:
        raise ConfigError(
            f"the agents have {number} different worlds, and returns do not rank agents of different worlds: name an "
            "agent, or train for one world"
        )


def require_parts(
    environment: Environment, *, env: Factory | None, body: MakeModule | None, replay: MakeReplay | None
) -> None:
    """Check that no part is given that a state to continue from does not have; `environment` is the state's.

    Raises:
        ConfigError: if `env` is not what made its environment, or `body` or `replay` is given.
    """
    if env is not None and environment.factory is not env:
        raise ConfigError("env differs from that of the state: leave it out, or pass it to load_checkpoint")
    for name, given in (("body", body), ("replay", replay)):
        if given is not None:
            raise ConfigError(f"a state has its own {name}: leave out {name}=, or pass it to load_checkpoint")


def divisors(config: DQNConfig, spaces: Spaces) -> tuple[float, ...]:
    """What the network divides each entry of an observation by, `[obs]` or one number for all; empty for 1.

    It is the configuration's scale or, without one, the greatest value of bytes.

    Raises:
        ConfigError: if the configuration's has another length.
    """
    scale = config.observation_scale
    if len(scale) not in (0, 1, spaces.observation_size):
        raise ConfigError(
            f"observation_scale has {len(scale)} entries and {config.env_id} has observations of "
            f"{spaces.observation_size}; give one number for each, one for all, or none for no scaling"
        )
    return scale or spaces.divisors


def require_start(config: DQNConfig, start: QNetworks, spaces: Spaces, body: Body) -> None:
    """Check that a network to start from has this body, and the configuration's head and shape.

    Raises:
        ConfigError: naming the differences.
    """
    scale = torch.tensor(divisors(config, spaces) or (1.0,), dtype=torch.float32).expand(spaces.observation_size)
    wanted = {
        "body": body,
        "head": head_of(config),
        "dueling": config.dueling,
        "num_actions": spaces.num_actions,
        "observation_scale": scale.tolist(),
    }
    given = {name: getattr(start, name) for name in wanted} | {"observation_scale": start.observation_scale.tolist()}
    if differing := [f"{name} {given[name]}, not {value}" for name, value in wanted.items() if given[name] != value]:
        raise ConfigError(f"start does not fit the configuration and {config.env_id}: it has {'; '.join(differing)}")


def require_state(
    config: DQNConfig, values: HyperParameters, wanted: DQNConfig, wanted_values: HyperParameters | None
) -> None:
    """Check that a state to continue from has the given configuration.

    Args:
        config: the state's configuration.
        values: the state's hyper-parameters.
        wanted: the configuration to train.
        wanted_values: the hyper-parameters to train with; None for the state's own.

    Raises:
        ConfigError: naming the differences.
    """
    theirs, ours = config.to_dict(), wanted.to_dict()
    if differing := [f"{name} = {theirs[name]!r}, not {ours[name]!r}" for name in ours if ours[name] != theirs[name]]:
        raise ConfigError(
            f"state belongs to another configuration: it has {'; '.join(differing)}; use its own or start anew"
        )
    if wanted_values is None or wanted_values is values:
        return
    mine, given = values.state_dict(), wanted_values.state_dict()
    pairs = {name: (torch.as_tensor(mine[name]), torch.as_tensor(given[name])) for name in mine}
    if differing := [name for name, (one, other) in pairs.items() if not torch.equal(one, other)]:
        raise ConfigError(
            f"hyperparameters differ from those of the state in {', '.join(differing)}; leave them out, or "
            "pass them to state.adopt"
        )
