"""Vector environments as tensors `[A, E, ...]`; autoreset is handled here and nowhere else."""

import warnings
from functools import partial
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import SyncVectorEnv, VectorEnv
from torch import Tensor

from dqn.environments.conditions import Integers
from dqn.environments.making import make_vec, side_by_side
from dqn.environments.snapshot import SnapshotError, capture, restore, why_not_capturable
from dqn.environments.spec import EnvironmentUnsupportedError
from dqn.environments.world import NOMINAL, World
from dqn.environments.wrappers import narrowed
from dqn.experience.transitions import Transition
from dqn.finite import all_finite, require_finite


class VectorEnvironment:
    """`num_agents x num_envs` sub-environments stepped as one.

    Gymnasium resets an ended sub-environment on the next step and ignores that step's action: such a step is
    no transition, and comes back with `valid` false.
    """

    def __init__(self, env_id: str, world: World = NOMINAL, *, num_agents: int, num_envs: int, seed: int) -> None:
        self.env_id = env_id
        self.num_envs = num_envs
        self._agents = torch.arange(num_agents)
        self._steps = 0
        self._envs = make_vec(env_id, world, num_envs=num_agents * num_envs)
        try:
            self.observation_size, self.num_actions = _sizes(self._envs, env_id)
            self._world = world
            self._uncaptured: str | None = None
            self._tried = False
            info = self.reset(seed=seed)
        except BaseException:
            self.close()
            raise
        if "action_mask" in info:
            warnings.warn(
                f"environment {env_id!r} says which actions are possible (info['action_mask']), and that is not "
                "respected: agents also take, and learn values of, actions that it masks",
                stacklevel=2,
            )

    @property
    def not_capturable(self) -> str | None:
        """Why episodes cannot go on from a saved state and have to start afresh; None where they can.

        Tried out on an environment of its own when it is first asked, which a training without checkpoints never does.
        """
        if not self._tried:
            self._tried = True
            make = partial(make_vec, self.env_id, self._world, num_envs=1)
            self._uncaptured = why_not_capturable(make, self.num_actions)
        return self._uncaptured

    @property
    def num_agents(self) -> int:
        """Number of agents whose sub-environments are stepped, A."""
        return int(self._previous_ended.shape[0])

    def reset(self, *, seed: int) -> dict[str, Any]:
        """Start every episode afresh; returns what Gymnasium's `reset` says beside the observations.

        Raises:
            EnvironmentFaultError: if an observation is not finite.
        """
        observation, info = self._envs.reset(seed=seed)
        require_finite("observation", observation, self.env_id, step=0, agents=self._agents)
        self.observation = self._tensor(observation, torch.float32)
        self._previous_ended = torch.zeros(self.observation.shape[:2], dtype=torch.bool)
        self.episodic_return = torch.zeros(self.observation.shape[:2], dtype=torch.float64)
        return info

    def step(self, action: Tensor) -> Transition:
        """Take actions `[A, E]` and return what followed.

        Afterwards `observation` is the next one to act on and `episodic_return` the undiscounted return so far,
        complete where the episode ended.

        Raises:
            EnvironmentFaultError: if an observation or a reward is not finite.
        """
        observation, reward, terminated, truncated, _ = self._envs.step(action.flatten().numpy())
        self._steps += 1
        transition = Transition(
            observation=self.observation,
            action=action,
            reward=self._tensor(reward, torch.float32),
            next_observation=self._tensor(observation, torch.float32),
            terminated=self._tensor(terminated, torch.bool),
            truncated=self._tensor(truncated, torch.bool),
            valid=~self._previous_ended,
        )
        if not (all_finite(transition.next_observation) and all_finite(transition.reward)):
            for field, values in (("observation", observation), ("reward", reward)):
                require_finite(field, values, self.env_id, step=self._steps, agents=self._agents)
        self.episodic_return = self.episodic_return * transition.valid + transition.reward
        self.observation = transition.next_observation
        self._previous_ended = transition.terminated | transition.truncated
        return transition

    def select(self, agents: Tensor) -> None:
        """Keep the sub-environments of `agents`, an index tensor `[K]`, in that order; their episodes go on."""
        rows = torch.arange(self.num_agents * self.num_envs).view(-1, self.num_envs)[agents].flatten()
        self._envs = _narrow(self._envs, rows.numpy())
        self._agents = self._agents[agents]
        self.observation = self.observation[agents]
        self._previous_ended = self._previous_ended[agents]
        self.episodic_return = self.episodic_return[agents]

    def state_dict(self) -> dict[str, Any]:
        """Everything that `load_state_dict` needs; `envs` is None where the environment cannot be captured."""
        return {
            "envs": self._capture(),
            "observation": self.observation,
            "previous_ended": self._previous_ended,
            "episodic_return": self.episodic_return,
            "steps": self._steps,
        }

    def load_state_dict(self, state: dict[str, Any]) -> bool:
        """Continue from a captured state; returns False where episodes have to start afresh instead.

        Raises:
            SnapshotError: if the environment's code has changed since.
        """
        self._steps = state["steps"]
        if state["envs"] is None:
            return False
        self._envs.close()
        self._envs = restore(state["envs"])
        self.observation = state["observation"]
        self._previous_ended = state["previous_ended"]
        self.episodic_return = state["episodic_return"]
        return True

    def close(self) -> None:
        """Release the sub-environments."""
        self._envs.close()

    def _capture(self) -> bytes | None:
        if self.not_capturable is None:
            try:
                return capture(self._envs)
            except SnapshotError as error:  # what its first steps did not show; no reason to end a long training
                self._uncaptured = str(error)
        return None

    def _tensor(self, array: Any, dtype: torch.dtype) -> Tensor:
        tensor = torch.from_numpy(np.asarray(array)).to(dtype)
        return tensor.view(-1, self.num_envs, *tensor.shape[1:])


def describe(env_id: str, world: World = NOMINAL) -> tuple[int, int]:
    """Observation size and number of actions of an environment.

    Raises:
        EnvironmentUnsupportedError: if it is unknown, has no time limit, cannot be what the world says, or its spaces
            are none this project trains on.
    """
    envs = make_vec(env_id, world, num_envs=1)
    try:
        return _sizes(envs, env_id)
    finally:
        envs.close()


def _sizes(envs: VectorEnv[Any, Any, Any], env_id: str) -> tuple[int, int]:
    observation, action = envs.single_observation_space, envs.single_action_space
    if (
        not isinstance(observation, spaces.Box)
        or len(observation.shape) != 1
        or not observation.shape[0]
        or not isinstance(action, spaces.Discrete)
        or action.n < 2
    ):
        raise EnvironmentUnsupportedError(
            f"environment {env_id!r} has observations {observation} and actions {action}; "
            "supported are a flat Box (one axis of at least one number) and a Discrete action space of at least two"
        )
    return observation.shape[0], int(action.n)


def _narrow(envs: VectorEnv[Any, Any, Any], rows: Integers) -> VectorEnv[Any, Any, Any]:
    """The sub-environments `rows` of `envs`, in mid-episode."""
    if not isinstance(envs, SyncVectorEnv):
        return narrowed(envs, rows)
    for row in set(range(envs.num_envs)).difference(rows.tolist()):
        envs.envs[row].close()
    return side_by_side([envs.envs[row] for row in rows], envs._autoreset_envs[rows])
