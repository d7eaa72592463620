"""What Gymnasium knows of an environment by its id."""

import importlib

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec


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
    except (gym.error.Error, ImportError, ValueError, TypeError) as error:  # the last two: no name of a module
        raise unsupported(env_id, error) from error
    if spec.max_episode_steps is None:
        raise EnvironmentUnsupportedError(
            f"environment {env_id!r} has no time limit, so that a policy which never ends an episode would be "
            "evaluated for ever; register it with one: gymnasium.register(..., max_episode_steps=1000)"
        )
    return spec


def unsupported(env_id: str, error: Exception) -> EnvironmentUnsupportedError:
    """An environment that cannot be made, and Gymnasium's reason, as one sentence."""
    reason = str(error).rstrip(".")
    return EnvironmentUnsupportedError(
        f"environment {env_id!r} cannot be made: {reason}. Expected the id of a registered Gymnasium environment, "
        "such as CartPole-v1 or Acrobot-v1, or module:id where importing a module registers it"
    )
