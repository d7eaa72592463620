"""How long a training takes, and when it is saved."""

import time
from collections.abc import Callable
from typing import Final

from dqn.training.state import TrainingState

_LARGEST_SHARE: Final = 0.1


class Clock:
    """Adds the time that passes to the state's account, and saves the state when it is due.

    From the end of a save to the next pass `checkpoint_interval` seconds, or as many more as keep saving to a tenth of
    the time, whatever a save takes.
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
        """Bring the account up to date, and save the state if enough time has passed since it was saved."""
        self.account()
        if self._wall < self._due:
            return
        before = self._wall
        self._on_checkpoint(self._state)
        after = self._now()
        pause = (after - before) * (1 - _LARGEST_SHARE) / _LARGEST_SHARE
        self._due = after + max(self._state.config.checkpoint_interval, pause)

    def account(self) -> None:
        """Bring the state's account of time up to date."""
        wall, cpu = self._now(), time.process_time()
        self._state.seconds += wall - self._wall
        self._state.cpu_seconds += cpu - self._cpu
        self._wall, self._cpu = wall, cpu
