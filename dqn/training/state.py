"""Everything a training run is at one moment: what a checkpoint holds."""

from typing import Any

import torch
from torch import Tensor

from dqn.config import DQNConfig
from dqn.experience.buffer import ReplayBuffer
from dqn.experience.nstep import NStepAccumulator
from dqn.experience.priorities import Priorities
from dqn.experience.vector import VectorEnvironment
from dqn.hyperparameters import HyperParameters
from dqn.learning.learner import Learner
from dqn.networks.population import QNetworks
from dqn.seeding import TRAINING, stream_seed
from dqn.training.fits import require_scale, require_start
from dqn.training.machine import require_device, require_memory
from dqn.training.metrics import POPULATION, MetricHistory, MetricName
from dqn.training.milestones import Milestone, load_milestones, milestone_due


class TrainingState:
    """The population in training and the record of the agents that have left it.

    `agents` `[K]` names the K agents still in training; their networks, replay, environments and optimizer state have
    K on the agent axis. What is kept of every agent, in training or not, has all A.
    """

    def __init__(
        self,
        config: DQNConfig,
        hyperparameters: HyperParameters | None = None,
        *,
        start: QNetworks | None = None,
    ) -> None:
        """Start afresh.

        Args:
            config: what is trained.
            hyperparameters: what agents differ in; it takes the place of the configuration's values of the same names.
            start: one network that every agent starts from, of the configuration's shape; none draws each its own.

        Raises:
            ConfigError: if this machine does not have the device, or what is given does not fit the environment.
            EnvironmentUnsupportedError: if the environment is unknown or of a kind that is not supported.
            MemoryError: if training would not fit this machine.
        """
        A = config.num_agents
        device = require_device(config.device)
        require_memory(config, observation_size=1, num_actions=2)  # at least: before as many environments are made
        self.config = config
        self.hyperparameters = hyperparameters or HyperParameters.of([config])
        self.hyperparameters.require_fit(config)
        self.agents = torch.arange(A)
        self.generator = torch.Generator().manual_seed(stream_seed(config.seed, TRAINING, 0))
        self.environment = VectorEnvironment(
            config.env_id,
            config.training_world,
            num_agents=A,
            num_envs=config.num_envs,
            seed=stream_seed(config.seed, TRAINING, 1),
        )
        observation_size, num_actions = self.environment.observation_size, self.environment.num_actions
        try:
            require_memory(config, observation_size=observation_size, num_actions=num_actions)
            require_scale(config, observation_size)
            if start is not None:
                require_start(config, start, observation_size=observation_size, num_actions=num_actions)
        except BaseException:
            self.environment.close()
            raise
        self.accumulator = NStepAccumulator(
            n_step=config.n_step,
            gamma=self.hyperparameters.gamma,
            reward_scale=self.hyperparameters.reward_scale,
            bootstrap_on_truncation=config.bootstrap_on_truncation,
            num_agents=A,
            num_envs=config.num_envs,
            obs=observation_size,
        )
        priorities = None
        if config.priority_exponent:
            priorities = Priorities(num_agents=A, capacity=config.replay_capacity, exponent=config.priority_exponent)
        self.replay = ReplayBuffer(
            num_agents=A,
            capacity=config.replay_capacity,
            obs=observation_size,
            generator=self.generator,
            priorities=priorities,
            device=device,
        )
        if start is not None:
            networks = start.select(torch.zeros(A, dtype=torch.int64))
        else:
            networks = QNetworks.initialised(
                seeds=[stream_seed(config.seed, TRAINING, 2, agent) for agent in range(A)],
                observation_size=observation_size,
                hidden_sizes=config.hidden_sizes,
                num_actions=num_actions,
                observation_scale=config.observation_scale,
                initial_q=self.hyperparameters.initial_q,
                dueling=config.dueling,
                num_quantiles=config.num_quantiles,
            )
        networks = networks.on(device)
        self.learner = Learner(config, networks, self.hyperparameters)
        self.metrics = MetricHistory()
        self.milestones: list[Milestone] = []
        self.epsilon = torch.ones(A)
        self.persisting = torch.full((A, config.num_envs), -1)
        self.last_step_valid = True
        self.environment_steps = 0
        self.evaluations = 0
        self.evaluated_at = -1
        self.seconds = 0.0
        self.cpu_seconds = 0.0

        self.best = networks
        self.final = networks.select(self.agents)
        self.best_return = torch.full((A,), -torch.inf, dtype=torch.float64)
        self.last_return = torch.zeros(A, dtype=torch.float64)
        self.solved = torch.zeros(A, dtype=torch.bool)
        self.episodes = torch.zeros(A, dtype=torch.int64)
        self.unrecorded = torch.zeros(A, dtype=torch.int64)
        self.unrecorded_return = torch.zeros(A, dtype=torch.float64)
        self.updates = torch.zeros(A, dtype=torch.int64)
        self.steps = torch.zeros(A, dtype=torch.int64)
        self.diverged: dict[int, tuple[int, str]] = {}
        """Agents that left because they diverged, with the update at which it happened and the reason."""
        self.observed = torch.tensor([torch.inf, -torch.inf]).repeat(A, observation_size, 1)

    @property
    def sound(self) -> Tensor:
        """The agents that have not diverged, in training or not, `[N]`."""
        return torch.tensor([k for k in range(self.config.num_agents) if k not in self.diverged], dtype=torch.int64)

    def record(self, name: MetricName, value: Tensor) -> None:
        """Record a metric `[K]` of the agents in training, at the current environment step."""
        step = torch.full((len(self.agents),), self.environment_steps)
        self.metrics.append(name, agent=self.agents, step=step, value=value)

    def record_returns(self, agents: Tensor) -> None:
        """Record what agents `[N]` returned on average in their episodes since the last time, where they had any."""
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
        """Keep the networks that are evaluated, where it is time to."""
        updates = self.learner.updates
        if milestone_due(self.config, updates) and all(kept.updates < updates for kept in self.milestones):
            everyone = torch.arange(len(self.agents))
            milestone = Milestone(
                updates=updates,
                environment_steps=self.environment_steps,
                agents=self.agents,
                networks=self.learner.evaluated.select(everyone),
            )
            self.milestones.append(milestone)

    def select(self, rows: Tensor) -> None:
        """Keep the agents in `rows`, an index tensor `[K]` into those in training."""
        self.agents = self.agents[rows]
        self.epsilon = self.epsilon[rows]
        self.persisting = self.persisting[rows]
        self.replay.select(rows)
        if not rows.numel():
            return
        self.learner.select(rows)
        self.accumulator.select(rows)
        self.environment.select(rows)

    def adopt(self, hyperparameters: HyperParameters) -> None:
        """Go on with other hyper-parameters, given for all A agents; what is replayed stays as it is."""
        self.hyperparameters = hyperparameters
        mine = hyperparameters.select(self.agents) if len(self.agents) < self.config.num_agents else hyperparameters
        self.learner.adopt(mine)
        self.accumulator.adopt(gamma=mine.gamma, reward_scale=mine.reward_scale)

    def state_dict(self) -> dict[str, Any]:
        """The state as nested plain data and tensors: all but the transitions, which `replay.chunks` gives."""
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
        """Continue from a captured state of the same configuration, into a state that was just started.

        Returns:
            False if the environments' state could not be captured, so that their episodes start afresh.

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
