"""A trained policy as one file: acts without PyTorch, is saved, loaded and evaluated. Torch-free."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from dqn.environments.masks import ACTION_MASK
from dqn.environments.spec import Environment
from dqn.environments.world import NOMINAL, World
from dqn.evaluation.returns import Act, episodic_returns
from dqn.seeding import TEST, stream_seed

_ENV_ID, _WORLD, _KWARGS, _STEPS, _SEED = "env_id", "world", "env_kwargs", "max_episode_steps", "seed"
EPISODES: Final = 100


class Policy:
    """The greedy policy of one agent, in onnxruntime; `serving` plays the file that `save` writes.

    Where a policy comes from elsewhere, as in serving, `serving.policy.OnnxPolicy` also bounds time and memory.
    """

    def __init__(self, model: bytes) -> None:
        """Read a policy from the bytes of an ONNX file, as `TrainingResult.policy` makes them.

        Raises:
            ValueError: if they are not the exported policy of an agent.
        """
        # Imported here, because training alone needs no runtime of exported networks.
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4  # a failure is raised
        try:
            session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
            properties = session.get_modelmeta().custom_metadata_map
            self.environment = Environment(
                env_id=properties[_ENV_ID],
                kwargs=properties.get(_KWARGS, "{}"),
                max_episode_steps=int(properties.get(_STEPS, 0)),
            )
            """What it was trained in."""
            self.world = World.from_dict(json.loads(properties.get(_WORLD, "{}")))
            self.seed = int(properties[_SEED])
            """Seed of its population."""
        except Exception as error:  # onnxruntime raises many unrelated classes
            raise ValueError(f"not an exported policy ({type(error).__name__}: {str(error)[:120]})") from error
        self.action_meanings: tuple[str, ...] = tuple(properties.get("action_meanings", "").split(","))
        self.observation_shape: tuple[int, ...] = tuple(session.get_inputs()[0].shape[1:])
        """Of one observation, without the batch."""
        self.masked = ACTION_MASK in [each.name for each in session.get_overridable_initializers()]
        """Whether it takes action masks."""
        self.model = model
        """The bytes of the ONNX file."""
        self._session = session

    @classmethod
    def load(cls, path: str | Path) -> "Policy":
        """Read a policy from a file.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it is not the exported policy of an agent.
        """
        try:
            return cls(Path(path).read_bytes())
        except ValueError as error:
            raise ValueError(f"{path} is {error}") from error

    def save(self, path: str | Path) -> None:
        """Write the policy as an ONNX file for any runtime, including this project's server."""
        Path(path).write_bytes(self.model)

    def q_values(self, observations: npt.ArrayLike, masks: npt.ArrayLike | None = None) -> npt.NDArray[np.float32]:
        """Q-values `[batch, actions]` of observations `[batch, *observation_shape]`.

        Actions that `masks` `[batch, actions]` forbid have the least float32, -3.4e38. A policy that was trained
        without action masks ignores them.

        Raises:
            ValueError: if the observations have another shape.
        """
        rows = np.asarray(observations, dtype=np.float32, order="C")
        if rows.shape[1:] != self.observation_shape:
            shape = list(self.observation_shape)
            raise ValueError(f"the policy takes a batch of observations of the shape {shape}, got {[*rows.shape]}")
        given: dict[str, Any] = {"observation": rows}
        if masks is not None and self.masked:
            given[ACTION_MASK] = np.ascontiguousarray(masks, dtype=np.bool_)
        return np.asarray(self._session.run(["q_values"], given)[0], dtype=np.float32)

    def act(self, observations: npt.ArrayLike, masks: npt.ArrayLike | None = None) -> npt.NDArray[np.int64]:
        """Greedy actions `[batch]` for observations `[batch, *observation_shape]`, masked as in `q_values`."""
        return np.asarray(self.q_values(observations, masks).argmax(1), dtype=np.int64)

    def predict(self, observation: npt.ArrayLike, action_mask: npt.ArrayLike | None = None) -> Any:
        """The greedy action for an observation `[*observation_shape]`, or actions `[batch]` for a batch of them.

        It is among the actions that `action_mask` `[actions]`, or `[batch, actions]`, allows with 1 or True. Actions
        count from 0. Observations of Dict, Tuple and Discrete spaces are those of Gymnasium's FlattenObservation.

        Raises:
            ValueError: if the observation has another shape.
        """
        shape = self.observation_shape
        try:
            given = np.asarray(observation, dtype=np.float32)
        except (TypeError, ValueError):
            raise ValueError(
                f"the policy takes numbers of the shape {list(shape)}, got a {type(observation).__name__}: wrap the "
                "environment in gymnasium.wrappers.FlattenObservation"
            ) from None
        if given.shape == shape:
            return int(
                self.act(given[np.newaxis], None if action_mask is None else np.asarray(action_mask)[np.newaxis])[0]
            )
        return self.act(given, action_mask)


def evaluate(
    policy: Policy | Act,
    env: str | Environment | Callable[..., gym.Env[Any, Any]] | None = None,
    *,
    world: World | None = None,
    episodes: int = EPISODES,
    seed: int = 0,
    max_episode_steps: int = 0,
) -> npt.NDArray[np.float64]:
    """Undiscounted returns `[episodes]` of a policy, on test seeds, which no training uses.

    Args:
        policy: a policy, or a function that maps observations `[N, *observation_shape]` to actions `[N]`; in an
            environment with action masks the function is also given the masks `[N, actions]`, bool.
        env: a registered id, or a function that makes an environment; by default the policy's own environment.
        world: of the episodes; by default that of the policy in its own environment, otherwise the nominal one.
        episodes: number of episodes, which are played in parallel.
        seed: chooses the test seeds. Equal seeds give equal episodes.
        max_episode_steps: replaces the time limit, unless it is 0; an environment without one needs it.

    Raises:
        EnvironmentUnsupportedError: if the environment is unknown, has no time limit or cannot have this world.
        EnvironmentFaultError: if an observation or a reward is not finite, or an action mask is invalid.
        ValueError: if the environment is not said, or its observations do not fit the policy.
    """
    act: Act = policy.act if isinstance(policy, Policy) else policy
    if isinstance(policy, Policy):
        world = policy.world if env is None and world is None else world
        env = policy.environment if env is None else env
    if env is None:
        raise ValueError("a function does not say its environment: pass an id, or a function that makes one, as env")
    if not isinstance(env, str | Environment):
        name = getattr(env, "__name__", "")  # <lambda> is not a name that Gymnasium accepts
        env = Environment(env_id=name if name.isidentifier() else "env", factory=env)
    if max_episode_steps:
        env = dataclasses.replace(Environment.of(env), max_episode_steps=max_episode_steps)
    return episodic_returns(act, env, world or NOMINAL, num_episodes=episodes, seed=stream_seed(seed, TEST, 1))
