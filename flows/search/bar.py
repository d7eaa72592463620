"""The progress bar of a sweep that runs in a terminal."""

from types import TracebackType
from typing import Never, Self

from tqdm import tqdm

from flows.orchestration.console import Estimate
from flows.search.settings import SweepConfig
from flows.search.shard import Progress


class Bar:
    """Gradient updates done out of the budget, with trials, rung and the best return so far.

    It is a bar on a terminal, and a line every few seconds elsewhere.
    """

    def __init__(self, sweep: SweepConfig) -> None:
        self._sweep = sweep
        self._best = float("-inf")
        self._bar: tqdm[Never] = tqdm(total=sweep.budget, unit="update", unit_scale=True, disable=None)
        self._estimate = Estimate("updates of agents", sweep.budget)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()

    def show(self, progress: Progress) -> None:
        """Show the progress of a shard."""
        sweep = self._sweep
        before = sum(sweep.updates(shard) for shard in range(progress.shard))
        self._best = max(self._best, progress.best)
        tried = sum(sweep.size(shard) for shard in range(progress.shard))
        self._bar.set_postfix(
            {
                "trials": f"{tried:,} of {sweep.trials:,}",
                "training": progress.trials,
                "rung": f"{progress.rung + 1} of {len(sweep.rungs)}",
                "best": f"{self._best:.1f}" if self._best > float("-inf") else "-",
            },
            refresh=False,
        )
        self._bar.update(before + progress.updates - self._bar.n)
        if self._bar.disable:
            best = f"best so far {self._best:.1f}" if self._best > float("-inf") else ""
            self._estimate(before + progress.updates, best)
