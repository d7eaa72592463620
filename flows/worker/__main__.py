"""`python -m flows.worker`: Prefect's worker, with its own options, whose flow runs find everything imported."""

import signal
import sys
from typing import Final

import prefect
from prefect.cli import app

WRITTEN_FOR: Final = "3.8.8"
"""The preloaded worker is built on private modules of Prefect's, which another version may change without a word."""


def worker_type() -> str:
    """The type of worker to start: Prefect's own with any other version of it than that which ours was written for."""
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
    # Prefect stops a worker by this signal, which a shell has its background jobs ignore.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv[:1] = ["prefect", "worker", "start", "--type", worker_type()]
    app()
