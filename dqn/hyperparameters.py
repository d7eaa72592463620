"""Hyper-parameters that may differ between the agents of a population: those that change no tensor's shape."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

import torch
from torch import Tensor

from dqn.config import ConfigError, DQNConfig

Value = float | Tensor
"""One number for all agents, or float64 `[A]`, one number per agent."""


@dataclass(frozen=True, kw_only=True, eq=False)
class HyperParameters:
    """Hyper-parameters with the names of `DQNConfig`, except that `adam_betas` is split into two.

    A value that all agents share is stored as a number, so that a uniform population takes the faster code path.
    """

    learning_rate: Value
    learning_rate_end: Value
    gamma: Value
    tau: Value
    target_update_interval: Value
    reward_scale: Value
    initial_q: Value
    epsilon_start: Value
    epsilon_end: Value
    epsilon_decay_updates: Value
    exploration_persistence: Value
    weight_decay: Value
    adam_beta1: Value
    adam_beta2: Value
    adam_eps: Value
    average_rate: Value

    @classmethod
    def of(cls, configs: Sequence[DQNConfig]) -> Self:
        """The hyper-parameters of A agents, from the configuration that would train each agent alone.

        Raises:
            ConfigError: naming fields that differ and may not differ within a population.
        """
        if len(set(map(structure, configs))) > 1:
            names = [name for name in _SHARED if len({_shared_value(config, name) for config in configs}) > 1]
            names += [f"whether {name} is 0" for name in _SWITCHES if len({not getattr(c, name) for c in configs}) > 1]
            raise ConfigError(f"agents of one population cannot differ in {', '.join(names)}; train them separately")
        values = {name: [_read(config, name) for config in configs] for name in _NAMES}
        return cls(**{name: _shared(torch.tensor(value, dtype=torch.float64)) for name, value in values.items()})

    def require_fit(self, config: DQNConfig) -> None:
        """Check that the values fit a configuration.

        Raises:
            ConfigError: for the first value with a wrong number of agents, or with a rule that is off in the
                configuration.
        """
        for name in _NAMES:
            value = getattr(self, name)
            if isinstance(value, Tensor) and value.shape != (config.num_agents,):
                raise ConfigError(
                    f"hyperparameters.{name} has the shape {list(value.shape)} for num_agents = {config.num_agents}; "
                    "give one number per agent, or one for all"
                )
            if name in _SWITCHES and bool((torch.as_tensor(value) != 0).ne(bool(getattr(config, name))).any()):
                raise ConfigError(
                    f"hyperparameters.{name} and the configuration's own, {getattr(config, name)}, must both be 0 or "
                    "both above 0"
                )

    def select(self, agents: Tensor) -> Self:
        """The hyper-parameters of `agents`, an index tensor `[K]`."""
        values = {name: getattr(self, name) for name in _NAMES}
        return type(self)(**{n: _shared(v[agents]) if isinstance(v, Tensor) else v for n, v in values.items()})

    def state_dict(self) -> dict[str, Value]:
        """The values by name."""
        return {name: getattr(self, name) for name in _NAMES}

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> Self:
        """Inverse of `state_dict`."""
        return cls(**state)


def structure(config: DQNConfig) -> tuple[object, ...]:
    """The values that all agents of a population share; configurations with equal structure fit into one population."""
    return tuple(_shared_value(config, name) for name in _SHARED) + tuple(bool(getattr(config, n)) for n in _SWITCHES)


def column(value: Value, device: torch.device) -> Value:
    """The value in a shape that broadcasts to parameters `[A, ., .]`: a number, or float32 `[A, 1, 1]`."""
    return value.float().view(-1, 1, 1).to(device) if isinstance(value, Tensor) else value


_NAMES: Final = tuple(field.name for field in dataclasses.fields(HyperParameters))
_SHARED: Final = tuple(f.name for f in dataclasses.fields(DQNConfig) if f.name not in {*_NAMES, "adam_betas"})
# 0 turns off this rule or network, for the whole population.
_SWITCHES: Final = ("tau", "target_update_interval", "average_rate")


def _shared_value(config: DQNConfig, name: str) -> object:
    """A field's value; a dictionary, which cannot be hashed, as text."""
    value = getattr(config, name)
    return repr(value) if isinstance(value, dict) else value


def _read(config: DQNConfig, name: str) -> float:
    if name in ("adam_beta1", "adam_beta2"):
        return config.adam_betas[name == "adam_beta2"]
    return float(getattr(config, name))


def _shared(values: Tensor) -> Value:
    if len(values) and bool((values == values[0]).all()):
        return float(values[0])
    return values
