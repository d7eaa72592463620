"""Search spaces: ranges and choices for fields of DQNConfig."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from dqn.config import ConfigError, DQNConfig
from flows.failures.errors import InputError

Value = float | int | bool | str
_UNSEARCHED: Final = (
    "env_id",
    "env_kwargs",
    "max_episode_steps",
    "world",
    "seed",
    "num_agents",
    "device",
    "num_threads",
)


@dataclass(frozen=True, kw_only=True)
class Range:
    """Numbers from `low` to `high`, both included."""

    low: float
    high: float
    log: bool = False
    """Whether values are sampled uniformly in the logarithm."""
    whole: bool = False
    """Whether values are whole numbers."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One of several values without order."""

    values: tuple[Any, ...]


@dataclass(frozen=True, kw_only=True)
class Space:
    """The searched fields; every other field has the preset's value.

    Fields that depend on each other in the preset still do if one of them is searched: the last learning rate stays
    the same share of the first, a reward scale of 1 - gamma follows gamma, and a searched rule for the target network
    replaces the preset's rule.
    """

    dimensions: Mapping[str, Range | Choice]

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        """The dimensions as Optuna's distributions."""
        return {name: _distribution(dimension) for name, dimension in self.dimensions.items()}

    def configuration(self, preset: DQNConfig, values: Mapping[str, Any]) -> DQNConfig:
        """The preset with sampled values.

        Raises:
            ConfigError: if it cannot be trained.
        """
        changes = {name: _decoded(value) for name, value in values.items()}
        decays = changes.get("learning_rate_decay_updates", preset.learning_rate_decay_updates)
        if decays and "learning_rate" in changes and "learning_rate_end" not in changes:
            changes["learning_rate_end"] = changes["learning_rate"] * preset.learning_rate_end / preset.learning_rate
        tied = abs(preset.reward_scale - (1 - preset.gamma)) < 1e-9
        if tied and "gamma" in changes and "reward_scale" not in changes:
            changes["reward_scale"] = 1 - changes["gamma"]
        rules = ("tau", "target_update_interval", "target_update_episodes")
        if any(changes.get(rule) for rule in rules):
            changes = {**dict.fromkeys(rules, 0), **changes}
        return dataclasses.replace(preset, **changes)

    def values(self, preset: DQNConfig) -> dict[str, Value] | None:
        """The preset as a sample of the space, or None if one of its values is outside."""
        mine = {name: getattr(preset, name) for name in self.dimensions}
        inside = all(_holds(dimension, mine[name]) for name, dimension in self.dimensions.items())
        return {name: _encoded(value) for name, value in mine.items()} if inside else None

    def to_dict(self) -> dict[str, Any]:
        """JSON values: a range as an object of its fields, a choice as the list of its values."""
        return {
            name: list(dimension.values) if isinstance(dimension, Choice) else dataclasses.asdict(dimension)
            for name, dimension in self.dimensions.items()
        }

    @classmethod
    def from_dict(cls, content: object) -> "Space":
        """Inverse of `to_dict`.

        Raises:
            InputError: naming the dimension that is not valid, and what is expected.
        """
        if not isinstance(content, dict) or not content:
            raise InputError('a space is an object of fields, such as {"gamma": {"low": 0.9, "high": 0.999}}')
        return cls(dimensions={str(name): _dimension(str(name), value) for name, value in content.items()})


SPACES: Final[dict[str, Space]] = {
    "small": Space(
        dimensions={
            "learning_rate": Range(low=3e-4, high=3e-2, log=True),
            "gamma": Range(low=0.95, high=0.999),
            "tau": Range(low=0.005, high=0.5, log=True),
            "epsilon_end": Range(low=0.01, high=0.4),
            "adam_eps": Range(low=1e-8, high=1e-3, log=True),
            "average_rate": Range(low=1e-3, high=5e-2, log=True),
            "n_step": Choice(values=(1, 3, 5)),
        }
    ),
    # ARLBench's space of DQN for classic control (Becktepe et al., 2024; configs/search_space/dqn_cc.yaml). The size of
    # the buffer and the priorities' exponents are continuous there. Here they are choices, because each value needs a
    # population of its own.
    "arlbench": Space(
        dimensions={
            "learning_rate": Range(low=1e-6, high=0.1, log=True),
            "batch_size": Choice(values=(64, 128, 256)),
            "replay_capacity": Choice(values=(10_000, 40_000, 120_000)),
            "priority_exponent": Choice(values=(0.0, 0.9)),
            "epsilon_start": Range(low=0.5, high=1.0),
            "epsilon_end": Range(low=0.001, high=0.2),
            "target_update_interval": Range(low=1, high=100, whole=True),
        }
    ),
}


def read_space(name: str) -> Space:
    """A space by its name, or from a JSON file.

    Raises:
        InputError: if there is neither, or the file does not contain a space.
    """
    if name in SPACES:
        return SPACES[name]
    path = Path(name)
    if not path.is_file():
        raise InputError(f"there is no space {name!r}: name one of {', '.join(SPACES)}, or a JSON file that holds one")
    try:
        return Space.from_dict(json.loads(path.read_text()))
    except (OSError, ValueError) as error:
        raise InputError(f"{name} holds no space: {error}") from error


def check_space(space: Space, preset: DQNConfig) -> None:
    """Refuse a space with values that cannot be trained.

    Raises:
        InputError: naming the first dimension with such a value, and the reason.
    """
    fields = {field.name for field in dataclasses.fields(DQNConfig)}
    for name, dimension in space.dimensions.items():
        if name in _UNSEARCHED or name not in fields:
            raise InputError(f"{name!r} cannot be searched; what can: {', '.join(sorted(fields - {*_UNSEARCHED}))}")
        for end in _ends(dimension):
            try:
                space.configuration(preset, {name: end})
            except (ConfigError, TypeError) as error:
                raise InputError(f"the space of {name} holds {end!r}, which cannot be trained: {error}") from error


def _ends(dimension: Range | Choice) -> tuple[Any, ...]:
    if isinstance(dimension, Choice):
        return dimension.values
    number = round if dimension.whole else float
    return number(dimension.low), number(dimension.high)


def _dimension(name: str, content: object) -> Range | Choice:
    if isinstance(content, list):
        if len(content) < 2:
            raise InputError(f"the choices of {name} must be two or more, got {content}")
        return Choice(values=tuple(tuple(v) if isinstance(v, list) else v for v in content))
    known = {"low", "high", "log", "whole"}
    if not isinstance(content, dict) or not {"low", "high"} <= content.keys() <= known:
        raise InputError(f"{name} must be a list of choices or an object of low, high, log and whole, got {content}")
    low, high = content["low"], content["high"]
    numbers = all(isinstance(end, int | float) and not isinstance(end, bool) for end in (low, high))
    if not numbers or low >= high:
        raise InputError(f"the range of {name} must go from a number to a greater one, got {low} to {high}")
    if content.get("log") and low <= 0:
        raise InputError(f"the range of {name} is even in the logarithm and must begin above 0, got {low}")
    return Range(**content)


def _distribution(dimension: Range | Choice) -> BaseDistribution:
    if isinstance(dimension, Choice):
        return CategoricalDistribution([_encoded(value) for value in dimension.values])
    if dimension.whole:
        return IntDistribution(int(dimension.low), int(dimension.high), log=dimension.log)
    return FloatDistribution(dimension.low, dimension.high, log=dimension.log)


def _holds(dimension: Range | Choice, value: Any) -> bool:
    if isinstance(dimension, Choice):
        return value in dimension.values
    return bool(dimension.low <= value <= dimension.high)


def _encoded(value: Any) -> Value:
    """A choice as Optuna's storages accept it; a tuple, such as layer sizes, becomes text."""
    return json.dumps(value) if isinstance(value, tuple) else value


def _decoded(value: Any) -> Any:
    return tuple(json.loads(value)) if isinstance(value, str) and value.startswith("[") else value
