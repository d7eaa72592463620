"""Action masks, `info["action_mask"]`, with the convention of Gymnasium's Taxi and of PettingZoo. Torch-free."""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from dqn.finite import EnvironmentFaultError, place

Mask = npt.NDArray[np.bool_]

ACTION_MASK: Final = "action_mask"
"""Key of the mask in `info`, and name of the exported policy's optional input."""
MASKED_Q: Final = float(np.finfo(np.float32).min)
"""Q-value of an action that is not allowed: the least finite float32, -3.4e38."""


def action_masks(
    info: Mapping[str, Any],
    env_id: str,
    *,
    num_actions: int,
    terminated: Mask,
    step: int,
    masked: bool | None = None,
    agents: Any = None,
) -> Mask | None:
    """Which actions are allowed next, `[N, actions]`, from the `info` of a vector environment; None without masks.

    After a terminated episode no action is taken. Its mask is not read, and every action counts as allowed.

    Args:
        info: of `reset` or `step`; Gymnasium marks in `_action_mask` which sub-environments have returned one.
        env_id: of the environment.
        num_actions: number of actions.
        terminated: `[N]`; all False after a reset.
        step: steps taken so far; 0 is the reset.
        masked: whether the reset returned masks; None at the reset.
        agents: indices `[K]` of the agents in training, with N / K sub-environments each.

    Raises:
        EnvironmentFaultError: if a mask is missing, has another length or another value than 0 and 1, or allows
            no action; or if there is one now and there was none at the reset.
    """
    given = info.get(ACTION_MASK)
    if given is None and not masked:
        return None
    masks, needed = np.asarray(given), ~terminated
    allowed = np.zeros((len(needed), num_actions), dtype=np.bool_)
    sound = np.zeros_like(needed)
    if masks.shape == allowed.shape and masked is not False:
        allowed = masks == 1
        sound = allowed.any(1) & (allowed | (masks == 0)).all(1)
    if (wrong := needed & ~sound).any():
        row = int(wrong.argmax())
        absent = given is None or not info.get(f"_{ACTION_MASK}", needed)[row]
        what = _wrong(None if absent else masks[row], num_actions, masked=masked is not False)
        where = place(row, len(needed), step=step, agents=agents)
        raise EnvironmentFaultError(f"environment {env_id!r} returned {what}, {where}")
    return allowed | terminated[:, np.newaxis]


def refuse_uneven(error: ValueError, env_id: str, *, masked: bool, step: int) -> None:
    """Refuse masks of several lengths in one step, for which Gymnasium's vector environment raises NumPy's `error`.

    Raises:
        EnvironmentFaultError: if the environment is `masked` and this is the error.
    """
    if masked and str(error).startswith("could not broadcast input array"):
        raise EnvironmentFaultError(
            f"environment {env_id!r} returned an {ACTION_MASK} of another length than its other sub-environments did, "
            f"at step {step} ({error})"
        ) from error


def _wrong(mask: Any, num_actions: int, *, masked: bool) -> str:
    """What is wrong with a mask; None for a missing one."""
    if mask is None or not masked:
        given = f"no {ACTION_MASK}" if mask is None else f"an {ACTION_MASK} that its reset does not return"
        return f"{given} (either reset and every step return one, or none does)"
    expected = f"(expected {num_actions} entries, int8 or bool, 1 for each allowed action and 0 for the others)"
    if not isinstance(mask, np.ndarray):
        return f"an {ACTION_MASK} of type {type(mask).__name__} {expected}"
    if mask.shape != (num_actions,):
        return f"an {ACTION_MASK} of shape {list(mask.shape)} {expected}"
    if (strange := mask[(mask != 0) & (mask != 1)]).size:
        return f"an {ACTION_MASK} with the value {strange[0]} {expected}"
    return f"an {ACTION_MASK} that allows no action (an episode without one must end)"
