import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from serving.__main__ import _parser, main
from tests.policies import BALANCES, FALLS, linear_model


@pytest.fixture
def model(tmp_path: Path) -> str:
    (tmp_path / "p.onnx").write_bytes(linear_model(FALLS))
    return str(tmp_path / "p.onnx")


@pytest.mark.parametrize("suffix", ["mp4", "webm", "gif"])
def test_record_writes_a_video_and_prints_its_path(
    model: str, suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "videos" / f"episode.{suffix}"
    assert main(["record", "--model", model, "--out", str(out), "--seed", "2", "--push", "3:20"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(out)
    assert out.stat().st_size > 1000


def test_record_without_pyav_writes_a_gif_and_says_why(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    monkeypatch.chdir(tmp_path)
    assert main(["record", "--model", model]) == 0
    printed = capsys.readouterr()
    assert "needs PyAV" in printed.err
    path = Path(printed.out.splitlines()[-1])
    assert path.suffix == ".gif"
    assert path.is_file()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["record", "--model", "nowhere.onnx"], "there is no file nowhere.onnx"),
        (["record", "--model", "champion"], "expected models:/NAME@ALIAS"),
        (["record", "--model", "MODEL", "--push", "abc"], "--push takes STEP:NEWTONS"),
        (["record", "--model", "MODEL", "--out", "x.avi"], "--out should end in .mp4, .webm or .gif"),
        (["serve", "--model", "MODEL", "--host", "0.0.0.0"], "give it a --token"),
    ],
)
def test_mistakes_get_one_sentence(
    model: str, arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SERVING_TOKEN", raising=False)
    assert main([model if word == "MODEL" else word for word in arguments]) == 1
    printed = capsys.readouterr().err
    assert sentence in printed
    assert printed.count("\n") == 1


@pytest.mark.parametrize("arguments", [["dance"], ["--port", "x"], ["record", "--seed", "-1"]])
def test_wrong_arguments_exit_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2


def test_watch_without_a_display_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "p.onnx").write_bytes(linear_model(BALANCES))
    environment = {name: value for name, value in os.environ.items() if name not in ("DISPLAY", "WAYLAND_DISPLAY")}
    environment.pop("SDL_VIDEODRIVER", None)
    result = subprocess.run(
        [sys.executable, "-m", "serving", "watch", "--model", str(tmp_path / "p.onnx"), "--episodes", "1"],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert result.returncode == 1
    assert "there is no display here" in result.stderr
    assert "make record" in result.stderr


def test_a_registry_that_is_not_there_says_what_to_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'none.db'}")
    monkeypatch.chdir(tmp_path)
    assert main(["record"]) == 1
    assert "run `make train`" in capsys.readouterr().err


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Options of the application that `serve` would run with these arguments, and the address it would print."""
    for name in ("SERVING_TOKEN", "SERVING_WEBHOOK_SECRET", "PREFECT_API_URL", "SERVING_URL"):
        monkeypatch.delenv(name, raising=False)
    told: dict[str, Any] = {}

    class Server:
        def __init__(self, app: object, url: str) -> None:
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


def test_serve_is_the_verb_and_binds_to_this_machine(model: str, started: Callable[..., dict[str, Any]]) -> None:
    told = started("--model", model, "--port", "0", "--allowed-hosts", "a.example, ,b.example")
    port = told["address"][1]
    assert told["address"][0] == "127.0.0.1"
    assert told["url"] == told["serving_url"] == f"http://127.0.0.1:{port}"
    assert told["hosts"] == ("127.0.0.1", "a.example", "b.example")
    assert (told["show"], told["token"], told["webhook_secret"], told["prefect_url"]) == (True, None, None, "")


@pytest.mark.parametrize("host", ["0.0.0.0", "localhost"])  # with a token, for the time of a test
def test_what_the_environment_says_reaches_the_application(
    model: str, host: str, started: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "SERVING_TOKEN": "t",
        "SERVING_WEBHOOK_SECRET": "hush",
        "PREFECT_API_URL": "http://p/api",
        "PREFECT_API_AUTH_STRING": "a:b",
        "SERVING_URL": "http://outside",
    }.items():
        monkeypatch.setenv(name, value)
    told = started("serve", "--model", model, "--port", "0", "--host", host, "--no-show")
    assert (told["show"], told["token"], told["webhook_secret"]) == (False, "t", "hush")
    assert (told["prefect_url"], told["prefect_auth"], told["serving_url"]) == ("http://p/api", "a:b", "http://outside")
    assert told["url"].startswith("http://localhost:" if host == "localhost" else "http://127.0.0.1:")


def test_a_port_that_is_taken_is_said(
    model: str, started: Callable[..., dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert started("--model", model, "--port", str(port), status=1) == {}
    assert f"cannot listen on 127.0.0.1 port {port}" in capsys.readouterr().err


@pytest.mark.parametrize(("text", "exit_status"), [("65535", None), ("65536", 2), ("-1", 2), ("1.5", 2)])
def test_a_port_is_a_number_up_to_65535(text: str, exit_status: int | None) -> None:
    parser = _parser("serve")
    if exit_status is None:
        assert parser.parse_args(["--port", text]).port == int(text)
        assert parser.parse_args([]).port == 8000
        return
    with pytest.raises(SystemExit) as caught:
        parser.parse_args(["--port", text])
    assert caught.value.code == exit_status


def test_a_registry_that_is_away_holds_nobody_up_for_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("MAX_RETRIES", "BACKOFF_FACTOR", "TIMEOUT")
    for name in names:
        monkeypatch.delenv(f"MLFLOW_HTTP_REQUEST_{name}", raising=False)
    assert main(["record", "--model", "nowhere.onnx"]) == 1
    assert [os.environ[f"MLFLOW_HTTP_REQUEST_{name}"] for name in names] == ["2", "1", "5"]


def test_a_key_that_interrupts_is_130(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("serving.__main__.serve", interrupt)
    assert main(["--model", model]) == 130
