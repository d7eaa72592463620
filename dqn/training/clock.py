"""The duration of a training, and when to save it."""

import time
from collections.abc import Callable
from typing import Final

from dqn.training.state import TrainingState

_LARGEST_SHARE: Final = 0.1


class Clock:
    """Adds elapsed time to the state, and saves the state when it is due.

    The pause after a save is `checkpoint_interval` seconds, or longer so that saving takes at most a tenth of the time.
    """

    def __init__(
        self,
        state: TrainingState,
        on_checkpoint: Callable[[TrainingState], None],
        *,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._state = state
        self._on_checkpoint = on_checkpoint
        self._now = now
        self._wall, self._cpu = now(), time.process_time()
        self._due = self._wall

    def save_if_due(self) -> None:
        """Update the elapsed time, and save the state if the pause since the last save is over."""
        self.account()
        if self._wall < self._due:
            return
        before = self._wall
        self._on_checkpoint(self._state)
        after = self._now()
        pause = (after - before) * (1 - _LARGEST_SHARE) / _LARGEST_SHARE
        self._due = after + max(self._state.config.checkpoint_interval, pause)

    def account(self) -> None:
        """Update the state's elapsed wall-clock and CPU time."""
        wall, cpu = self._now(), time.process_time()
        self._state.seconds += wall - self._wall
        self._state.cpu_seconds += cpu - self._cpu
        self._wall, self._cpu = wall, cpu
