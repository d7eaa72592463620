"""Gymnasium's specification of an environment."""

import dataclasses
import importlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec

GYMNASIUMS: Final = "gymnasium.envs.classic_control.cartpole:CartPoleVectorEnv"
_SINGLE: Final = "gymnasium.envs.classic_control.cartpole:CartPoleEnv"


class EnvironmentUnsupportedError(ValueError):
    """An environment that this project cannot train on; the message says why and what is supported."""


@dataclass(frozen=True, kw_only=True)
class Environment:
    """An environment with its arguments. Functions that take an id take one of these in its place."""

    env_id: str
    """An id for `gymnasium.make`; a module before a colon (`package:Env-v0`) is imported first, to register its
    environments."""
    kwargs: str = "{}"
    """Keyword arguments of its constructor, as a JSON object."""
    max_episode_steps: int = 0
    """Replaces the registered time limit; 0 keeps it."""
    factory: Callable[..., gym.Env[Any, Any]] | None = None
    """Makes the environment, which is then not registered and `env_id` is only its name."""

    @classmethod
    def of(cls, environment: "str | Environment") -> "Environment":
        """The environment of an id, without arguments; or the given one."""
        return environment if isinstance(environment, Environment) else cls(env_id=environment)


def environment_spec(environment: str | Environment) -> EnvSpec:
    """The specification of an environment with a time limit, with its arguments.

    Raises:
        EnvironmentUnsupportedError: if the environment is unknown or has no time limit.
    """
    wanted = Environment.of(environment)
    registered = _own_spec(wanted) if wanted.factory else registered_spec(wanted.env_id)
    spec = dataclasses.replace(
        registered,
        kwargs={**registered.kwargs, **json.loads(wanted.kwargs)},
        max_episode_steps=wanted.max_episode_steps or registered.max_episode_steps,
    )
    if spec.max_episode_steps is None:
        raise EnvironmentUnsupportedError(
            f"environment {wanted.env_id!r} has no time limit, so that the evaluation of a policy might never end; "
            "give it one, as with --max-episode-steps 1000 or DQNConfig(max_episode_steps=1000)"
        )
    return spec


def _own_spec(environment: Environment) -> EnvSpec:
    try:
        return EnvSpec(environment.env_id, environment.factory)
    except gym.error.Error as error:  # its name
        raise unsupported(environment.env_id, error) from error


def registered_spec(env_id: str) -> EnvSpec:
    """What Gymnasium has registered by an id, after importing the module that the id names.

    A module that does not register its environments when it is imported may have a function `register_envs` that does.

    Raises:
        EnvironmentUnsupportedError: if the environment is unknown.
    """
    module, colon, name = env_id.rpartition(":")
    try:
        if colon:
            imported = importlib.import_module(module)
            if name not in gym.registry and callable(register := getattr(imported, "register_envs", None)):
                register()
        return gym.spec(name)
    except (gym.error.Error, ImportError) as error:
        raise unsupported(env_id, error) from error
    except (ValueError, TypeError) as error:  # not the name of a module
        raise unsupported(env_id, ImportError(error)) from error


def has_own_vector(spec: EnvSpec) -> bool:
    """Whether the registered vector implementation can be assumed to equal N single environments.

    A vector implementation ignores additional wrappers and has other keyword arguments. Gymnasium's CartPole is known
    to be equal, including its only keyword argument.
    """
    if spec.vector_entry_point is None or spec.additional_wrappers:
        return False
    entry_points = _path(spec.entry_point), _path(spec.vector_entry_point)
    if GYMNASIUMS in entry_points:
        return entry_points == (_SINGLE, GYMNASIUMS) and spec.kwargs.keys() <= {"sutton_barto_reward"}
    return not spec.kwargs


def _path(entry_point: object) -> object:
    """An entry point as a string, also if it was registered as a class."""
    return f"{entry_point.__module__}:{entry_point.__qualname__}" if isinstance(entry_point, type) else entry_point


def unsupported(env_id: str, error: Exception) -> EnvironmentUnsupportedError:
    """The error for an environment that cannot be made, with the reason from Gymnasium or the constructor."""
    reason = str(error).strip().partition("\n")[0].rstrip(".")
    if not isinstance(error, gym.error.Error | ImportError):
        said = f"{type(error).__name__}: {reason}" if reason else type(error).__name__
        return EnvironmentUnsupportedError(f"environment {env_id!r} failed in its constructor ({said})")
    return EnvironmentUnsupportedError(
        f"environment {env_id!r} cannot be made: {reason}. Expected the id of a registered Gymnasium environment, "
        "such as CartPole-v1 or Acrobot-v1, or module:id where importing a module registers it"
    )
