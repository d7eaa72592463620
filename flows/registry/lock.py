"""One promotion of a model at a time."""

import logging
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

import mlflow
from mlflow import MlflowClient

from flows.failures.errors import FlowError, one_line
from flows.orchestration.flow_run import flow_run_id
from flows.registry.machine_lock import machine_lock

PROMOTION_TAG: Final = "promotion"
_LEASE_SECONDS: Final = 60.0
"""Time after which the lock of a promotion that died is free; Prefect's minimum."""

logger = logging.getLogger(__name__)


class OvertakenError(FlowError):
    """Another promotion of the model has begun, and this one stops; the message names both."""


@contextmanager
def promotion(client: MlflowClient, name: str) -> Iterator[str]:
    """A promotion of a model, one at a time, as aliases have no compare-and-set. Yields the promotion's token.

    The lock of a process that died is free after a minute. If that process was only held up, `hold` finds by the token
    that another promotion has begun.
    """
    with promotion_lock(name):
        yield begin_promotion(client, name)


def begin_promotion(client: MlflowClient, name: str) -> str:
    """Begin a promotion, which overtakes all earlier ones. Returns its token."""
    token = secrets.token_hex(8)
    client.set_registered_model_tag(name, PROMOTION_TAG, token)
    return token


def hold(client: MlflowClient, name: str, token: str | None) -> None:
    """Check, before each write of a promotion, that no other promotion has begun.

    Args:
        client: of the registry.
        name: of the registered model.
        token: of the promotion; None if the version is champion already, which changes no alias.

    Raises:
        OvertakenError: if another promotion has begun.
    """
    if token is None:
        return
    newest = client.get_registered_model(name).tags.get(PROMOTION_TAG)
    if newest != token:
        raise OvertakenError(
            f"promotion {token} of {name} was overtaken by promotion {newest} while it was held up; it stops here and "
            "changes nothing more: promote the version again if the other did not"
        )


@contextmanager
def promotion_lock(name: str) -> Iterator[None]:
    """A lock for promotions of a model: on all machines under Prefect, on this machine without it."""
    if flow_run_id():
        with _prefect_lock(f"promote-{name}"):
            yield
    else:
        with machine_lock(mlflow.get_registry_uri(), name):
            yield


@contextmanager
def _prefect_lock(limit: str) -> Iterator[None]:
    """A slot of a concurrency limit. If Prefect is away and the lease expires, the promotion's token still protects."""
    from prefect.client.orchestration import get_client
    from prefect.concurrency.sync import concurrency
    from prefect.exceptions import ObjectAlreadyExists

    # Another promotion may have created it at the same moment.
    with get_client(sync_client=True) as prefect, suppress(ObjectAlreadyExists):
        prefect.upsert_global_concurrency_limit_by_name(limit, limit=1)
    slot = concurrency(
        limit, occupy=1, strict=True, lease_duration=_LEASE_SECONDS, raise_on_lease_renewal_failure=False
    )
    slot.__enter__()
    try:
        yield
    finally:
        try:
            slot.__exit__(None, None, None)
        except Exception as error:  # the promotion itself has succeeded
            logger.warning("%s was not released (%s): Prefect frees it within a minute", limit, one_line(error))
