import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from flows.failures.errors import InputError, PrefectError
from flows.orchestration.api import require_api


def test_a_server_that_does_not_answer_is_named() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/api"
        with (
            temporary_settings({PREFECT_API_URL: url}),
            pytest.raises(PrefectError, match=f"API {url} does not answer .*unset PREFECT_API_URL"),
        ):
            require_api()


class Guarded(BaseHTTPRequestHandler):
    """Prefect's API behind a login: its health is open without one."""

    def do_GET(self) -> None:
        status = 200 if self.path.endswith("/health") else self.server.status  # type: ignore[attr-defined]
        self._answer(status, b"{}")

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(self.server.status, b"{}")  # type: ignore[attr-defined]

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize(
    ("status", "kind", "said"),
    [
        (401, InputError, "refuses this login: set PREFECT_API_AUTH_STRING"),
        (403, InputError, "refuses this login: set PREFECT_API_AUTH_STRING"),
        (404, PrefectError, "answers 404"),
    ],
)
def test_a_login_that_is_refused_is_a_sentence(status: int, kind: type[Exception], said: str) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Guarded)
    server.status = status  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/api"
    try:
        with (
            temporary_settings({PREFECT_API_URL: url, PREFECT_CLIENT_MAX_RETRIES: 0}),
            pytest.raises(kind, match=f"API {url} {said}"),
        ):
            require_api()
    finally:
        server.shutdown()
        server.server_close()
