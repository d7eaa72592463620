"""What a policy has lived through, and how it is cut into short windows that can be played again. Torch-free."""

import dataclasses
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

MAX_DELAY: Final = 10
"""Longest delay of actions that is looked for, in environment steps."""
_LARGEST: Final = 1e6
"""No number of a cart that is still on a track, or of an episode that anybody plays."""
_WINDOW: Final = 10
"""Transitions of a window; the pole falls too fast for the start of a long one to say much about its end."""


class UnexplainedError(ValueError):
    """An experience that no world explains well enough; the message says what was found and what is missing."""


@dataclass(frozen=True, kw_only=True)
class Experience:
    """N transitions in the order they happened; those of one episode follow one another."""

    observation: Floats
    """`[N, 4]` as the policy saw it"""
    action: Integers
    """`[N]` as the policy chose it, 0 or 1"""
    push: Floats
    """`[N]` newtons that are known to have acted on the cart beside the world's own"""
    next_observation: Floats
    """`[N, 4]`"""
    episode: Integers
    """`[N]`"""
    step: Integers
    """`[N]` from 0 in each episode"""

    def __post_init__(self) -> None:
        """Refuse what cannot be a record of episodes.

        Raises:
            UnexplainedError: naming the field.
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
                raise UnexplainedError(f"the experience's {field.name} holds values that are not finite, or huge")
        if not np.isin(self.action, (0, 1)).all():
            raise UnexplainedError("the experience's action holds others than 0 and 1")
        if (self.observation[1:] != self.next_observation[:-1])[self.goes_on[1:]].any():
            raise UnexplainedError("the experience is none of episodes: an observation is not the next one of before")

    @property
    def goes_on(self) -> npt.NDArray[np.bool_]:
        """Which transitions `[N]` follow the one before them in their episode."""
        same = (np.diff(self.episode) == 0) & (np.diff(self.step) == 1)
        return np.concatenate([[False], same])[: len(self.action)]

    def newest(self, count: int) -> "Experience":
        """The last transitions."""
        return Experience(**{field.name: getattr(self, field.name)[-count:] for field in dataclasses.fields(self)})


@dataclass(frozen=True, kw_only=True)
class Windows:
    """W pieces of episodes of at most K transitions, each of which could have begun anywhere."""

    observed: Floats
    """`[W, K + 1, 4]`"""
    present: npt.NDArray[np.bool_]
    """`[W, K + 1]` whether there is such an observation; a piece may be shorter"""
    push: Floats
    """`[W, K]` newtons"""
    directions: Floats
    """`[MAX_DELAY + 1, W, K]` side the motor pushes to, -1 or 1, by the delay of actions"""

    @property
    def transitions(self) -> int:
        """Number of transitions in all windows."""
        return int(self.present[:, 1:].sum())


def cut(experience: Experience, *, left_out: npt.NDArray[np.bool_]) -> Windows:
    """Every transition in one window, apart from the first of an episode whose beginning is not there.

    Which actions took effect in those is not known where they are delayed.

    Args:
        experience: what was lived through.
        left_out: transitions `[N]` that are not to be explained.
    """
    N, goes_on = len(experience.action), experience.goes_on
    begun = np.maximum.accumulate(np.where(goes_on, 0, np.arange(N)))  # where each transition's episode begins, here
    known = (experience.step[begun] == 0) | (np.arange(N) - begun >= MAX_DELAY)
    rows: list[list[int]] = []
    for index in np.flatnonzero(known & ~left_out).tolist():
        if not (goes_on[index] and rows and rows[-1][-1] == index - 1 and len(rows[-1]) < _WINDOW):
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
