import signal
import socket
import subprocess
import sys

import pytest
from prefect.server.api.server import SubprocessASGIServer
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.prefect_api import PrefectError, ensure_api

BLOCKED = "import signal; print(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ()))"


def test_a_server_that_does_not_answer_is_named() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/api"
        with (
            temporary_settings({PREFECT_API_URL: url}),
            pytest.raises(PrefectError, match=f"API {url} does not answer .*unset PREFECT_API_URL"),
        ):
            ensure_api()


def test_a_temporary_server_is_out_of_reach_of_ctrl_c_and_this_process_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = []

    def start(_server: SubprocessASGIServer) -> None:
        outputs.append(subprocess.check_output([sys.executable, "-c", BLOCKED], text=True))

    monkeypatch.setattr(SubprocessASGIServer, "start", start)
    with temporary_settings(restore_defaults={PREFECT_API_URL}):
        ensure_api()
    assert outputs == ["True\n"]
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_a_temporary_server_that_does_not_start_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(_server: SubprocessASGIServer) -> None:
        raise RuntimeError("Timed out")

    monkeypatch.setattr(SubprocessASGIServer, "start", start)
    with (
        temporary_settings(restore_defaults={PREFECT_API_URL}),
        pytest.raises(PrefectError, match="temporary API did not start: Timed out"),
    ):
        ensure_api()
