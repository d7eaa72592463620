"""A version that may play: its digest is that of the evaluated artifact, and its environment is allowed here."""

import hashlib
import math
import time
from dataclasses import dataclass
from typing import Final

import gymnasium as gym
import numpy as np
from msgspec import Struct

from dqn.environments.making import make
from dqn.environments.masks import ACTION_MASK, MASKED_Q
from serving.errors import PolicyError
from serving.models.source import Version
from serving.policy import OnnxPolicy

TRIED_ROWS: Final = 64
"""Rows of a batch that every version has answered in time before it plays."""
_STEP_SECONDS: Final = 0.05
"""Longest time for one observation: a show needs an action every 20 ms, besides everything else that is served."""


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """A version that was loaded, checked and warmed."""

    name: str
    version: Version
    policy: OnnxPolicy
    sha256: str

    @classmethod
    def load(
        cls, name: str, version: Version, content: bytes, *, environments: frozenset[str] = frozenset()
    ) -> "ServedModel":
        """Check the bytes of a version and try it; `environments` are allowed besides Gymnasium's own.

        Raises:
            PolicyError: if it is not the evaluated artifact, breaks the contract, or does not run.
        """
        digest = hashlib.sha256(content).hexdigest()
        if version.sha256 not in ("", digest):
            raise PolicyError(
                f"its artifact has the SHA-256 {digest[:12]}..., its tag says {version.sha256[:12]}... was judged: "
                "evaluate and promote it again"
            )
        policy = OnnxPolicy.load(content)
        _check_environment(policy, environments)
        _check_answers(policy)
        return cls(name=name, version=version, policy=policy, sha256=digest)


class Description(Struct, frozen=True, kw_only=True):
    """A served version as the page and the API show it."""

    version: str
    aliases: list[str]
    env_id: str
    world: str
    action_meanings: tuple[str, ...]
    run_id: str
    experiment_id: str
    seed: int
    sha256: str
    tags: dict[str, str]


def _check_environment(policy: OnnxPolicy, admitted: frozenset[str]) -> None:
    env_id, metadata = policy.metadata.env_id, policy.metadata
    spec = gym.registry.get(env_id)
    own = spec is not None and str(spec.entry_point).startswith("gymnasium.envs.")
    if not own and env_id not in admitted:
        # gymnasium.make imports the module that an id names: a model file must not choose that module
        raise PolicyError(
            f"environment {env_id[:80]!r} is not one of Gymnasium's: start serving with --allow-env to admit it"
        )
    try:
        env = make(metadata.environment, metadata.world)
    except ValueError as error:
        raise PolicyError(f"its episodes cannot be played here: {error}") from error
    try:
        observations, actions = env.observation_space, env.action_space
    finally:
        env.close()
    if observations.shape != metadata.observation_shape:
        raise PolicyError(
            f"it takes observations of the shape {metadata.observation_shape}, {env_id} has the shape "
            f"{observations.shape}"
        )
    if not isinstance(actions, gym.spaces.Discrete) or (actions.start, actions.n) != (0, metadata.num_actions):
        raise PolicyError(f"it chooses among {metadata.num_actions} actions, {env_id} has {actions}")


def _check_answers(policy: OnnxPolicy) -> None:
    shape, actions = policy.metadata.observation_shape, policy.metadata.num_actions
    batch = np.random.default_rng(0).normal(size=(TRIED_ROWS, *shape)).astype(np.float32)
    batch[0] = 0
    mask = np.eye(actions, dtype=np.bool_)[np.arange(TRIED_ROWS) % actions]  # one action a row
    try:
        answers = policy.q_values(batch)
        masked = policy.q_values(batch, mask)
        seconds = math.inf
        for row in batch[:10]:  # the first runs of a shape are the slowest
            began = time.perf_counter()
            policy.q_values(row[np.newaxis])
            seconds = min(seconds, time.perf_counter() - began)
    except Exception as error:  # onnxruntime's exceptions have no common base class
        raise PolicyError(f"it fails on a batch of {TRIED_ROWS} observations: {error}") from error
    if seconds > _STEP_SECONDS:
        raise PolicyError(f"it takes {1000 * seconds:.0f} ms for an observation, at most {1000 * _STEP_SECONDS:.0f} ms")
    if answers.shape != (TRIED_ROWS, actions):
        raise PolicyError(
            f"it answers a batch of {TRIED_ROWS} with the shape {list(answers.shape)}, not [{TRIED_ROWS}, {actions}]"
        )
    if not np.isfinite(answers).all():
        raise PolicyError(f"it answers {answers[~np.isfinite(answers)][0]} to ordinary observations")
    if policy.metadata.masked and not np.array_equal(masked, np.where(mask, answers, np.float32(MASKED_Q))):
        raise PolicyError(f"its Q-values of actions that '{ACTION_MASK}' forbids are not {MASKED_Q:.8g}")
