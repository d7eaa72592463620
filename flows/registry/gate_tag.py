"""The gate tag of a version: it names the reason if a flow ends before the gate has decided."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from mlflow import MlflowClient

from flows.failures.errors import one_line
from flows.registry import versions
from flows.tracking.attempt import FencedClient, StaleAttemptError

PENDING: Final = "not evaluated yet"
_UNDECIDED: Final = "undecided: "
_LONGEST: Final = 1_000
"""Characters of a tag; MLflow accepts 5,000."""

logger = logging.getLogger(__name__)


def is_decided(gate: str) -> bool:
    """Whether a gate tag holds a decision about the version, by the gate or by a person."""
    return gate.startswith(("passed", "refused", "forced", "rolled back"))


@contextmanager
def undecided_if_ended(fenced: FencedClient, name: str, version: int) -> Iterator[None]:
    """If the block raises before the gate has decided on a version, write the error into its gate tag.

    A stale attempt writes nothing, because the newer one decides.
    """
    try:
        yield
    except StaleAttemptError:
        raise
    except BaseException as error:
        leave_undecided(fenced, name, version, one_line(error))
        raise


@contextmanager
def not_promoted_if_ended(fenced: FencedClient, name: str, version: int, gate: str) -> Iterator[None]:
    """If the block raises before a version that passed is champion, write the error into its gate tag."""
    try:
        yield
    except StaleAttemptError:
        raise
    except BaseException as error:
        try:
            champion = versions.version_of(fenced.client, name, versions.CHAMPION)
            if champion != version and _gate(fenced.client, name, version) == gate:
                _set(fenced, name, version, f"not promoted: {one_line(error)}; the gate said {gate}")
        except (Exception, StaleAttemptError) as second:
            _warn(name, version, second)
        raise


def leave_undecided(fenced: FencedClient, name: str, version: int, reason: str) -> None:
    """Write into a version's gate tag why the gate has not decided on it, unless it has decided. Never raises."""
    try:
        if _gate(fenced.client, name, version).startswith((PENDING, _UNDECIDED)):
            _set(fenced, name, version, _UNDECIDED + reason)
    except (Exception, StaleAttemptError) as error:
        _warn(name, version, error)


def _gate(client: MlflowClient, name: str, version: int) -> str:
    return str(versions.get_version(client, name, version).tags.get("gate", PENDING))


def _set(fenced: FencedClient, name: str, version: int, gate: str) -> None:
    versions.set_tags(fenced.checked(), name, version, {"gate": gate[:_LONGEST]})


def _warn(name: str, version: int, error: BaseException) -> None:
    logger.warning("the gate tag of version %d of %s could not be set: %s", version, name, one_line(error))
