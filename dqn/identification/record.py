"""Observed transitions, and windows of them for identification. Torch-free."""

import dataclasses
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

MAX_DELAY: Final = 10
"""Longest action delay that is tried, in environment steps."""
_LARGEST: Final = 1e6
"""Limit of plausible values of a cart on its track and of step and episode numbers."""
_WINDOW: Final = 10
"""Transitions per window. The pole is unstable: the end of a longer window hardly depends on its measured start."""
_PLAUSIBLE: Final = 20.0
"""Greatest difference in -2 log-likelihood between the best delay and one that is still tried."""
_DELAYS: Final = 3


class UnexplainedError(ValueError):
    """A record that no world explains well enough; the message says what was found and what is missing."""


@dataclass(frozen=True, kw_only=True)
class Experience:
    """N transitions in the order they happened; those of an episode are consecutive."""

    observation: Floats
    """`[N, 4]`, the policy's input"""
    action: Integers
    """`[N]`, the policy's output, 0 or 1"""
    push: Floats
    """`[N]`, known force on the cart in newtons, in addition to the world's own"""
    next_observation: Floats
    """`[N, 4]`"""
    episode: Integers
    """`[N]`"""
    step: Integers
    """`[N]` from 0 in each episode"""

    def __post_init__(self) -> None:
        """Validate shapes, values and order.

        Raises:
            UnexplainedError: naming the first invalid field.
        """
        N = len(self.action)
        for field in dataclasses.fields(self):
            values = getattr(self, field.name)
            shape = (N, 4) if field.name in ("observation", "next_observation") else (N,)
            if values.shape != shape:
                raise UnexplainedError(
                    f"the experience's {field.name} has the shape {list(values.shape)}, expected {list(shape)}"
                )
            if not (np.abs(values) < _LARGEST).all():
                raise UnexplainedError(
                    f"the experience's {field.name} has values that are not finite or beyond {_LARGEST:g}"
                )
        if not np.isin(self.action, (0, 1)).all():
            raise UnexplainedError("the experience's action has values other than 0 and 1")
        if (self.observation[1:] != self.next_observation[:-1])[self.continues[1:]].any():
            raise UnexplainedError(
                "the experience is not made of episodes: an observation differs from the previous next_observation"
            )

    @property
    def continues(self) -> npt.NDArray[np.bool_]:
        """Mask `[N]` of the transitions that continue the episode of the one before."""
        same = (np.diff(self.episode) == 0) & (np.diff(self.step) == 1)
        return np.concatenate([[False], same])[: len(self.action)]

    def newest(self, count: int) -> "Experience":
        """The last `count` transitions."""
        return Experience(**{field.name: getattr(self, field.name)[-count:] for field in dataclasses.fields(self)})


@dataclass(frozen=True, kw_only=True)
class Windows:
    """W windows: pieces of episodes of at most K transitions."""

    observed: Floats
    """`[W, K + 1, 4]`"""
    present: npt.NDArray[np.bool_]
    """`[W, K + 1]`, mask of the observations that exist, as a window may be shorter"""
    push: Floats
    """`[W, K]`, known outside force in newtons"""
    directions: Floats
    """`[MAX_DELAY + 1, W, K]`, direction of the motor, -1 or 1, for each action delay"""

    @property
    def transitions(self) -> int:
        """Number of transitions in all windows."""
        return int(self.present[:, 1:].sum())


def cut(experience: Experience, *, left_out: npt.NDArray[np.bool_]) -> Windows:
    """Cut a record into windows, each transition in one of them.

    If the record does not contain an episode's beginning, its first MAX_DELAY transitions are skipped: under a delay
    the actions that took effect in them are unknown.

    Args:
        experience: the record.
        left_out: mask `[N]` of transitions to skip.
    """
    N, continues = len(experience.action), experience.continues
    begun = np.maximum.accumulate(
        np.where(continues, 0, np.arange(N))
    )  # index of the first recorded transition of the episode
    known = (experience.step[begun] == 0) | (np.arange(N) - begun >= MAX_DELAY)
    rows: list[list[int]] = []
    for index in np.flatnonzero(known & ~left_out).tolist():
        if not (continues[index] and rows and rows[-1][-1] == index - 1 and len(rows[-1]) < _WINDOW):
            rows.append([])
        rows[-1].append(index)
    W = len(rows)
    observed, present = np.zeros((W, _WINDOW + 1, 4)), np.zeros((W, _WINDOW + 1), dtype=np.bool_)
    push, directions = np.zeros((W, _WINDOW)), np.ones((MAX_DELAY + 1, W, _WINDOW))
    effective = np.maximum(np.arange(N) - np.arange(MAX_DELAY + 1)[:, np.newaxis], begun)  # [delays, N]
    for w, row in enumerate(rows):
        K = len(row)
        observed[w, :K], observed[w, K:] = experience.observation[row], experience.next_observation[row[-1]]
        present[w, : K + 1] = True
        push[w, :K] = experience.push[row]
        directions[:, w, :K] = np.where(experience.action[effective[:, row]] == 1, 1.0, -1.0)
    return Windows(observed=observed, present=present, push=push, directions=directions)


def plausible_delays(windows: Windows, known_delay: int) -> list[int]:
    """The few most likely delays, the known one first, then by distance from it.

    For small angles each velocity's change is nearly linear in observation and action, whatever the world. If several
    delays make the same actions take effect, only the first is tried.
    """
    before, after = windows.observed[:, :-1], windows.observed[:, 1:]
    there = windows.present[:, 1:]
    changes = (after - before)[there][:, [1, 3]]
    angle, rate = before[there][:, 2], before[there][:, 3]
    others = np.stack([np.ones_like(angle), angle, rate**2 * angle, *before[there][:, [1, 3]].T, windows.push[there]])
    left, tried = {}, set()
    for delay in sorted(range(MAX_DELAY + 1), key=lambda delay: abs(delay - known_delay)):
        direction = windows.directions[delay][there]
        if direction.tobytes() in tried:
            continue
        tried.add(direction.tobytes())
        features = np.vstack([others, direction, direction * angle**2]).T
        residual = changes - features @ np.linalg.lstsq(features, changes, rcond=None)[0]
        left[delay] = len(changes) * float(np.log((residual**2).mean(0) + 1e-12).sum())
    likely = sorted(left, key=left.__getitem__)[:_DELAYS]
    return [delay for delay in left if delay in likely and left[delay] <= left[likely[0]] + _PLAUSIBLE]
