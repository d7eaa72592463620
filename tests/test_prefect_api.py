import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest
from prefect.context import refresh_global_settings_context
from prefect.server.api.server import SubprocessASGIServer
from prefect.settings import PREFECT_API_URL, get_current_settings, temporary_settings

from flows.prefect_api import PrefectError, ensure_api

BLOCKED = "import signal; print(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ()))"


@pytest.fixture(autouse=True)
def no_password_stays(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """That of a temporary server is the process's from then on."""
    with monkeypatch.context() as patch:
        for name in ("PREFECT_SERVER_API_AUTH_STRING", "PREFECT_API_AUTH_STRING"):
            patch.setenv(name, "prefect:before")
        yield
    refresh_global_settings_context()


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


def test_a_temporary_server_asks_for_a_password_that_this_process_alone_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = []

    def start(_server: SubprocessASGIServer) -> None:
        wanted.append(os.environ["PREFECT_SERVER_API_AUTH_STRING"])

    monkeypatch.setattr(SubprocessASGIServer, "start", start)
    for count in (1, 2):
        with temporary_settings(restore_defaults={PREFECT_API_URL}):
            ensure_api()
        shown = get_current_settings().api.auth_string
        assert shown is not None
        assert shown.get_secret_value() == wanted[-1]
        assert len(set(wanted)) == count
        assert len(wanted[-1]) > 32


def test_a_temporary_server_that_does_not_start_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(_server: SubprocessASGIServer) -> None:
        raise RuntimeError("Timed out")

    monkeypatch.setattr(SubprocessASGIServer, "start", start)
    with (
        temporary_settings(restore_defaults={PREFECT_API_URL}),
        pytest.raises(PrefectError, match="temporary API did not start: Timed out"),
    ):
        ensure_api()
