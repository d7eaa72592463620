"""What is not finite, said as it enters: environments that fail, agents that diverge. Torch-free."""

import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

GREATEST: Final = float(np.finfo(np.float32).max)
"""Networks compute in float32: what is greater is infinite there."""


class EnvironmentFaultError(ValueError):
    """An environment gave what is not finite; the message names it, the field, the sub-environment and the step."""


class DivergedError(RuntimeError):
    """No agent of a population is left to choose from: all of them have diverged."""

    def __init__(self, message: str, diverged: Mapping[int, tuple[int, str]] | None = None) -> None:
        """`diverged` holds by agent the update at which it happened and the reason."""
        super().__init__(message)
        self.diverged = dict(diverged or {})


def all_finite(tensor: Any) -> bool:
    """Whether the sum of a tensor is: a single number is looked at, and every entry only where it is not."""
    return math.isfinite(tensor.sum().item())


def is_finite(values: npt.NDArray[Any]) -> bool:
    """Whether all values are finite as float32."""
    return not values.size or bool(np.abs(values).max() <= GREATEST)


def require_finite(field: str, values: Any, env_id: str, *, step: int, agents: Any = None) -> None:
    """Refuse an observation `[N, obs]` or a reward `[N]` of N sub-environments that is not finite as float32.

    Args:
        field: which of the two.
        values: what the environment gave.
        env_id: of the environment.
        step: steps taken so far; 0 is the reset.
        agents: the agent `[K]` of each N / K sub-environments, in training.

    Raises:
        EnvironmentFaultError: naming the first one.
    """
    array = np.asarray(values)
    if is_finite(array):
        return
    row, *entry = np.argwhere(~(np.abs(array) <= GREATEST))[0].tolist()
    value = array[(row, *entry)]
    where = f"sub-environment {row} of {len(array)}"
    if agents is not None:
        each = len(array) // len(agents)
        where = f"sub-environment {row % each} of agent {int(agents[row // each]):02d}"
    raise EnvironmentFaultError(
        f"environment {env_id!r} gave the {field} {value}{f' in entry {entry[0]}' if entry else ''}, which is not a "
        f"finite float32, in {where} at {f'step {step}' if step else 'its reset'}: look at its "
        f"{'step()' if step else 'reset()'} for a division by zero, an overflow or a missing measurement"
    )


def none_left(diverged: Mapping[int, tuple[int, str]]) -> DivergedError:
    """The error of a population of which every agent has diverged, with the first of them."""
    agent, (update, reason) = min(diverged.items(), key=lambda each: (each[1][0], each[0]))
    number = f"all {len(diverged)} agents" if len(diverged) > 1 else "the only agent"
    return DivergedError(
        f"{number} diverged, the first was agent {agent:02d} after update {update:,} ({reason}), and none is left to "
        "choose from: lower learning_rate or reward_scale, or give max_gradient_norm",
        diverged,
    )
