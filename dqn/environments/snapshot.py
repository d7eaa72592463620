"""Environments in mid-episode as bytes (pickle), with a test whether this works for an environment. Torch-free."""

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium.vector import SyncVectorEnv, VectorEnv

from dqn.environments.making import side_by_side
from dqn.environments.masks import ACTION_MASK

Envs = VectorEnv[Any, Any, Any]


class SnapshotError(Exception):
    """Environments that cannot be captured or restored; the message says why."""


def capture(envs: Envs) -> bytes:
    """Capture all sub-environments in mid-episode.

    Raises:
        SnapshotError: if one of them cannot be pickled.
    """
    try:
        if isinstance(envs, SyncVectorEnv):  # cannot be pickled: it keeps the functions that made its environments
            return pickle.dumps((envs.envs, envs._autoreset_envs))
        return pickle.dumps(envs)
    except Exception as error:  # an environment's own code runs here, and may raise anything
        raise SnapshotError(_one_line(error)) from error


def restore(data: bytes) -> Envs:
    """Inverse of `capture`. Unpickling executes code from `data`: use it only for trusted bytes.

    Raises:
        SnapshotError: if the environment's code has changed.
    """
    try:
        content = pickle.loads(data)  # noqa: S301 # checkpoint.py checks the file's owner and mode
        return side_by_side(*content) if isinstance(content, tuple) else content
    except Exception as error:  # an environment's own code runs here, and may raise anything
        raise SnapshotError(_one_line(error)) from error


def why_not_capturable(make: Callable[[], Envs], num_actions: int) -> str | None:
    """The reason why environments do not continue identically from a snapshot; None if they do.

    Steps a restored copy and the original with the same allowed actions, through the ends of episodes and a reset. If
    the original itself raises, None is returned: training raises the same.

    Args:
        make: makes a vector environment with one sub-environment.
        num_actions: number of actions.
    """
    original = make()
    actions = np.random.default_rng(0).integers(0, num_actions, (96, 1))
    try:
        _, info = original.reset(seed=0)
        for action in actions[:32]:
            info = original.step(_allowed(action, info))[4]
    except Exception:  # an environment's own code runs here, and may raise anything
        original.close()
        return None
    try:
        copy = restore(capture(original))
        same = _step_alike(original, copy, actions[32:64], info)
        observation, info = original.reset()
        same &= np.array_equal(observation, copy.reset()[0])
        same &= _step_alike(original, copy, actions[64:], info)
        copy.close()
    except SnapshotError as error:
        return str(error)
    except Exception as error:  # an environment's own code runs here, and may raise anything
        return f"a pickled copy of it does not work: {_one_line(error)}"
    finally:
        original.close()
    return None if same else "a pickled copy of it behaves differently"


def _step_alike(first: Envs, second: Envs, actions: npt.NDArray[np.integer], info: dict[str, Any]) -> bool:
    alike = True
    for given in actions:
        action = _allowed(given, info)
        one, other = first.step(action), second.step(action)
        alike &= all(np.array_equal(a, b) for a, b in zip(one[:4], other[:4], strict=True))
        info = one[4]
    return alike


def _allowed(action: npt.NDArray[np.integer], info: dict[str, Any]) -> npt.NDArray[np.integer]:
    """`action` `[1]`, or an allowed one in its place if `info` has an action mask."""
    allowed = np.flatnonzero(info.get(ACTION_MASK, ()))
    return allowed[action % allowed.size] if allowed.size else action


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".partition("\n")[0].rstrip(".: ")
