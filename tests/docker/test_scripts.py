"""The scripts beside the containers that need no engine, and limits, health and profiles of services."""

import base64
import io
import json
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from engine import StackError, compose_command, has_failed, is_ready
from processes import free_ports, kept_key, only_one
from stack import PROFILES, Stack, confirmed, main, parse_port


def test_every_service_has_limits(services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert {"mem_limit", "cpus", "pids_limit"} <= service.keys(), name


def test_an_engine_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StackError, match="no `docker` on PATH"):
        compose_command()


def test_destroying_asks_a_person(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("stack.ENV_FILE", tmp_path / "none")
    assert main(["destroy"]) == 1
    assert "`make secrets` writes one" in capsys.readouterr().err


@pytest.mark.parametrize(("answer", "meant"), [("yes", True), (" yes ", True), ("y", False), ("", False)])
def test_data_is_given_up_by_a_whole_word(answer: str, meant: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StackError, match=r"all is lost\. Add --yes to mean it"):
        confirmed("all is lost.")
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("builtins.input", lambda _: answer)
    assert confirmed("all is lost.") is meant


def test_a_taken_port_is_named_with_the_variable_that_moves_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken, socket.socket() as free:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("PREFECT_PORT", str(free.getsockname()[1]))  # not the default: another stack may run here
        free.close()
        monkeypatch.setenv("MLFLOW_PORT", str(taken.getsockname()[1]))
        with pytest.raises(StackError, match=r"port \d+ for mlflow is taken .*: set MLFLOW_PORT to a free one"):
            free_ports()


@pytest.mark.parametrize("port", ["", "abc", "0", "65536", "-1", "80.5"])
def test_what_is_no_port_is_named(port: str) -> None:
    with pytest.raises(StackError, match=f"MLFLOW_PORT is '{port}': set it to a port from 1 to 65535"):
        parse_port("MLFLOW_PORT", port)


def test_the_webhook_key_outlives_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "webhook.key"
    key = kept_key(path)
    assert len(base64.urlsafe_b64decode(key)) == 32
    assert kept_key(path) == key
    assert path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("state", "restarts", "ready", "failed"),
    [
        ({"Status": "running", "Health": {"Status": "starting"}}, 0, False, False),
        ({"Status": "running", "Health": {"Status": "healthy"}}, 0, True, False),
        ({"Status": "running"}, 0, False, False),
        ({"Status": "exited", "ExitCode": 0}, 0, True, False),
        ({"Status": "exited", "ExitCode": 1}, 0, False, True),
        ({"Status": "restarting", "ExitCode": 1, "Health": {"Status": "starting"}}, 4, False, True),
    ],
)
def test_waiting_tells_ready_from_failed(state: dict[str, Any], restarts: int, ready: bool, failed: bool) -> None:
    container = {"State": state, "RestartCount": restarts}
    assert (is_ready(container), has_failed(container)) == (ready, failed)


def test_a_second_stack_is_refused_whatever_its_ports(tmp_path: Path) -> None:
    with only_one(tmp_path / "state"):
        with pytest.raises(StackError, match="a stack runs already in"), only_one(tmp_path / "state"):
            pass
        with only_one(tmp_path / "another"):
            pass
    with only_one(tmp_path / "state"):
        pass


@pytest.mark.parametrize(
    ("status", "healthy"),
    [
        ({"ready": True, "registry_reachable": False, "aliases": {"champion": "1"}}, True),
        ({"ready": False, "registry_reachable": True, "aliases": {}}, True),
        ({"ready": False, "registry_reachable": False, "aliases": {}}, False),
        ({"ready": False, "registry_reachable": True, "aliases": {"champion": "1"}}, False),
    ],
)
def test_the_server_is_healthy_if_something_plays_or_nothing_was_promoted(
    status: dict[str, Any], healthy: bool, services: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    *command, program = services["serving"]["healthcheck"]["test"]
    assert command == ["CMD", "python", "-c"]
    asked = []

    def answer(url: str) -> io.BytesIO:
        asked.append(url)
        return io.BytesIO(json.dumps(status).encode())

    monkeypatch.setattr("urllib.request.urlopen", answer)
    with pytest.raises(SystemExit) as ended:
        exec(program, {})
    assert (not ended.value.code) == healthy
    assert asked == ["http://127.0.0.1:8000/api/status"]


def test_replicas_of_inference_keep_nothing_and_start_only_when_asked_for(services: dict[str, Any]) -> None:
    service = services["inference"]
    assert service["profiles"] == ["inference"]
    assert "--no-show" in service["command"]
    assert "volumes" not in service
    assert service["ports"] == ["127.0.0.1::8000"], "each a free port: a fixed one admits one replica"


@pytest.mark.parametrize(
    ("words", "profiles"),
    [
        (["down"], PROFILES),
        (["destroy", "--yes"], PROFILES),
        (["up"], []),
        (["up", "--profile", "inference"], ["inference"]),
    ],
)
def test_what_ends_a_stack_ends_the_containers_of_every_profile(
    words: list[str], profiles: Sequence[str], services: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[tuple[str, ...]] = []
    monkeypatch.setattr("stack.compose_command", lambda: ("compose",))
    monkeypatch.setattr("stack.require_env", lambda: None)
    monkeypatch.setattr("stack.print_places", lambda stack: None)
    monkeypatch.setattr(Stack, "up", lambda stack, *rest: stack.compose("up", *rest))
    monkeypatch.setattr(Stack, "compose", lambda stack, *given: ran.append(stack.command(*given)))
    assert main(words) == 0
    (command,) = ran
    assert [word.partition("=")[2] for word in command if word.startswith("--profile")] == [*profiles]
    assert {*PROFILES} == {name for service in services.values() for name in service.get("profiles", ())}
