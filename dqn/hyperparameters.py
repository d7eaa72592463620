"""What the agents of one population may differ in: whatever changes the shape of no tensor."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

import torch
from torch import Tensor

from dqn.config import ConfigError, DQNConfig

Value = float | Tensor
"""One number that all agents share, or one an agent, float64 `[A]`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class HyperParameters:
    """Hyper-parameters an agent: those of `DQNConfig` by the same names, of its Adam betas one and the other.

    A value that all agents share is a number, so that a population of equals computes as if there were no others.
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
        """Of agents `[A]` each of which would be trained alone by its configuration.

        Raises:
            ConfigError: naming what they differ in and no population can.
        """
        if len(set(map(structure, configs))) > 1:
            names = [name for name in _SHARED if len({getattr(config, name) for config in configs}) > 1]
            names += [f"whether {name} is 0" for name in _SWITCHES if len({not getattr(c, name) for c in configs}) > 1]
            raise ConfigError(f"agents of one population cannot differ in {', '.join(names)}; train one for each")
        values = {name: [_read(config, name) for config in configs] for name in _NAMES}
        return cls(**{name: _shared(torch.tensor(value, dtype=torch.float64)) for name, value in values.items()})

    def require_fit(self, config: DQNConfig) -> None:
        """Refuse values of another number of agents, or of rules that the configuration does not have.

        Raises:
            ConfigError: naming the first.
        """
        for name in _NAMES:
            value = getattr(self, name)
            if isinstance(value, Tensor) and value.shape != (config.num_agents,):
                raise ConfigError(
                    f"hyperparameters.{name} has the shape {list(value.shape)} for num_agents = {config.num_agents}; "
                    "give one number an agent, or one for all"
                )
            if name in _SWITCHES and bool((torch.as_tensor(value) != 0).ne(bool(getattr(config, name))).any()):
                raise ConfigError(
                    f"hyperparameters.{name} and the configuration's own, {getattr(config, name)}, must both be 0 or "
                    "both above 0"
                )

    def select(self, agents: Tensor) -> Self:
        """Those of `agents`, an index tensor `[K]`."""
        values = {name: getattr(self, name) for name in _NAMES}
        return type(self)(**{n: _shared(v[agents]) if isinstance(v, Tensor) else v for n, v in values.items()})

    def agent(self, k: int, config: DQNConfig) -> DQNConfig:
        """The configuration that trains agent k alone, given the population's."""
        values: dict[str, Any] = {name: _number(getattr(self, name), k) for name in _NAMES}
        betas = (values.pop("adam_beta1"), values.pop("adam_beta2"))
        values |= {name: int(values[name]) for name in _COUNTS}
        return dataclasses.replace(config, adam_betas=betas, num_agents=1, **values)

    def state_dict(self) -> dict[str, Value]:
        """The values by name."""
        return {name: getattr(self, name) for name in _NAMES}

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> Self:
        """Inverse of `state_dict`."""
        return cls(**state)


def structure(config: DQNConfig) -> tuple[object, ...]:
    """What the agents of one population share: equal for two configurations that fit into one."""
    return tuple(getattr(config, name) for name in _SHARED) + tuple(bool(getattr(config, name)) for name in _SWITCHES)


def column(value: Value, device: torch.device) -> Value:
    """A value as a factor of parameters `[A, ., .]`: the number, or float32 `[A, 1, 1]`."""
    return value.float().view(-1, 1, 1).to(device) if isinstance(value, Tensor) else value


_NAMES: Final = tuple(field.name for field in dataclasses.fields(HyperParameters))
_SHARED: Final = tuple(f.name for f in dataclasses.fields(DQNConfig) if f.name not in {*_NAMES, "adam_betas"})
_COUNTS: Final = ("epsilon_decay_updates", "target_update_interval")
# At 0 there is no such rule, or no such network.
_SWITCHES: Final = ("tau", "target_update_interval", "average_rate")


def _read(config: DQNConfig, name: str) -> float:
    if name in ("adam_beta1", "adam_beta2"):
        return config.adam_betas[name == "adam_beta2"]
    return float(getattr(config, name))


def _number(value: Value, k: int) -> float:
    return float(value[k]) if isinstance(value, Tensor) else value


def _shared(values: Tensor) -> Value:
    if len(values) and bool((values == values[0]).all()):
        return float(values[0])
    return values
