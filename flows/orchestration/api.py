"""A check that the configured Prefect API answers."""

from typing import Final

import httpx
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL

from flows.failures.errors import InputError, PrefectError
from flows.uris import redacted

_TIMEOUT: Final = 10.0


def require_api() -> None:
    """Check the API that PREFECT_API_URL names.

    Raises:
        PrefectError: if it does not answer.
        InputError: if it refuses the login.
    """
    url = redacted(str(PREFECT_API_URL.value()))
    with get_client(sync_client=True, httpx_settings={"timeout": _TIMEOUT}) as client:
        if error := client.api_healthcheck():
            raise PrefectError(
                f"Prefect's API {url} does not answer ({redacted(str(error))}); "
                "start its server, or unset PREFECT_API_URL to train without Prefect"
            )
        try:  # /health needs no login
            client.read_flow_runs(limit=1)
        except httpx.HTTPStatusError as error:
            if error.response.status_code not in (401, 403):
                raise PrefectError(
                    f"Prefect's API {url} answers {error.response.status_code}: look at its log"
                ) from error
            raise InputError(
                f"Prefect's API {url} refuses this login: set PREFECT_API_AUTH_STRING to that of its server "
                "(user:password), or unset PREFECT_API_URL to train without Prefect"
            ) from error
