"""The Prefect API that is named answers, before a flow starts."""

from typing import Final

from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL

from flows.flow_run import PrefectError
from flows.uris import redacted

_TIMEOUT: Final = 10.0


def require_api() -> None:
    """Check the API that PREFECT_API_URL names.

    Raises:
        PrefectError: if it does not answer.
    """
    with get_client(sync_client=True, httpx_settings={"timeout": _TIMEOUT}) as client:
        if error := client.api_healthcheck():
            raise PrefectError(
                f"Prefect's API {redacted(str(PREFECT_API_URL.value()))} does not answer ({redacted(str(error))}); "
                "start its server, or unset PREFECT_API_URL to train without Prefect"
            )
