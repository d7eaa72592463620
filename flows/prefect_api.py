"""A Prefect API that answers, before a flow starts."""

import os
import secrets
import signal
import threading
from typing import Final

from prefect.client.orchestration import get_client
from prefect.context import refresh_global_settings_context
from prefect.settings import PREFECT_API_URL

_TIMEOUT: Final = 10.0


class PrefectError(RuntimeError):
    """Prefect's API cannot be reached or started; the message says which and what to do."""


def ensure_api() -> None:
    """Check the API that PREFECT_API_URL names, or start a temporary one that ends with this process.

    Raises:
        PrefectError: if it does not answer.
    """
    if not (url := PREFECT_API_URL.value()):
        _start_temporary_api()
        return
    with get_client(sync_client=True, httpx_settings={"timeout": _TIMEOUT}) as client:
        if error := client.api_healthcheck():
            raise PrefectError(
                f"Prefect's API {url} does not answer ({error}); start its server, or unset PREFECT_API_URL to use a "
                "temporary one"
            )


def _start_temporary_api() -> None:
    """Start the server that Prefect would start itself, out of reach of Ctrl-C.

    A terminal interrupts every process of its foreground. The server has to survive that: an interrupted flow run
    still reports its end, and would try for over a minute. A thread without SIGINT passes its signal mask on to the
    process it starts, and leaves this one interruptible meanwhile.

    Its password keeps out whoever else can reach this machine's ports: the API runs code.
    """
    login = f"prefect:{secrets.token_hex(16)}"
    os.environ.update(PREFECT_SERVER_API_AUTH_STRING=login, PREFECT_API_AUTH_STRING=login)
    refresh_global_settings_context()
    from prefect.server.api.server import SubprocessASGIServer  # seconds, which a client of a server does not need

    failures: list[Exception] = []

    def start() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            SubprocessASGIServer().start()
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=start, name="prefect-start", daemon=True)
    thread.start()
    thread.join()
    if failures:
        raise PrefectError(f"Prefect's temporary API did not start: {failures[0]}") from failures[0]
