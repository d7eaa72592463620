"""Every hyper-parameter of a training run, validated."""

import dataclasses
import functools
import hashlib
import json
import sys
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Any, ClassVar, Final, Literal, get_args, get_origin, get_type_hints

from dqn.environments.world import NOMINAL, World, WorldError


class ConfigError(ValueError):
    """A configuration that cannot be trained; the message names the field, its value and what it may be."""


@dataclass(frozen=True, kw_only=True)
class DQNConfig:
    """Configuration of one population of DQN agents.

    Counts and intervals are per agent: with 16 agents, `batch_size=128` samples 16 batches of 128.
    "Updates" are gradient updates. Features that take an interval, a rate or a norm are off at 0.
    """

    # Unknown keys are refused, and the sentences below become the forms of the Prefect UI.
    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "use_attribute_docstrings": True}

    env_id: str = "CartPole-v1"
    """Gymnasium environment with a flat Box observation and a Discrete action space."""
    world: World = NOMINAL
    """What a policy is for: tests, gate and server play in it; where it has ranges, every episode draws its own."""
    randomisation: World = NOMINAL
    """What training and selection change in `world` (domain randomisation); tests, gate and server do not."""
    seed: int = 0
    """Seed of the whole population; training, selection and test draw from streams that never meet."""
    num_agents: int = 16
    """Independent agents trained side by side; they share this configuration and differ in their draws."""
    num_envs: int = 16
    """Sub-environments an agent steps at once."""

    hidden_sizes: tuple[int, ...] = (128, 64)
    """Widths of the hidden layers, each followed by ReLU."""
    observation_scale: tuple[float, ...] = ()
    """Observations are divided by this inside the network, one number an entry; empty leaves them as they are."""
    initial_q: float = 0.0
    """Added to the last layer's bias at the start; the value of surviving makes the start optimistic."""

    dueling: bool = False
    """Dueling heads: the last layer gives the state's value and each action's advantage (Wang et al., 2016)."""
    num_quantiles: int = 1
    """Numbers the network gives an action, whose mean is its Q-value; several need a loss that learns them."""

    replay_capacity: int = 100_000
    """Transitions an agent's replay buffer holds."""
    min_replay_batches: int = 10
    """Batches the replay buffer must hold before learning starts."""

    priority_exponent: float = 0.0
    """Prioritised replay: sampling goes by the TD error to this power (Schaul et al., 2016); 0 is uniform."""
    importance_exponent: float = 0.4
    """Start of the importance weights' exponent in prioritised replay; rises linearly to 1 over `max_updates`."""

    epsilon_start: float = 1.0
    """Exploration rate at the start."""
    epsilon_end: float = 0.05
    """Exploration rate after the decay."""
    epsilon_decay_updates: int = 10_000
    """Updates over which epsilon falls linearly; unused where it falls by episode."""
    epsilon_decay_per_episode: float = 0.0
    """Epsilon falls by this after each episode of an agent (the article); 0 takes the linear schedule."""
    exploration_persistence: float = 0.0
    """Probability that an exploratory action goes on for another step (Dabney et al., 2021); 0 draws each anew."""

    gamma: float = 0.99
    """Discount factor."""
    n_step: int = 1
    """Environment steps whose rewards are summed before bootstrapping."""
    reward_scale: float = 1.0
    """Rewards are multiplied by this before learning; 1 - gamma keeps Q-values near 1."""
    bootstrap_on_truncation: bool = True
    """A time limit is not an end: bootstrap from the last observation. Off in the article."""
    batch_size: int = 128
    """Transitions in one update."""
    updates_per_step: int = 1
    """Updates after each step of the vector environment."""
    loss: Literal["squared", "huber"] = "squared"
    """Loss of the temporal-difference error."""
    double_dqn: bool = True
    """The online network chooses the action whose value the target network gives (van Hasselt et al., 2016)."""
    max_gradient_norm: float = 0.0
    """Clips each agent's own gradient norm."""

    learning_rate: float = 1e-3
    """AdamW's learning rate at the start."""
    learning_rate_end: float = 1e-3
    """Learning rate after the decay."""
    learning_rate_decay_updates: int = 0
    """Updates over which the learning rate falls linearly."""
    adam_betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's decay rates of the moment estimates."""
    adam_eps: float = 1e-8
    """AdamW's epsilon."""
    weight_decay: float = 0.01
    """AdamW's decoupled weight decay."""

    target_update_interval: int = 500
    """Updates between hard copies of the online network to the target network."""
    target_update_episodes: int = 0
    """Episodes of an agent between hard copies of its target network (the article)."""
    tau: float = 0.0
    """Polyak rate: the target network moves this far towards the online network at every update."""
    average_rate: float = 0.0
    """Rate of the exponential average of the weights that is evaluated and exported; 0 takes the online network."""

    max_updates: int = 50_000
    """Budget: updates an agent."""
    max_episodes: int = 0
    """Budget: an agent stops after this many episodes (the article)."""
    eval_start: int = 0
    """Updates before the first evaluation."""
    eval_interval: int = 1_000
    """Updates between greedy evaluations of the population."""
    eval_episodes: int = 10
    """Episodes in each evaluation of an agent."""
    acceptance_return: float | None = None
    """An agent that reaches this in every acceptance episode is solved and leaves the population; none: never."""
    acceptance_episodes: int = 100
    """Episodes of the acceptance evaluation, and on which the best agents are judged in the end; on selection seeds."""
    acceptance_epsilon: float = 0.0
    """Share of random actions in as many further episodes; who holds the ceiling disturbed holds it on unseen seeds."""
    log_interval: int = 10
    """Updates between metrics of training: of the learner, and of the episodes that ended."""
    checkpoint_interval: float = 10.0
    """Seconds from the end of a checkpoint to the next; longer where saving would take over a tenth of the time."""
    device: str = "cpu"
    """PyTorch device of networks and replay buffers, such as cuda; environments always step on the CPU."""
    num_threads: int = 1
    """Threads PyTorch computes with; results are reproduced by the same number of them."""

    def __post_init__(self) -> None:
        """Refuse what cannot be trained.

        Raises:
            ConfigError: naming the first field that is of another type or out of range.
        """
        for field, annotation in _annotations().items():
            self._require(field, _accepts(annotation, getattr(self, field)), f"must be {_expected(annotation)}")
            object.__setattr__(self, field, _as_floats(annotation, getattr(self, field)))
        for name in _POSITIVE:
            self._require(name, getattr(self, name) > 0, "must be above 0")
        for name in _NOT_NEGATIVE:
            self._require(name, getattr(self, name) >= 0, "must be 0 or above")
        for name in _FRACTION:
            self._require(name, 0 <= getattr(self, name) <= 1, "must be from 0 to 1")
        for name, (low, high, reason) in _BETWEEN.items():
            self._require(name, low <= getattr(self, name) <= high, f"must be from {low:g} to {high:g}, {reason}")
        for name in _annotations():
            entries = getattr(self, name) if name not in _NOT_IN_TENSORS else ()
            for entry in entries if isinstance(entries, tuple) else (entries,):
                self._require(
                    name,
                    not isinstance(entry, float) or entry == 0 or _LEAST <= abs(entry) <= _GREATEST,
                    f"must be 0 or have a size from {_LEAST:.2g} to {_GREATEST:.2g}, which float32 holds",
                )
        self._require(
            "gamma",
            self.gamma < _ONE,
            "must be below 1 in float32: at 1 the values of episodes that go on have no bound; take 0.999 or less",
        )
        self._require("hidden_sizes", all(size > 0 for size in self.hidden_sizes), "must be positive")
        self._require("observation_scale", all(s > 0 for s in self.observation_scale), "must be positive")
        self._require("observation_scale", all(s >= _LEAST_SCALE for s in self.observation_scale), _SCALE_REASON)
        self._require("adam_betas", all(0 <= beta < _ONE for beta in self.adam_betas), "must be from 0 to below 1")
        self._require(
            "weight_decay",
            self.weight_decay * max(self.learning_rate, self.learning_rate_end) <= 1,
            "times the learning rate must be at most 1, or a step would turn all weights around",
        )
        self._require(
            "learning_rate_end",
            bool(self.learning_rate_decay_updates) or self.learning_rate_end in (_UNSET_END, self.learning_rate),
            "needs learning_rate_decay_updates above 0 to be reached; without, make it the learning_rate",
        )
        self._require(
            "acceptance_epsilon",
            not self.acceptance_epsilon or self.acceptance_return is not None,
            "needs an acceptance_return, without which no agent is accepted; make it 0",
        )
        self._require(
            "replay_capacity",
            self.replay_capacity >= self.min_replay_batches * self.batch_size,
            f"must hold min_replay_batches x batch_size = {self.min_replay_batches * self.batch_size} transitions",
        )
        self._require(
            "replay_capacity", self.replay_capacity >= self.num_envs, f"must hold one step of {self.num_envs} envs"
        )
        targets = [bool(self.target_update_interval), bool(self.target_update_episodes), bool(self.tau)]
        if sum(targets) != 1:
            raise ConfigError(
                "exactly one of target_update_interval, target_update_episodes and tau must be above 0, got "
                f"{self.target_update_interval}, {self.target_update_episodes} and {self.tau}"
            )

    def _require(self, name: str, condition: bool, expectation: str) -> None:
        if not condition:
            raise ConfigError(f"{name} {expectation}, got {getattr(self, name)!r}")

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON values; of a world what differs from the nominal one."""
        return {**dataclasses.asdict(self), **{name: getattr(self, name).to_dict() for name in WORLDS}}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "DQNConfig":
        """Inverse of `to_dict`, also after a round trip through JSON.

        Raises:
            ConfigError: if a field is unknown, of another type or out of range.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(fields) - known):
            raise ConfigError(f"unknown field {', '.join(unknown)}; known are {', '.join(sorted(known))}")
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()
        }
        for name in values.keys() & set(WORLDS):
            try:
                values[name] = World.from_dict(values[name])
            except WorldError as error:
                raise ConfigError(str(error).replace("world.", f"{name}.", 1)) from error
        return cls(**values)

    @property
    def training_world(self) -> World:
        """What training and selection play in."""
        return self.world.altered(self.randomisation)

    @property
    def sha256(self) -> str:
        """Digest of the configuration, independent of field order."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()


WORLDS: Final = ("world", "randomisation")
"""Fields that are worlds."""
_POSITIVE: Final = (
    "num_agents", "num_envs", "num_quantiles", "replay_capacity", "min_replay_batches", "n_step", "reward_scale",
    "batch_size", "updates_per_step", "learning_rate", "adam_eps", "max_updates", "eval_interval", "eval_episodes",
    "acceptance_episodes", "log_interval", "num_threads",
)  # fmt: skip
_NOT_NEGATIVE: Final = (
    "seed", "epsilon_decay_updates", "max_gradient_norm", "learning_rate_end", "learning_rate_decay_updates",
    "weight_decay", "target_update_interval", "target_update_episodes", "max_episodes", "eval_start",
    "checkpoint_interval",
)  # fmt: skip
_LEAST: Final = 2.0**-126
_GREATEST: Final = (2 - 2.0**-23) * 2.0**127
"""Of float32's normal numbers: smaller ones are taken for 0."""
_ONE: Final = 1 - 2.0**-25
"""From here on numbers are 1 in float32."""
_UNSET_END: Final = DQNConfig.learning_rate_end
_LEAST_SCALE: Final = 1e-6
_SCALE_REASON: Final = "must be 1e-06 or above: an observation divided by less outgrows float32 in a few layers"
_FINITE: Final = "so that its square, as in the loss, is well within float32"
_BETWEEN: Final = {
    "learning_rate": (0.0, 1.0, "the step of a weight, which is of the size of 0.1"),
    "learning_rate_end": (0.0, 1.0, "the step of a weight, which is of the size of 0.1"),
    "adam_eps": (1e-19, _GREATEST, "as float32 holds no square below it and a vanishing gradient is divided by it"),
    "reward_scale": (0.0, 1e9, _FINITE),
    "initial_q": (-1e9, 1e9, _FINITE),
    "num_threads": (1, 256, "more than that no machine runs side by side to an end"),
}
"""Least and greatest values beyond what their type says, and why."""
_NOT_IN_TENSORS: Final = {"acceptance_return", "checkpoint_interval"}
_FRACTION: Final = (
    "epsilon_start",
    "epsilon_end",
    "epsilon_decay_per_episode",
    "gamma",
    "tau",
    "average_rate",
    "acceptance_epsilon",
    "priority_exponent",
    "importance_exponent",
    "exploration_persistence",
)


@functools.cache
def _annotations() -> dict[str, Any]:
    hints = get_type_hints(DQNConfig)
    return {field.name: hints[field.name] for field in dataclasses.fields(DQNConfig)}


def _accepts(annotation: Any, value: object) -> bool:
    """Whether a value is of an annotated type, of those that DQNConfig has."""
    if annotation is int:
        return type(value) is int and abs(value) < 2**63  # PyTorch's integers; True is an int to isinstance
    if annotation is float:
        return isinstance(value, int | float) and type(value) is not bool and abs(value) <= sys.float_info.max
    if annotation in (bool, str, NoneType, World):
        return isinstance(value, annotation)
    kinds = get_args(annotation)
    if get_origin(annotation) is Literal:
        return value in kinds
    if get_origin(annotation) is UnionType:
        return any(_accepts(kind, value) for kind in kinds)
    if not isinstance(value, tuple):
        return False
    if kinds[-1] is Ellipsis:
        return all(_accepts(kinds[0], item) for item in value)
    return len(value) == len(kinds) and all(map(_accepts, kinds, value))


def _as_floats(annotation: Any, value: Any) -> Any:
    """The value with floats where its type has them: 1, 1.0 and NumPy's 1.0 are one configuration, 0.0 and -0.0 too."""
    kinds = get_args(annotation)
    if isinstance(value, tuple):
        return tuple(_as_floats(kinds[0], entry) for entry in value)
    is_float = annotation is float or (float in kinds and value is not None)
    return float(value) + 0.0 if is_float else value


def _expected(annotation: Any) -> str:
    """What a value of an annotated type is, in words."""
    if annotation in _WORDS:
        return _WORDS[annotation]
    kinds = get_args(annotation)
    if get_origin(annotation) is Literal:
        return " or ".join(map(repr, kinds))
    if get_origin(annotation) is UnionType:
        return " or ".join(map(_expected, kinds))
    if kinds[-1] is Ellipsis:
        return f"a tuple, each entry {_expected(kinds[0])}"
    return f"a tuple of {len(kinds)}, each entry {_expected(kinds[0])}"


_WORDS: Final = {
    int: "a whole number below 2^63",
    float: "a finite number",
    bool: "true or false",
    str: "a text",
    NoneType: "none",
    World: "a World",
}
