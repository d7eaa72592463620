"""One promotion of a model at a time."""

import logging
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

import mlflow
from mlflow import MlflowClient

from flows.errors import FlowError, one_line
from flows.orchestration.flow_run import flow_run_id
from flows.registry.machine_lock import machine_lock

PROMOTION_TAG: Final = "promotion"
_LEASE_SECONDS: Final = 60.0
"""After which the lock of a promotion that died is free again; Prefect takes no less."""

logger = logging.getLogger(__name__)


class OvertakenError(FlowError):
    """Another promotion of the model has begun; the message names both. What was about to be promoted is not."""


@contextmanager
def promotion(client: MlflowClient, name: str) -> Iterator[str]:
    """One promotion of a model at a time, wherever it runs: aliases have no compare-and-set.

    The lock of a process that died is free again after a minute; one that was only held up meanwhile finds, by the
    token this yields, that another has begun (`hold`).
    """
    with promotion_lock(name):
        yield begin_promotion(client, name)


def begin_promotion(client: MlflowClient, name: str) -> str:
    """Overtake every promotion that has begun before. Returns the token of this one."""
    token = secrets.token_hex(8)
    client.set_registered_model_tag(name, PROMOTION_TAG, token)
    return token


def hold(client: MlflowClient, name: str, token: str | None) -> None:
    """Before each write of a promotion: that no other has begun.

    Args:
        client: of the registry.
        name: of the registered model.
        token: of the promotion; None for that of the champion itself, which moves nothing.

    Raises:
        OvertakenError: if one has.
    """
    if token is None:
        return
    newest = client.get_registered_model(name).tags.get(PROMOTION_TAG)
    if newest != token:
        raise OvertakenError(
            f"promotion {token} of {name} was overtaken by promotion {newest} while it was held up; it stops here and "
            "moves nothing more: promote the version again if the other did not"
        )


@contextmanager
def promotion_lock(name: str) -> Iterator[None]:
    """One promotion of a model at a time: wherever it runs under Prefect, and on this machine without."""
    if flow_run_id():
        with _prefect_lock(f"promote-{name}"):
            yield
    else:
        with machine_lock(mlflow.get_registry_uri(), name):
            yield


@contextmanager
def _prefect_lock(limit: str) -> Iterator[None]:
    """A slot of a limit in Prefect; a promotion that outlives its lease, as Prefect is away, is fenced by its token."""
    from prefect.client.orchestration import get_client
    from prefect.concurrency.sync import concurrency
    from prefect.exceptions import ObjectAlreadyExists

    # Another promotion may just have created it.
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
        except Exception as error:  # what was promoted is
            logger.warning("%s was not given back (%s): Prefect frees it within a minute", limit, one_line(error))
