"""`python -m serving serve`: its options, its address, and its exit status."""

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from serving.__main__ import main
from serving.arguments import UsageError, parse
from tests.support.serving.policies import BALANCES, PROPERTIES, linear_model


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Options of the application that `serve` would run with these arguments, and the address it would print."""
    for name in ("SERVING_TOKEN", "SERVING_WEBHOOK_SECRET", "PREFECT_API_URL", "SERVING_URL"):
        monkeypatch.delenv(name, raising=False)
    told: dict[str, Any] = {}

    class Server:
        def __init__(self, app: object, url: str, *, proxies: object) -> None:
            told["url"] = url

        def run(self, sockets: list[socket.socket]) -> None:
            told["address"] = sockets[0].getsockname()
            sockets[0].close()

    monkeypatch.setattr("serving.__main__.Server", Server)
    monkeypatch.setattr("serving.__main__.App", lambda models, **options: told.update(options))
    monkeypatch.setattr("serving.__main__.configure_logging", lambda: None)

    def start(*arguments: str, status: int = 0) -> dict[str, Any]:
        told.clear()
        assert main([*arguments]) == status
        return dict(told)

    return start


def test_serve_is_the_verb_and_binds_to_this_machine(model_path: str, started: Callable[..., dict[str, Any]]) -> None:
    told = started("--model", model_path, "--port", "0", "--allowed-hosts", "a.example, ,b.example")
    port = told["address"][1]
    assert told["address"][0] == "127.0.0.1"
    assert told["url"] == told["serving_url"] == f"http://127.0.0.1:{port}"
    assert told["hosts"] == ("127.0.0.1", "a.example", "b.example")
    assert (told["show"], told["token"], told["webhook_secret"], told["prefect_url"]) == (True, None, None, "")


@pytest.mark.parametrize("host", ["0.0.0.0", "localhost"])  # with a token, for the time of a test
def test_environment_variables_reach_the_application(
    model_path: str, host: str, started: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "SERVING_TOKEN": "t",
        "SERVING_WEBHOOK_SECRET": "hush",
        "PREFECT_API_URL": "http://p/api",
        "PREFECT_API_AUTH_STRING": "a:b",
        "SERVING_URL": "http://outside",
    }.items():
        monkeypatch.setenv(name, value)
    told = started("serve", "--model", model_path, "--port", "0", "--host", host, "--no-show")
    assert (told["show"], told["token"], told["webhook_secret"]) == (False, "t", "hush")
    assert (told["prefect_url"], told["prefect_auth"], told["serving_url"]) == ("http://p/api", "a:b", "http://outside")
    assert told["url"].startswith("http://localhost:" if host == "localhost" else "http://127.0.0.1:")


def test_a_port_that_is_taken_is_reported(
    model_path: str, started: Callable[..., dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert started("--model", model_path, "--port", str(port), status=1) == {}
    expected = f"error: cannot listen on 127.0.0.1 port {port}: Address already in use; try another --port\n"
    assert capsys.readouterr().err == expected


def test_an_address_of_another_machine_is_reported(
    model_path: str, started: Callable[..., dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        started("--model", model_path, "--host", "192.0.2.1", "--token", "t", status=1) == {}
    )  # of the documentation block
    assert "cannot listen on 192.0.2.1 port 8000: " in (said := capsys.readouterr().err)
    assert said.endswith("; try an address of this machine\n")


@pytest.mark.parametrize(("text", "fits"), [("65535", True), ("65536", False), ("-1", False), ("1.5", False)])
def test_a_port_is_a_number_up_to_65535(text: str, fits: bool) -> None:
    if fits:
        assert parse(["--port", text])[1].port == int(text)
        assert parse([])[1].port == 8000
        return
    with pytest.raises(UsageError, match=r"^--port: "):
        parse(["--port", text])


def test_an_interrupt_exits_with_130(model_path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("serving.__main__.serve", interrupt)
    assert main(["--model", model_path]) == 130


@pytest.mark.timeout(60, method="thread")  # if it goes on it never ends
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"no model", "version 1 was refused: not a loadable ONNX model: "),
        (linear_model(BALANCES, properties=PROPERTIES | {"env_id": "Unknown-v0"}), "version 1 was refused: "),
        (None, "version 1 cannot be fetched ("),
    ],
)
def test_a_server_of_a_file_that_cannot_play_ends_with_the_reason(
    content: bytes | None, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr("serving.__main__.configure_logging", lambda: None)
    path = tmp_path / "p.onnx"
    path.write_bytes(content or b"")
    if content is None:
        monkeypatch.setattr("serving.models.source.read_model_file", unreadable)
    assert main(["--model", str(path), "--port", "0", "--no-show"]) == 1
    *_, said = capsys.readouterr().err.splitlines()
    assert said.startswith(f"error: {path}: {reason}")
    assert said.endswith("; nothing plays")


def unreadable(path: Path) -> bytes:
    raise PermissionError(13, "Permission denied", str(path))
