"""What Gymnasium knows of an environment by its id."""

import importlib
from typing import Final

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec

GYMNASIUMS: Final = "gymnasium.envs.classic_control.cartpole:CartPoleVectorEnv"
_SINGLE: Final = "gymnasium.envs.classic_control.cartpole:CartPoleEnv"


class EnvironmentUnsupportedError(ValueError):
    """An environment this project cannot train on; the message says why and what is supported."""


def environment_spec(env_id: str) -> EnvSpec:
    """The registered specification of an environment with a time limit.

    Args:
        env_id: as `gymnasium.make` takes it; a module before a colon (`package:Env-v0`) is imported first, to register
            its environments.

    Raises:
        EnvironmentUnsupportedError: if it is unknown, or its episodes need not end.
    """
    module, colon, name = env_id.rpartition(":")
    try:
        if colon:
            importlib.import_module(module)
        spec = gym.spec(name)
    except (gym.error.Error, ImportError) as error:
        raise unsupported(env_id, error) from error
    except (ValueError, TypeError) as error:  # no name of a module
        raise unsupported(env_id, ImportError(error)) from error
    if spec.max_episode_steps is None:
        raise EnvironmentUnsupportedError(
            f"environment {env_id!r} has no time limit, so that a policy which never ends an episode would be "
            "evaluated for ever; register it with one: gymnasium.register(..., max_episode_steps=1000)"
        )
    return spec


def has_own_vector(spec: EnvSpec) -> bool:
    """Whether the vector implementation that an environment names is, as far as is known, its single one N times over.

    It takes no additional wrappers, and other keywords than the single one. Gymnasium's CartPole is one pair of classes
    whose single keyword means the same in both.
    """
    if spec.vector_entry_point is None or spec.additional_wrappers:
        return False
    entry_points = _path(spec.entry_point), _path(spec.vector_entry_point)
    if GYMNASIUMS in entry_points:
        return entry_points == (_SINGLE, GYMNASIUMS) and spec.kwargs.keys() <= {"sutton_barto_reward"}
    return not spec.kwargs


def _path(entry_point: object) -> object:
    """An entry point as a registration with a text has it, also where it was registered with a class."""
    return f"{entry_point.__module__}:{entry_point.__qualname__}" if isinstance(entry_point, type) else entry_point


def unsupported(env_id: str, error: Exception) -> EnvironmentUnsupportedError:
    """An environment that cannot be made, and Gymnasium's reason or its constructor's, as one sentence."""
    reason = str(error).strip().partition("\n")[0].rstrip(".")
    if not isinstance(error, gym.error.Error | ImportError):
        said = f"{type(error).__name__}: {reason}" if reason else type(error).__name__
        return EnvironmentUnsupportedError(f"environment {env_id!r} failed in its constructor ({said})")
    return EnvironmentUnsupportedError(
        f"environment {env_id!r} cannot be made: {reason}. Expected the id of a registered Gymnasium environment, "
        "such as CartPole-v1 or Acrobot-v1, or module:id where importing a module registers it"
    )
