"""Attempts at a run: the newest one writes, every other stops.

A worker that hangs is given up, and another takes its flow run over; when the first one wakes up, both would train,
log and promote. So each start of a flow run leaves a token in the MLflow run, where all workers see it, and whoever is
about to write checks that the token is still its own. No compare-and-set is needed: of two that start at once the last
to leave its token goes on, and the other finds that it is stale. What remains is a process that is frozen in the moment
between its check and its write.
"""

import math
import secrets
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, TypeVar

from mlflow import MlflowClient

ATTEMPT_TAG: Final = "attempt"
CHECKED_SECONDS: Final = 10.0
"""For how long a check holds within a batch of writes: no other attempt begins while this one is held up for less."""

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One start of a flow run."""

    run_id: str
    """The MLflow run it writes to, a population's parent."""
    token: str


class StaleAttemptError(BaseException):
    """Another attempt has taken the run over; the message names both.

    No error that a block may handle: whatever the attempt was about to write, it stops.
    """


def begin(client: MlflowClient, run_id: str) -> Attempt:
    """Take a run over: from here on every earlier attempt is stale. Where that fails, the run has failed."""
    attempt = Attempt(run_id=run_id, token=secrets.token_hex(8))
    try:
        client.set_tag(run_id, ATTEMPT_TAG, attempt.token)
    except BaseException:
        with suppress(Exception):  # the first error is the one to report
            client.set_terminated(run_id, "FAILED")
        raise
    return attempt


def check(client: MlflowClient, attempt: Attempt) -> None:
    """Ask the tracking store whether an attempt is the newest.

    Raises:
        StaleAttemptError: if it is not.
    """
    newest = client.get_run(attempt.run_id).data.tags.get(ATTEMPT_TAG)
    if newest != attempt.token:
        raise StaleAttemptError(
            f"attempt {attempt.token} at run {attempt.run_id} was replaced by attempt {newest} while it was held up; "
            "it stops here and writes nothing more"
        )


def fenced(client: MlflowClient, attempt: Attempt | None) -> MlflowClient:
    """The client, for a write or a few that follow at once: `fenced(client, attempt).log_dict(...)`.

    Args:
        client: of the tracking store.
        attempt: which one writes; none where nobody else could, as in a flow that has no run of its own.

    Raises:
        StaleAttemptError: if the attempt is not the newest.
    """
    if attempt:
        check(client, attempt)
    return client


def in_batch(client: MlflowClient, attempt: Attempt, items: Iterable[T]) -> Iterator[T]:
    """Items to write one after the other: the attempt is checked before the first, not before each.

    It is checked again where a check is older than CHECKED_SECONDS.

    Raises:
        StaleAttemptError: if the attempt is not the newest.
    """
    checked = -math.inf
    for item in items:
        now = time.monotonic()
        if now - checked >= CHECKED_SECONDS:
            check(client, attempt)
            checked = now
        yield item
