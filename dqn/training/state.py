"""Everything that a training run consists of at one moment: the content of a checkpoint."""

from typing import Any, Self

import torch
from torch import Tensor

from dqn.config import DQNConfig
from dqn.environments.spaces import Spaces
from dqn.experience.buffer import ReplayBuffer
from dqn.experience.nstep import NStepAccumulator
from dqn.experience.priorities import Priorities
from dqn.experience.replay import MakeReplay, Replay
from dqn.experience.vector import VectorEnvironment
from dqn.hyperparameters import HyperParameters
from dqn.learning.learner import Learner
from dqn.networks.bodies.body import Body
from dqn.networks.bodies.module import MakeModule
from dqn.networks.making import body_of, head_of
from dqn.networks.population import QNetworks
from dqn.seeding import TRAINING, stream_seed
from dqn.training.fits import Factory, divisors, own_environment, require_start
from dqn.training.machine import least, require_device, require_memory
from dqn.training.metrics import POPULATION, MetricHistory, MetricName
from dqn.training.milestones import Milestone, load_milestones, milestones_due


class TrainingState:
    """The agents in training, and a record of all agents.

    `agents` `[K]` are the indices of the K agents that are still in training. Their networks, optimizer state, replay
    buffers and environments have length K on the agent axis. The record of all agents has length A.
    """

    def __init__(
        self,
        config: DQNConfig,
        *,
        environment: VectorEnvironment,
        accumulator: NStepAccumulator,
        replay: Replay,
        learner: Learner,
        generator: torch.Generator,
    ) -> None:
        """Start at update 0 with parts for all A agents; `begin` builds them from a configuration.

        `generator` draws the exploration, and the batches as well if `replay` was given the same one.
        """
        A = config.num_agents
        self.config = config
        self.hyperparameters = learner.hyperparameters
        self.environment, self.accumulator, self.replay = environment, accumulator, replay
        self.learner, self.generator = learner, generator
        self.metrics = MetricHistory()
        self.milestones: list[Milestone] = []
        self.agents = torch.arange(A)
        self.epsilon = torch.ones(A)
        self.persisting = torch.full((A, config.num_envs), -1)
        self.last_step_valid = True
        self.environment_steps = self.evaluations = 0
        self.evaluated_at = -1
        self.seconds = self.cpu_seconds = 0.0
        self.best = learner.online.select(self.agents)
        self.final = learner.online.select(self.agents)
        self.best_return = torch.full((A,), -torch.inf, dtype=torch.float64)
        self.last_return, self.unrecorded_return = (torch.zeros(A, dtype=torch.float64) for _ in range(2))
        self.solved = torch.zeros(A, dtype=torch.bool)
        self.episodes, self.unrecorded, self.updates, self.steps = (torch.zeros(A, dtype=torch.int64) for _ in range(4))
        self.diverged: dict[int, tuple[int, str]] = {}
        """For each diverged agent, the update at which it left and the reason."""
        self.observed = torch.tensor([torch.inf, -torch.inf]).repeat(A, environment.observation_size, 1)

    @classmethod
    def begin(
        cls,
        config: DQNConfig,
        hyperparameters: HyperParameters | None = None,
        *,
        start: QNetworks | None = None,
        env: Factory | None = None,
        body: MakeModule | None = None,
        replay: MakeReplay = ReplayBuffer,
    ) -> Self:
        """Begin a training.

        Args:
            config: what to train.
            hyperparameters: values that differ between agents; they replace the configuration's values of those names.
            start: one network, of the configuration's shape, that every agent starts from; by default each agent draws
                its own.
            env: makes an environment, given the configuration's `env_kwargs`; by default Gymnasium makes `env_id`.
            body: makes the body of one agent; None for the configuration's body.
            replay: makes the replay buffer.

        Raises:
            ConfigError: if this machine does not have the device, an argument does not fit the environment, or `env` is
                given and `env_id` is the id of a registered environment.
            EnvironmentUnsupportedError: if the environment is unknown or not supported.
            MemoryError: if training needs more memory than this machine has.
        """
        device = require_device(config.device)
        if body is None:
            require_memory(config, least(config))  # a lower bound, before the environments are made
        hyperparameters = hyperparameters or HyperParameters.of([config])
        hyperparameters.require_fit(config)
        generator = torch.Generator().manual_seed(stream_seed(config.seed, TRAINING, 0))
        environment = VectorEnvironment(
            config.environment if env is None else own_environment(config, env),
            config.training_worlds(range(config.num_agents)),
            num_agents=config.num_agents,
            num_envs=config.num_envs,
            seed=stream_seed(config.seed, TRAINING, 1),
        )
        try:
            spaces = environment.spaces
            made = body_of(config, spaces.observation_shape, body)
            require_memory(config, spaces, made)
            divisors(config, spaces)
            if start is not None:
                require_start(config, start, spaces, made)
                networks = start.select(torch.zeros(config.num_agents, dtype=torch.int64))
            else:
                networks = _initialised(config, hyperparameters, spaces, made)
            return cls(
                config,
                environment=environment,
                accumulator=_accumulator(config, hyperparameters, spaces),
                replay=_replay(replay, config, spaces, generator, device),
                learner=Learner(config, networks.on(device), hyperparameters),
                generator=generator,
            )
        except BaseException:
            environment.close()
            raise

    @property
    def sound(self) -> Tensor:
        """Indices of the agents that have not diverged, whether in training or not, `[N]`."""
        return torch.tensor([k for k in range(self.config.num_agents) if k not in self.diverged], dtype=torch.int64)

    def record(self, name: MetricName, value: Tensor) -> None:
        """Record a metric `[K]` of the agents in training, at the current environment step."""
        step = torch.full((len(self.agents),), self.environment_steps)
        self.metrics.append(name, agent=self.agents, step=step, value=value)

    def record_returns(self, agents: Tensor) -> None:
        """Record the mean return of the episodes that each of `agents` `[N]` finished since its last record, if any."""
        agents = agents[self.unrecorded[agents] > 0]
        step = torch.full((len(agents),), self.environment_steps)
        value = self.unrecorded_return[agents] / self.unrecorded[agents]
        self.metrics.append("train/episodic_return", agent=agents, step=step, value=value)
        self.unrecorded[agents] = 0
        self.unrecorded_return[agents] = 0.0

    def record_population(self, name: MetricName, value: float) -> None:
        """Record a metric of the whole population, at the current environment step."""
        self.metrics.append(
            name,
            agent=torch.tensor([POPULATION]),
            step=torch.tensor([self.environment_steps]),
            value=torch.tensor([value], dtype=torch.float64),
        )

    def keep_milestone(self) -> None:
        """Store the evaluated networks as a milestone if one is due."""
        updates = self.learner.updates
        due = milestones_due(self.config.max_updates)
        if updates in due and all(kept.updates < updates for kept in self.milestones):
            networks = self.learner.evaluated.select(torch.arange(len(self.agents)))
            steps = self.environment_steps
            kept = Milestone(updates=updates, environment_steps=steps, agents=self.agents, networks=networks)
            self.milestones.append(kept)

    def select(self, rows: Tensor) -> None:
        """Keep only the agents in `rows`, an index tensor `[K]` into the agents in training."""
        self.agents = self.agents[rows]
        self.epsilon = self.epsilon[rows]
        self.persisting = self.persisting[rows]
        self.replay.select(rows)
        if not rows.numel():
            return
        self.learner.select(rows)
        self.accumulator.select(rows)
        self.environment.select(rows)

    def state_dict(self) -> dict[str, Any]:
        """The state as nested plain data and tensors, without the transitions, which `replay.chunks` returns."""
        return {
            "learner": self.learner.state_dict(),
            "replay": self.replay.state_dict(),
            "accumulator": self.accumulator.state_dict(),
            "environment": self.environment.state_dict(),
            "metrics": self.metrics.state_dict(),
            "milestones": [milestone.state_dict() for milestone in self.milestones],
            "best": self.best.state_dict(),
            "final": self.final.state_dict(),
            "generator": self.generator.get_state(),
            **{name: getattr(self, name) for name in _PLAIN},
        }

    def load_state_dict(self, state: dict[str, Any]) -> bool:
        """Continue from a captured state of the same configuration; `self` must be newly begun.

        Returns:
            False if the environments' state could not be captured; their episodes then start again.

        Raises:
            SnapshotError: if the environment's code has changed since.
        """
        self.select(state["agents"])
        for name in _PLAIN:
            setattr(self, name, state[name])
        self.learner.load_state_dict(state["learner"])
        self.replay.load_state_dict(state["replay"])
        self.accumulator.load_state_dict(state["accumulator"])
        self.metrics.load_state_dict(state["metrics"])
        self.milestones = load_milestones(state["milestones"], self.best)
        self.best.load_state_dict(state["best"])
        self.final.load_state_dict(state["final"])
        self.generator.set_state(state["generator"])
        if self.environment.load_state_dict(state["environment"]):
            return True
        self.environment.reset(seed=stream_seed(self.config.seed, TRAINING, 1, self.environment_steps))
        self.accumulator.clear()
        self.persisting.fill_(-1)
        return False


_PLAIN = (
    "agents", "epsilon", "persisting", "last_step_valid", "environment_steps", "evaluations", "evaluated_at",
    "seconds", "cpu_seconds", "best_return", "last_return", "solved", "episodes", "updates", "steps",
    "observed", "unrecorded", "unrecorded_return", "diverged",
)  # fmt: skip


def _initialised(config: DQNConfig, hyperparameters: HyperParameters, spaces: Spaces, body: Body) -> QNetworks:
    return QNetworks.initialised(
        seeds=[stream_seed(config.seed, TRAINING, 2, agent) for agent in range(config.num_agents)],
        body=body,
        num_actions=spaces.num_actions,
        head=head_of(config),
        dueling=config.dueling,
        observation_scale=divisors(config, spaces),
        initial_q=hyperparameters.initial_q,
    )


def _accumulator(config: DQNConfig, hyperparameters: HyperParameters, spaces: Spaces) -> NStepAccumulator:
    return NStepAccumulator(
        n_step=config.n_step,
        gamma=hyperparameters.gamma,
        reward_scale=hyperparameters.reward_scale,
        bootstrap_on_truncation=config.bootstrap_on_truncation,
        num_agents=config.num_agents,
        num_envs=config.num_envs,
        obs=spaces.observation_size,
        dtype=getattr(torch, spaces.dtype),
        mask=spaces.mask_size,
    )


def _replay(
    make: MakeReplay, config: DQNConfig, spaces: Spaces, generator: torch.Generator, device: torch.device
) -> Replay:
    A, capacity, exponent = config.num_agents, config.replay_capacity, config.priority_exponent
    return make(
        num_agents=A,
        capacity=capacity,
        obs=spaces.observation_size,
        mask=spaces.mask_size,
        generator=generator,
        dtype=getattr(torch, spaces.dtype),
        priorities=Priorities(num_agents=A, capacity=capacity, exponent=exponent) if exponent else None,
        device=device,
    )
