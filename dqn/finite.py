"""Environment faults, such as numbers that are not finite, and diverged agents. Torch-free."""

import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

GREATEST: Final = float(np.finfo(np.float32).max)
"""Largest float32: networks compute in float32, where greater numbers are infinite."""


class EnvironmentFaultError(ValueError):
    """An environment returned a value that is not finite, or an invalid action mask.

    The message says which, where and at which step.
    """


class DivergedError(RuntimeError):
    """Every agent of a population has diverged."""

    def __init__(self, message: str, diverged: Mapping[int, tuple[int, str]] | None = None) -> None:
        """`diverged` maps each agent to the update at which it diverged and the reason."""
        super().__init__(message)
        self.diverged = dict(diverged or {})


def all_finite(tensor: Any) -> bool:
    """Whether the sum of a tensor is finite. It may overflow even if all entries are finite."""
    return math.isfinite(tensor.sum().item())


def is_finite(values: npt.NDArray[Any]) -> bool:
    """Whether all values are finite as float32."""
    return not values.size or bool(np.abs(values).max() <= GREATEST)


def require_finite(field: str, values: Any, env_id: str, *, step: int, agents: Any = None) -> None:
    """Check that an observation `[N, obs]` or a reward `[N]` of N sub-environments is finite as float32.

    Args:
        field: "observation" or "reward".
        values: the environment's values.
        env_id: of the environment.
        step: steps taken so far; 0 is the reset.
        agents: indices `[K]` of the agents in training, with N / K sub-environments each.

    Raises:
        EnvironmentFaultError: for the first value that is not finite.
    """
    array = np.asarray(values)
    if is_finite(array):
        return
    row, *entry = np.argwhere(~(np.abs(array) <= GREATEST))[0].tolist()
    value = array[(row, *entry)]
    raise EnvironmentFaultError(
        f"environment {env_id!r} returned the {field} {value}{f' in entry {str(entry)[1:-1]}' if entry else ''}, which "
        f"is not a finite float32, {place(row, len(array), step=step, agents=agents)}: look at its "
        f"{'step()' if step else 'reset()'} for a division by zero, an overflow or a missing measurement"
    )


def place(row: int, num_envs: int, *, step: int, agents: Any = None) -> str:
    """Where and when row `row` of `num_envs` sub-environments was returned; `step` and `agents` as above."""
    where = f"sub-environment {row} of {num_envs}"
    if agents is not None:
        each = num_envs // len(agents)
        where = f"sub-environment {row % each} of agent {int(agents[row // each]):02d}"
    return f"in {where} at {f'step {step}' if step else 'its reset'}"


def none_left(diverged: Mapping[int, tuple[int, str]]) -> DivergedError:
    """The error for a population in which every agent has diverged; it names the first."""
    agent, (update, reason) = min(diverged.items(), key=lambda each: (each[1][0], each[0]))
    number = f"all {len(diverged)} agents" if len(diverged) > 1 else "the only agent"
    return DivergedError(
        f"{number} diverged, the first was agent {agent:02d} after update {update:,} ({reason}): lower "
        "learning_rate or reward_scale, or clip by max_gradient_norm",
        diverged,
    )
