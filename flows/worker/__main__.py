"""`python -m flows.worker`: Prefect's worker with its options; it forks flow runs that need no imports."""

import signal
import sys
from typing import Final

import prefect
from prefect.cli import app

WRITTEN_FOR: Final = "3.8.8"
"""The preloaded worker uses private modules of Prefect, which another version may change without notice."""


def worker_type() -> str:
    """The type of worker to start: `preloaded.TYPE` with Prefect `WRITTEN_FOR`, Prefect's own with other versions."""
    if prefect.__version__ == WRITTEN_FOR:
        from flows.worker import preloaded  # Prefect's command line finds the type by its key

        return preloaded.TYPE
    print(
        f"Prefect is {prefect.__version__}, and flow runs are forked with {WRITTEN_FOR} alone: Prefect's own worker "
        "starts them, which takes seconds longer for each",
        file=sys.stderr,
    )
    return "process"


if __name__ == "__main__":
    # Prefect stops a worker by this signal, which background jobs of a shell ignore by default.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv[:1] = ["prefect", "worker", "start", "--type", worker_type()]
    app()
