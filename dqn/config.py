"""All hyper-parameters of a training run, with validation."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, Literal, get_type_hints

from dqn import field_limits as limits
from dqn.environments.spec import Environment
from dqn.environments.world import NOMINAL, World, WorldError
from dqn.field_types import accepts, as_floats, expected


class ConfigError(ValueError):
    """An invalid configuration; the message names the field, its value and the allowed values."""


@dataclass(frozen=True, kw_only=True)
class DQNConfig:
    """Configuration of one population of DQN agents.

    Counts and intervals are per agent: with 16 agents, `batch_size=128` samples 16 batches of 128 transitions.
    "Updates" are gradient updates. An interval, rate or norm of 0 turns its feature off.
    """

    # Pydantic refuses unknown keys. The attribute docstrings become the field descriptions in the Prefect UI.
    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "use_attribute_docstrings": True}

    env_id: str = "CartPole-v1"
    """Gymnasium environment with a Discrete action space; module:id imports the module, which registers it, first."""
    env_kwargs: dict[str, Any] = field(default_factory=dict, hash=False)
    """Keyword arguments of the environment, plain JSON values; tests, gate and server use them too."""
    max_episode_steps: int = 0
    """Environment steps after which an episode is truncated; 0 keeps the registered time limit."""
    world: World = NOMINAL
    """World that the policy is for: used by tests, gate and server. Each episode draws its own values from ranges."""
    worlds: tuple[World, ...] = ()
    """One world per agent, each in place of `world`; `make train` refuses worlds that differ. Empty for none."""
    randomisation: World = NOMINAL
    """Changes to `world` for training and selection (domain randomisation); not used by tests, gate and server."""
    seed: int = 0
    """Seed of the whole population. Training, selection and test use separate streams derived from it."""
    num_agents: int = 16
    """Independent agents trained in parallel. They share this configuration and differ in their random draws."""
    num_envs: int = 16
    """Parallel sub-environments of each agent."""

    body: Literal["mlp", "conv"] = "mlp"
    """mlp: hidden layers on the flattened observation; conv: 16 filters of 3 x 3 on an image, then hidden layers."""
    hidden_sizes: tuple[int, ...] = (128, 64)
    """Widths of the hidden layers, each followed by ReLU."""
    observation_scale: tuple[float, ...] = ()
    """Divisors of the entries of an observation, or one for all; empty for none, and for bytes their greatest value."""
    initial_q: float = 0.0
    """Added to the last layer's bias at the start; the value of a full episode makes the start optimistic."""

    dueling: bool = False
    """Dueling heads: the last layer outputs the state value and the advantage of each action (Wang et al., 2016)."""
    num_quantiles: int = 1
    """Outputs per action; their mean is the Q-value. More than one requires a loss that learns quantiles."""
    num_atoms: int = 0
    """C51 with this many atoms: returns have a distribution over them (Bellemare et al., 2017); replaces `loss`."""
    value_range: tuple[float, float] = (-1.0, 1.0)
    """Returns of the first and last of C51's atoms, after `reward_scale`; returns beyond count as these."""

    replay_capacity: int = 100_000
    """Capacity of each agent's replay buffer, in transitions."""
    min_replay_batches: int = 10
    """Learning starts when the replay buffer contains this many batches."""

    priority_exponent: float = 0.0
    """Prioritised replay: samples in proportion to |TD error| to this power (Schaul et al., 2016); 0 is uniform."""
    importance_exponent: float = 0.4
    """Initial exponent of the importance weights in prioritised replay; rises linearly to 1 over `max_updates`."""

    epsilon_start: float = 1.0
    """Epsilon at the start."""
    epsilon_end: float = 0.05
    """Epsilon after the decay."""
    epsilon_decay_updates: int = 10_000
    """Updates over which epsilon falls linearly; not used if `epsilon_decay_per_episode` is above 0."""
    epsilon_decay_per_episode: float = 0.0
    """Amount by which epsilon falls after each episode of an agent, as in the article; 0 uses the linear schedule."""
    exploration_persistence: float = 0.0
    """Probability that an exploratory action is repeated in the next step (Dabney et al., 2021)."""

    gamma: float = 0.99
    """Discount factor."""
    n_step: int = 1
    """Number of rewards that are summed before bootstrapping."""
    reward_scale: float = 1.0
    """Factor applied to rewards before learning; 1 - gamma keeps Q-values near 1."""
    bootstrap_on_truncation: bool = True
    """Bootstrap from the last observation of a truncated episode; off in the article."""
    batch_size: int = 128
    """Transitions per update."""
    updates_per_step: int = 1
    """Updates after each step of the vector environment."""
    loss: Literal["squared", "huber"] = "squared"
    """Loss of the temporal-difference error."""
    double_dqn: bool = True
    """Double DQN: the target network's value of the online network's greedy action (van Hasselt et al., 2016)."""
    max_gradient_norm: float = 0.0
    """Maximum gradient norm of each agent; larger gradients are scaled down."""

    learning_rate: float = 1e-3
    """Learning rate of AdamW at the start."""
    learning_rate_end: float = 1e-3
    """Learning rate after the decay."""
    learning_rate_decay_updates: int = 0
    """Updates over which the learning rate falls linearly."""
    adam_betas: tuple[float, float] = (0.9, 0.999)
    """Decay rates of AdamW's moment estimates."""
    adam_eps: float = 1e-8
    """AdamW's epsilon."""
    weight_decay: float = 0.01
    """AdamW's decoupled weight decay."""

    target_update_interval: int = 500
    """Updates between hard copies of the online network to the target network."""
    target_update_episodes: int = 0
    """Episodes of an agent between hard copies to its target network, as in the article."""
    tau: float = 0.0
    """Polyak averaging: fraction by which the target network moves towards the online network at each update."""
    average_rate: float = 0.0
    """Rate of the moving average of the weights that is evaluated and exported; 0 uses the online network."""

    max_updates: int = 50_000
    """Budget: updates per agent."""
    max_episodes: int = 0
    """Budget: an agent stops after this many episodes, as in the article."""
    eval_start: int = 0
    """Updates before the first evaluation."""
    eval_interval: int = 1_000
    """Updates between greedy evaluations of the population."""
    eval_episodes: int = 10
    """Episodes per agent in each evaluation."""
    acceptance_return: float | None = None
    """An agent with this return in every acceptance episode is solved and leaves the population; none disables this."""
    acceptance_episodes: int = 100
    """Episodes of the acceptance evaluation and of the final comparison of the best agents, on selection seeds."""
    acceptance_epsilon: float = 0.0
    """Fraction of random actions in a second acceptance test; passing it predicts success on unseen seeds."""
    log_interval: int = 10
    """Updates between training metrics, including the returns of the episodes that ended in between."""
    checkpoint_interval: float = 10.0
    """Seconds from the end of one checkpoint to the next; longer if saving would take over a tenth of the time."""
    device: str = "cpu"
    """PyTorch device of networks and replay buffers, such as cuda; environments always run on the CPU."""
    num_threads: int = 1
    """Number of PyTorch threads; a run is reproduced exactly only with the same number."""

    def __post_init__(self) -> None:
        """Validate all fields and convert whole numbers to floats in float fields.

        Raises:
            ConfigError: for the first field that has a wrong type or is out of range.
        """
        for name, annotation in _annotations().items():
            self._require(name, accepts(annotation, getattr(self, name)), f"must be {expected(annotation)}")
            object.__setattr__(self, name, as_floats(annotation, getattr(self, name)))
        reserved = "must leave out render_mode, which serving chooses, and max_episode_steps, which is a field"
        self._require("env_kwargs", not {"render_mode", "max_episode_steps"} & self.env_kwargs.keys(), reserved)
        for name in limits.POSITIVE:
            self._require(name, getattr(self, name) > 0, "must be above 0")
        for name in limits.NOT_NEGATIVE:
            self._require(name, getattr(self, name) >= 0, "must be 0 or above")
        for name in limits.FRACTION:
            self._require(name, 0 <= getattr(self, name) <= 1, "must be from 0 to 1")
        for name, (low, high, reason) in limits.BETWEEN.items():
            self._require(name, low <= getattr(self, name) <= high, f"must be from {low:g} to {high:g}, {reason}")
        for name in _annotations():
            entries = getattr(self, name) if name not in limits.NOT_IN_TENSORS else ()
            for entry in entries if isinstance(entries, tuple) else (entries,):
                self._require(
                    name,
                    not isinstance(entry, float) or entry == 0 or limits.LEAST <= abs(entry) <= limits.GREATEST,
                    f"must be 0 or have a size from {limits.LEAST:.2g} to {limits.GREATEST:.2g}, the range of float32",
                )
        self._require(
            "gamma",
            self.gamma < limits.ONE,
            "must be below 1 in float32: at 1 the value of an unending episode is unbounded; use 0.999 or less",
        )
        self._require("hidden_sizes", all(size > 0 for size in self.hidden_sizes), "must be positive")
        self._require("observation_scale", all(s > 0 for s in self.observation_scale), "must be positive")
        self._require(
            "observation_scale", all(s >= limits.LEAST_SCALE for s in self.observation_scale), limits.SCALE_REASON
        )
        self._require("num_atoms", self.num_atoms != 1, "must be 0 or at least 2")
        (low, high), greatest = self.value_range, max(map(abs, self.value_range))
        spaced = high - low > 1e-4 * greatest and greatest <= limits.GREATEST_RETURN
        self._require("value_range", spaced, "must be two numbers from -1e9 to 1e9, the first well below the second")
        for name, plain in (("num_quantiles", 1), ("initial_q", 0.0)) if self.num_atoms else ():
            self._require(name, getattr(self, name) == plain, f"must be {plain} where num_atoms is above 0")
        self._require(
            "adam_betas", all(0 <= beta < limits.ONE for beta in self.adam_betas), "must be from 0 to below 1"
        )
        self._require(
            "weight_decay",
            self.weight_decay * max(self.learning_rate, self.learning_rate_end) <= 1,
            "times the learning rate must be at most 1, or a step would reverse the sign of all weights",
        )
        self._require(
            "learning_rate_end",
            bool(self.learning_rate_decay_updates) or self.learning_rate_end in (_UNSET_END, self.learning_rate),
            "needs learning_rate_decay_updates above 0; without a decay, set it to the learning_rate",
        )
        self._require(
            "acceptance_epsilon",
            not self.acceptance_epsilon or self.acceptance_return is not None,
            "needs an acceptance_return; without one no agent is accepted, so set it to 0",
        )
        self._require(
            "replay_capacity",
            self.replay_capacity >= self.min_replay_batches * self.batch_size,
            f"must be at least min_replay_batches x batch_size = {self.min_replay_batches * self.batch_size}",
        )
        self._require(
            "replay_capacity", self.replay_capacity >= self.num_envs, f"must be at least num_envs = {self.num_envs}"
        )
        self._require("worlds", not self.worlds or self.world == NOMINAL, "must be left out where there is a world")
        if len(self.worlds) not in (0, self.num_agents):
            agents = f"num_agents = {self.num_agents} agents"
            raise ConfigError(f"worlds must be one for each of {agents}, got {len(self.worlds)}")
        targets = [bool(self.target_update_interval), bool(self.target_update_episodes), bool(self.tau)]
        if sum(targets) != 1:
            names = "target_update_interval, target_update_episodes and tau"
            given = f"{self.target_update_interval}, {self.target_update_episodes} and {self.tau}"
            raise ConfigError(f"exactly one of {names} must be above 0, got {given}")

    @property
    def environment(self) -> Environment:
        """The environment with its arguments."""
        kwargs = json.dumps(self.env_kwargs, sort_keys=True)
        return Environment(env_id=self.env_id, kwargs=kwargs, max_episode_steps=self.max_episode_steps)

    def _require(self, name: str, condition: bool, expectation: str) -> None:
        if not condition:
            raise ConfigError(f"{name} {expectation}, got {getattr(self, name)!r}")

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON values; a world is given by its differences from the nominal one."""
        own = tuple(world.to_dict() for world in self.worlds)
        return {**dataclasses.asdict(self), "worlds": own, **{name: getattr(self, name).to_dict() for name in WORLDS}}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "DQNConfig":
        """Inverse of `to_dict`, also after a round trip through JSON; a missing field takes its default.

        Raises:
            ConfigError: if a field is unknown, has a wrong type or is out of range.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(fields) - known):
            raise ConfigError(f"unknown field {', '.join(unknown)}; known are {', '.join(sorted(known))}")
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()
        }
        for name in values.keys() & {*WORLDS, "worlds"}:
            given, read = values[name], World.from_dict
            try:
                values[name] = tuple(map(read, given)) if isinstance(given, tuple) else read(given)
            except WorldError as error:
                raise ConfigError(str(error).replace("world.", f"{name}.", 1)) from error
        return cls(**values)

    def world_of(self, agent: int) -> World:
        """The world that an agent's policy is for."""
        return self.worlds[agent] if self.worlds else self.world

    def training_worlds(self, agents: Iterable[int]) -> tuple[World, ...]:
        """The worlds of training and selection: one for each of `agents`, or one for all if they share it."""
        own = tuple(self.worlds[agent] for agent in agents) if self.worlds else (self.world,)
        return tuple(world.altered(self.randomisation) for world in own)

    @property
    def sha256(self) -> str:
        """SHA-256 of the configuration, independent of field order."""
        values = self.to_dict()
        for each in dataclasses.fields(self):
            if each.name in _LATER and values[each.name] in (each.default, {}):
                del values[each.name]
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


WORLDS: Final = ("world", "randomisation")
"""Names of the fields that are worlds."""
_LATER: Final = ("worlds", "env_kwargs", "max_episode_steps", "body", "num_atoms", "value_range")
"""Fields that are not in a digest where they have their default, so that digests of earlier versions stay the same."""
_UNSET_END: Final = DQNConfig.learning_rate_end


@functools.cache
def _annotations() -> dict[str, Any]:
    hints = get_type_hints(DQNConfig)
    return {field.name: hints[field.name] for field in dataclasses.fields(DQNConfig)}
