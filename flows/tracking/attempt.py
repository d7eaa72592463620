"""Attempts at a run: only the newest one writes.

If a worker hangs, its flow run is started again on another worker. When the first worker wakes up, both would train,
log and promote. Each start of a flow run therefore writes a token into the MLflow run, and checks before each write
that the token is still its own. No compare-and-set is needed: of two attempts that start at once, the last one to write
its token continues, and the other finds that it is stale. One gap remains: a process that freezes between its check and
its write.
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
"""How long a check is valid within a batch of writes. A flow run is not started again before it has hung for longer."""

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One start of a flow run."""

    run_id: str
    """The MLflow run that it writes to: the parent run of a population, or the run of an adaptation."""
    token: str


class StaleAttemptError(BaseException):
    """Another attempt has replaced this one; the message names both.

    It is a BaseException, so that no `except Exception` handles it: the attempt must stop.
    """


def begin(client: MlflowClient, run_id: str) -> Attempt:
    """Begin an attempt at a run, which makes every earlier attempt stale. If that fails, the run is marked FAILED."""
    attempt = Attempt(run_id=run_id, token=secrets.token_hex(8))
    try:
        client.set_tag(run_id, ATTEMPT_TAG, attempt.token)
    except BaseException:
        with suppress(Exception):  # the first error is the one to report
            client.set_terminated(run_id, "FAILED")
        raise
    return attempt


@dataclass(frozen=True, kw_only=True)
class FencedClient:
    """MLflow's client for one attempt: it checks before each write that the attempt is the newest, once a batch.

    It writes by `checked` and by `in_batch`, and reads by `client`.
    """

    client: MlflowClient
    attempt: Attempt | None
    """None where no other attempt can exist, as in a promotion by hand: then nothing is checked."""

    @property
    def run_id(self) -> str:
        """The MLflow run of the attempt.

        Raises:
            ValueError: if there is no attempt.
        """
        if self.attempt is None:
            raise ValueError("this client has no attempt, and so no run of its own")
        return self.attempt.run_id

    def check(self) -> None:
        """Ask the tracking store whether the attempt is the newest.

        Raises:
            StaleAttemptError: if it is not.
        """
        if self.attempt is None:
            return
        newest = self.client.get_run(self.attempt.run_id).data.tags.get(ATTEMPT_TAG)
        if newest != self.attempt.token:
            raise StaleAttemptError(
                f"attempt {self.attempt.token} at run {self.attempt.run_id} was replaced by attempt {newest} while it "
                "was held up; it stops here and writes nothing more"
            )

    def checked(self) -> MlflowClient:
        """The client, right after a check: for one write, or for a few that follow at once.

        Raises:
            StaleAttemptError: if the attempt is not the newest.
        """
        self.check()
        return self.client

    def in_batch(self, items: Iterable[T]) -> Iterator[T]:
        """Items to write one after the other by `client`: the attempt is checked before the first, not before each.

        It is checked again where the last check is older than CHECKED_SECONDS.

        Raises:
            StaleAttemptError: if the attempt is not the newest.
        """
        checked = -math.inf
        for item in items:
            now = time.monotonic()
            if now - checked >= CHECKED_SECONDS:
                self.check()
                checked = now
            yield item
