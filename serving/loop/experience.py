"""The latest transitions of the show, as the policy observed them."""

from typing import Any, Final

import numpy as np
from msgspec import Struct

from serving.episodes.simulation import Step

CAPACITY: Final = 4_096
_KINDS: Final[dict[str, type[np.generic]]] = {
    "version": np.int64,
    "episode": np.int64,
    "step": np.int64,
    "action": np.int64,
    "push": np.float64,
    "terminated": np.bool_,
    "truncated": np.bool_,
}


class Transitions(Struct, frozen=True, kw_only=True):
    """Columns of one length, oldest first; the transitions of an episode follow each other."""

    id: list[int]
    """Counts from 1 without gaps while the server runs."""
    version: list[str]
    episode: list[int]
    step: list[int]
    """In the episode, from 0."""
    observation: list[list[float]]
    action: list[int]
    """The action that the policy chose; a world with a delay applies it later."""
    push: list[float]
    """Outside force by spectators in newtons, positive to the right."""
    next_observation: list[list[float]]
    terminated: list[bool]
    truncated: list[bool]


class Experience:
    """A ring buffer of the last `CAPACITY` transitions, in arrays that are allocated once."""

    def __init__(self) -> None:
        self.newest = 0
        """Id of the latest transition; 0 before there is one."""
        self._columns: dict[str, Any] = {name: np.zeros(CAPACITY, dtype=kind) for name, kind in _KINDS.items()}
        self._shape_for(0)

    def add(self, *, version: int, episode: int, step: Step) -> int:
        """Store a transition in place of the oldest; returns its id."""
        if len(step.observation) != self._width:
            self._shape_for(len(step.observation))
        row = self.newest % CAPACITY
        columns = self._columns
        columns["version"][row] = version
        columns["episode"][row] = episode
        columns["step"][row] = step.index
        columns["observation"][row] = step.observation
        columns["action"][row] = step.action
        columns["push"][row] = step.push
        columns["next_observation"][row] = step.next_observation
        columns["terminated"][row] = step.terminated
        columns["truncated"][row] = step.truncated
        self.newest += 1
        return self.newest

    def columns(self, since: int) -> dict[str, Any]:
        """Arrays `[N]` and `[N, obs]` of the kept transitions after the one with id `since`, oldest first."""
        first = max(since, self._forgotten, self.newest - CAPACITY)
        ids = np.arange(first + 1, self.newest + 1)
        rows = (ids - 1) % CAPACITY
        return {"id": ids} | {name: column[rows] for name, column in self._columns.items()}

    def episode_so_far(self, count: int) -> list[int]:
        """The last actions, at most `count`, of the episode that plays; none after its end."""
        lately = self.columns(self.newest - count)
        if not len(lately["id"]) or lately["terminated"][-1] or lately["truncated"][-1]:
            return []
        return list(map(int, lately["action"][lately["episode"] == lately["episode"][-1]]))

    def since(self, since: int) -> Transitions:
        """The same transitions for JSON."""
        columns = {name: column.tolist() for name, column in self.columns(since).items()}
        return Transitions(**columns | {"version": list(map(str, columns["version"]))})

    def _shape_for(self, width: int) -> None:
        """Allocate room for observations of another width; earlier transitions are dropped."""
        self._width = width
        self._forgotten = self.newest
        self._columns["observation"] = np.zeros((CAPACITY, width))
        self._columns["next_observation"] = np.zeros((CAPACITY, width))
