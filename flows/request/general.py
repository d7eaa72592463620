"""General hyper-parameters for an environment that no preset was tuned to."""

import dataclasses
from contextlib import closing
from typing import Any, Final, Literal

import gymnasium as gym
import numpy as np

from dqn.config import DQNConfig
from dqn.environments.making import make_vec
from dqn.environments.spaces import stored_as
from dqn.environments.spec import Environment, environment_spec
from dqn.presets import PRESETS, PresetName
from flows.failures.environments import of_environment

GENERAL: Final = "general"
StartName = Literal[PresetName, "general"]
"""Hyper-parameters that a training can start from: those of a preset, or general ones."""

_GENERAL: Final = DQNConfig(
    hidden_sizes=(128, 128),
    epsilon_decay_updates=8_000,
    n_step=3,
    reward_scale=0.01,
    learning_rate_end=1e-5,
    learning_rate_decay_updates=24_000,
    adam_eps=1e-5,
    weight_decay=0.0,
    target_update_interval=0,
    tau=0.01,
    average_rate=0.002,
    max_updates=24_000,
    eval_start=6_000,
    eval_interval=2_000,
    eval_episodes=20,
)
_LARGEST: Final = 1e6
"""A greater bound counts as none: many spaces use the largest float in place of infinity."""


def start_of(name: StartName, environment: str | Environment) -> DQNConfig:
    """The configuration that a training starts from. General values depend on the environment, presets do not.

    Raises:
        EnvironmentUnsupportedError: as `general`.
    """
    return general(environment) if name == GENERAL else PRESETS[name]


def has_preset(env_id: str) -> bool:
    """Whether a shipped preset was tuned to an environment."""
    return any(config.env_id == env_id for config in PRESETS.values())


def general(environment: str | Environment) -> DQNConfig:
    """General values for an environment: observations scaled by their bounds, accepted at its `reward_threshold`.

    The environment's arguments are not among the values.

    Raises:
        EnvironmentUnsupportedError: if the environment is unknown or has no time limit, or its constructor raises.
    """
    spec, env_id = environment_spec(environment), Environment.of(environment).env_id
    with of_environment(env_id), closing(make_vec(environment, num_envs=1)) as envs:
        scale = _scale(envs.single_observation_space)
    threshold = None if spec.reward_threshold is None else float(spec.reward_threshold)
    return dataclasses.replace(_GENERAL, env_id=env_id, observation_scale=scale, acceptance_return=threshold)


def budget(config: DQNConfig) -> str:
    """A sentence about the updates of a training with general values, and when an agent is done."""
    accepted = config.acceptance_return
    end = "then the best of its evaluations counts" if accepted is None else f"or until it returns {accepted:g}"
    return (
        f"no preset was tuned to {config.env_id}: general values, {config.max_updates:,} updates an agent, {end}; "
        "--max-updates and --acceptance-return change that"
    )


def _scale(space: gym.Space[Any]) -> tuple[float, ...]:
    """The greatest magnitude of each entry, 1 for an entry without a bound; empty if no entry has a bound."""
    if not isinstance(space, gym.spaces.Box) or len(space.shape) != 1 or stored_as(space) != "float32":
        return ()  # bytes are divided by their greatest value anyway
    bounds = np.maximum(np.abs(space.low.astype(float)), np.abs(space.high.astype(float)))
    known = np.isfinite(bounds) & (bounds > 0) & (bounds < _LARGEST)
    return tuple(np.where(known, bounds, 1.0).tolist()) if known.any() else ()
