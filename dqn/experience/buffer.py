"""The replay buffer of a population."""

import math
import mmap
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from dqn.experience.priorities import Priorities, leaves
from dqn.experience.transitions import Batch

_CHUNK_BYTES = 1 << 20
_FLOAT = 4
_NUMBERS = 3  # action, reward and discount


class ReplayBuffer:
    """A ring buffer of transitions for each agent, in one preallocated tensor.

    A transition is one row of float32, so that sampling a batch for all agents is a single gather, several times
    cheaper than one per field. Observations of bytes, and the masks of actions of an environment that has them, are
    four to an entry of the row, which is only copied. Actions are exact up to 2^24. Sampling is uniform without
    `priorities`. The rows and the samples are on `device`; random draws and indices are computed on the CPU.

    On the CPU the rows are a memory mapping, so that parts of it can be returned to the system. Copying the remaining
    agents' rows to a smaller tensor would almost double the memory of a training.
    """

    def __init__(
        self,
        *,
        num_agents: int,
        capacity: int,
        obs: int,
        generator: torch.Generator,
        dtype: torch.dtype = torch.float32,
        priorities: Priorities | None = None,
        device: torch.device | str = "cpu",
        mask: int = 0,
    ) -> None:
        """`mask` is the number of actions of an environment with action masks, and 0 without."""
        self._capacity = capacity
        self._priorities = priorities
        self._obs, self._dtype, self._mask = obs, dtype, mask
        self._generator = generator
        shape = (num_agents, capacity, row_width(obs, dtype.itemsize, mask))
        if torch.device(device).type == "cpu":
            self._memory = mmap.mmap(-1, math.prod(shape) * _FLOAT, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            self._rows = torch.frombuffer(self._memory, dtype=torch.float32).view(shape)
        else:
            self._rows = torch.zeros(shape, device=device)
        self._position = torch.zeros(num_agents, dtype=torch.int64)
        self._size = torch.zeros(num_agents, dtype=torch.int64)

    @property
    def size(self) -> Tensor:
        """Number of stored transitions `[A]`."""
        return self._size

    @property
    def nbytes(self) -> int:
        """Allocated memory of the transitions and their priorities, in bytes."""
        return self._rows.nbytes + (self._priorities.nbytes if self._priorities else 0)

    def insert(self, batch: Batch, valid: Tensor) -> None:
        """Store the rows of a batch `[A, B, ...]` for which `valid` `[A, B]` is true, replacing the oldest transitions.

        Raises:
            ValueError: if an agent has more valid rows than the buffer's capacity.
        """
        count = valid.sum(1)
        if (most := int(count.max())) > self._capacity:
            raise ValueError(f"{most} transitions at once do not fit a capacity of {self._capacity}")
        columns = [
            *self._packed(batch.observation, batch.next_observation),
            *([] if batch.next_mask is None else [_as_floats(batch.next_mask)]),
            batch.action.unsqueeze(-1).float(),
            batch.reward.unsqueeze(-1),
            batch.discount.unsqueeze(-1),
        ]
        row = valid.flatten().nonzero().squeeze(1)
        first = self._position - (count.cumsum(0) - count)
        slot = (torch.arange(len(row)) + first.repeat_interleave(count)) % self._capacity
        index = slot + self._offset().squeeze(1).repeat_interleave(count)
        rows = torch.cat(columns, dim=-1).flatten(0, 1).index_select(0, row)
        device = self._rows.device
        self._rows.view(-1, self._rows.shape[-1]).index_copy_(0, index.to(device), rows.to(device))
        if self._priorities:
            self._priorities.insert(index)
        self._position = (self._position + count) % self._capacity
        self._size = (self._size + count).clamp_max(self._capacity)

    def observation_range(self, agents: Tensor) -> Tensor:
        """Minimum and maximum of each entry of the stored observations of `agents` `[K]`: `[K, obs, 2]`.

        The range of an agent without transitions is (inf, -inf).
        """
        ranges = torch.tensor([torch.inf, -torch.inf]).repeat(len(agents), self._obs, 1)
        for row, agent in enumerate(agents.tolist()):
            if size := int(self._size[agent]):
                observation, _ = self._observations(self._rows[agent, :size])
                ranges[row] = torch.stack((observation.amin(0), observation.amax(0)), dim=-1).cpu()
        return ranges

    def can_sample(self, batch_size: int, min_batches: int = 10) -> bool:
        """Whether every agent has at least `min_batches` batches."""
        return int(self._size.min()) >= batch_size * min_batches

    def sample(self, batch_size: int, *, importance_exponent: float = 1.0) -> Batch:
        """Sample `batch_size` transitions per agent with replacement, uniformly or by priority.

        Args:
            batch_size: B.
            importance_exponent: beta of Schaul et al. (2016), from 0 (no correction) to 1 (full); not used without
                priorities.
        """
        draws = torch.rand(len(self._size), batch_size, dtype=torch.float64, generator=self._generator)
        weight = None
        if self._priorities:
            slot, weight = self._priorities.sample(draws, importance_exponent)
            weight = weight.to(self._rows.device)
        else:
            slot = (draws * self._size.unsqueeze(1)).long()
        index = (slot + self._offset()).to(self._rows.device)
        rows = self._rows.view(-1, self._rows.shape[-1]).index_select(0, index.flatten()).view(*index.shape, -1)
        action, reward, discount = rows[..., -_NUMBERS:].unbind(-1)
        observation, next_observation = self._observations(rows)
        return Batch(
            observation=observation,
            action=action.long(),
            reward=reward,
            next_observation=next_observation,
            discount=discount,
            next_mask=self._masks(rows),
            weight=weight,
            slot=slot,
        )

    def prioritise(self, batch: Batch, td_error: Tensor) -> None:
        """Set the priorities of a sampled batch to its TD errors `[A, B]`; does nothing without priorities."""
        if self._priorities and batch.slot is not None:
            self._priorities.update(batch.slot + self._offset(), td_error.cpu())

    def select(self, agents: Tensor) -> None:
        """Keep only the transitions of `agents`, an index tensor `[K]`, and return the other agents' memory.

        Raises:
            ValueError: if `agents` is not strictly ascending, which moving rows in place requires.
        """
        if bool((agents.diff() <= 0).any()):
            raise ValueError(f"agents must be in ascending order, got {agents.tolist()}")
        used = self._used()
        if self._rows.device.type == "cpu":
            for row, agent in enumerate(agents.tolist()):
                if row != agent:
                    self._rows[row, :used] = self._rows[agent, :used]
            self._rows = self._rows[: len(agents)]
            needed = -(-self._rows.nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
            if needed < len(self._memory):
                self._memory.madvise(mmap.MADV_DONTNEED, needed, len(self._memory) - needed)
        else:
            self._rows = self._rows[agents]
        self._position, self._size = self._position[agents], self._size[agents]
        if self._priorities:
            self._priorities.select(agents)

    def state_dict(self) -> dict[str, Any]:
        """Positions, sizes and priorities, without the transitions, because a second copy may not fit into memory."""
        return {
            "position": self._position,
            "size": self._size,
            "priorities": self._priorities.state_dict() if self._priorities else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`; the caller then fills `chunks`."""
        self._position, self._size = state["position"], state["size"]
        if self._priorities:
            self._priorities.load_state_dict(state["priorities"])

    def chunks(self) -> Iterator[Tensor]:
        """Views `[n, width]` of the rows in use, to write to a file or to fill from one."""
        used, at_once = self._used(), max(1, _CHUNK_BYTES // (self._rows.shape[-1] * _FLOAT))
        for rows in self._rows:
            for first in range(0, used, at_once):
                yield rows[first : min(first + at_once, used)]

    def _packed(self, *observations: Tensor) -> Sequence[Tensor]:
        """Two observations `[A, B, obs]` as the first entries of a row."""
        if self._dtype == torch.float32:
            return observations
        return [_as_floats(torch.cat(observations, dim=-1))]

    def _observations(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The observation and the next observation `[..., obs]` of rows, in their own type."""
        both = rows[..., :-_NUMBERS].view(self._dtype)
        return both[..., : self._obs], both[..., self._obs : 2 * self._obs]

    def _masks(self, rows: Tensor) -> Tensor | None:
        """The masks `[..., actions]` of rows; None without."""
        if not self._mask:
            return None
        first = row_width(self._obs, self._dtype.itemsize) - _NUMBERS
        return rows[..., first:-_NUMBERS].view(torch.bool)[..., : self._mask]

    def _used(self) -> int:
        """Largest number of rows in use of any agent."""
        return int(self._size.max()) if len(self._size) else 0

    def _offset(self) -> Tensor:
        return torch.arange(len(self._size)).unsqueeze(1) * self._capacity


def row_width(obs: int, itemsize: int = _FLOAT, mask: int = 0) -> int:
    """Number of floats of a stored transition: two observations with entries of `itemsize` bytes, and three numbers.

    With action masks of `mask` actions, it has a byte for each.
    """
    return -(-2 * obs * itemsize // _FLOAT) + -(-mask // _FLOAT) + _NUMBERS


def replay_bytes(
    *, num_agents: int, capacity: int, obs: int, itemsize: int = _FLOAT, mask: int = 0, prioritised: bool = False
) -> int:
    """Memory of a replay buffer in bytes; `itemsize` and `mask` as in `row_width`."""
    return num_agents * (capacity * row_width(obs, itemsize, mask) + 2 * leaves(capacity) * prioritised) * _FLOAT


def _as_floats(values: Tensor) -> Tensor:
    """Values `[..., n]` of one byte each as the bytes of floats `[..., ceil(n / 4)]`."""
    return torch.nn.functional.pad(values, (0, -values.shape[-1] % _FLOAT)).view(torch.float32)
