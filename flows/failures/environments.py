"""Errors that an environment raises: the message names the environment, the method and the error."""

from collections.abc import Iterator
from contextlib import contextmanager
from traceback import walk_tb
from types import TracebackType
from typing import Final

import gymnasium as gym

from dqn.config import ConfigError
from dqn.environments.spec import EnvironmentUnsupportedError
from dqn.finite import DivergedError, EnvironmentFaultError
from flows.uris import redacted

_CONSTRUCTOR: Final = ("__init__", "make", "make_vec")
_API: Final = (
    "it is to follow gymnasium.Env: reset(seed=, options=) returns (observation, info), and step(action) returns "
    "(observation, reward, terminated, truncated, info), of which the reward is a number"
)


@contextmanager
def of_environment(env_id: str) -> Iterator[None]:
    """A block that makes an environment or steps it.

    Raises:
        EnvironmentUnsupportedError: if its constructor, reset or step raises, or violates Gymnasium's API.
    """
    try:
        yield
    except (ConfigError, EnvironmentUnsupportedError, EnvironmentFaultError, DivergedError):
        raise
    except Exception as error:
        method = _method(error.__traceback__)
        if method is None:
            raise
        raise EnvironmentUnsupportedError(
            f"environment {env_id!r} failed in its {method} ({named(error)}); {_API}"
        ) from error


def _method(traceback: TracebackType | None) -> str | None:
    """The innermost method of an environment, or of Gymnasium's wrappers around it, that raised an error."""
    found = None
    for frame, _ in walk_tb(traceback):
        module, name = frame.f_globals.get("__name__", ""), frame.f_code.co_name
        itself = isinstance(frame.f_locals.get("self"), gym.Env | gym.vector.VectorEnv)
        if (itself and not module.startswith("dqn.")) or module == "gymnasium.envs.registration":
            found = "constructor" if name in _CONSTRUCTOR else name if name in ("reset", "step") else found
    return found


def named(error: BaseException) -> str:
    """The type of an error, and the first line of its message."""
    first_line, *_ = str(error).strip().splitlines() or [""]
    return redacted(f"{type(error).__name__}: {first_line}" if first_line else type(error).__name__)
