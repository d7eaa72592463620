"""What a replay buffer is: the contract of `dqn.train(config, replay=...)`."""

from collections.abc import Callable, Iterator
from typing import Any, Protocol

from torch import Tensor

from dqn.experience.transitions import Batch


class Replay(Protocol):
    """Stores the transitions of A agents and samples batches of them; `ReplayBuffer` is the project's own."""

    def insert(self, batch: Batch, valid: Tensor) -> None:
        """Store the rows of a batch `[A, B, ...]` for which `valid` `[A, B]` is true."""

    def can_sample(self, batch_size: int, min_batches: int = 10) -> bool:
        """Whether learning may start: by the rule of `DQNConfig`, every agent has `min_batches` batches."""

    def sample(self, batch_size: int, *, importance_exponent: float = 1.0) -> Batch:
        """A batch `[A, batch_size, ...]`; `importance_exponent` is the power of importance weights, if it has any."""

    def prioritise(self, batch: Batch, td_error: Tensor) -> None:
        """Take note of the TD errors `[A, batch_size]` of a sampled batch."""

    def observation_range(self, agents: Tensor) -> Tensor:
        """Minimum and maximum `[K, obs, 2]` of the stored observations of `agents` `[K]`."""

    def select(self, agents: Tensor) -> None:
        """Keep only the transitions of `agents`, an ascending index tensor `[K]`."""

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs, as plain data and tensors, without the transitions."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`; the caller then fills `chunks`."""

    def chunks(self) -> Iterator[Tensor]:
        """Contiguous views of the stored transitions, to write to a file or to fill from one."""


MakeReplay = Callable[..., Replay]
"""Makes a replay buffer from the keyword arguments of `ReplayBuffer`; those of later versions may have more."""
