"""`python -m flows.worker`: Prefect's worker, with its own options, whose flow runs find everything imported."""

import signal
import sys

from prefect.cli import app

from flows.worker import preloaded  # Prefect's command line finds the type by its key

if __name__ == "__main__":
    # Prefect stops a worker by this signal, which a shell has its background jobs ignore.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv[:1] = ["prefect", "worker", "start", "--type", preloaded.TYPE]
    app()
