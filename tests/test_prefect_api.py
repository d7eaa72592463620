import socket

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.flow_run import PrefectError
from flows.prefect_api import require_api


def test_a_server_that_does_not_answer_is_named() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/api"
        with (
            temporary_settings({PREFECT_API_URL: url}),
            pytest.raises(PrefectError, match=f"API {url} does not answer .*unset PREFECT_API_URL"),
        ):
            require_api()
