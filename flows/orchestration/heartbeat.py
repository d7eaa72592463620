"""Signs of life of a flow run, often enough to tell a dead worker from a control plane that is away for a while."""

import contextvars
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import prefect.runtime
from prefect.events import emit_event

ALIVE: Final = "dqn.flow-run.alive"
ALIVE_SECONDS: Final = 5.0
"""Prefect's own heartbeat comes every 30 seconds at the most often."""


@contextmanager
def heartbeats(flow_run_id: str | None = None, *, interval: float = ALIVE_SECONDS) -> Iterator[None]:
    """While the block runs, emit an event of the flow run every few seconds, in a background thread.

    Args:
        flow_run_id: None means the present run, if it is of a deployment; other runs have no heartbeats.
        interval: seconds between events.
    """
    if flow_run_id is None and prefect.runtime.deployment.id:
        flow_run_id = str(prefect.runtime.flow_run.id)
    if flow_run_id is None:
        yield
        return
    resource = {"prefect.resource.id": f"prefect.flow-run.{flow_run_id}"}
    over = threading.Event()

    def beat() -> None:
        while not over.is_set():
            emit_event(ALIVE, resource=resource)
            over.wait(interval)

    # Prefect relates an event to the flow run's work pool by the context it is emitted in.
    thread = threading.Thread(target=contextvars.copy_context().run, args=(beat,), name="heartbeats", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
