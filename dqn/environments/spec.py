"""Gymnasium's specification of an environment."""

import importlib
from typing import Final

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec

GYMNASIUMS: Final = "gymnasium.envs.classic_control.cartpole:CartPoleVectorEnv"
_SINGLE: Final = "gymnasium.envs.classic_control.cartpole:CartPoleEnv"


class EnvironmentUnsupportedError(ValueError):
    """An environment that this project cannot train on; the message says why and what is supported."""


def environment_spec(env_id: str) -> EnvSpec:
    """The registered specification of an environment with a time limit.

    Args:
        env_id: an id for `gymnasium.make`; a module before a colon (`package:Env-v0`) is imported first, to register
            its environments.

    Raises:
        EnvironmentUnsupportedError: if the environment is unknown or has no time limit.
    """
    module, colon, name = env_id.rpartition(":")
    try:
        if colon:
            importlib.import_module(module)
        spec = gym.spec(name)
    except (gym.error.Error, ImportError) as error:
        raise unsupported(env_id, error) from error
    except (ValueError, TypeError) as error:  # not the name of a module
        raise unsupported(env_id, ImportError(error)) from error
    if spec.max_episode_steps is None:
        raise EnvironmentUnsupportedError(
            f"environment {env_id!r} has no time limit, so that the evaluation of a policy might never end; "
            "register it with one: gymnasium.register(..., max_episode_steps=1000)"
        )
    return spec


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
