"""Secrets of the stack: how they are made and read, and what has which of them."""

import asyncio
import base64
import json
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest
import yaml
from dotenv import dotenv_values
from engine import StackError
from mlflow_users import USERS
from prefect.server.api.server import create_app
from prefect.settings import PREFECT_SERVER_API_AUTH_STRING, temporary_settings
from processes import run
from stack import PORTS, Stack, read_env, write_env
from tether import Tether

ROOT = Path(__file__).parents[2]


def test_secrets_are_fresh_complete_and_never_overwritten(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    write_env(first)
    write_env(second)
    variables, others = read_env(first), read_env(second)
    assert all(variables.values())
    secret = [name for name in variables if variables[name] != others[name]]
    assert [name for name in read_env(ROOT / "docker/.env.example") if name not in PORTS.values()][:12] == secret
    assert first.stat().st_mode & 0o077 == 0
    with pytest.raises(StackError, match="exists already"):
        write_env(first)


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("A=5000", "5000"),
        ("A = 5000  ", "5000"),
        ("export A=5000", "5000"),
        ('A="5000"', "5000"),
        ("A='5000'", "5000"),
        ("A=5000 # the port", "5000"),
        ('A="5000" # the port', "5000"),
        ("A='5 # 0'# the port", "5 # 0"),
        ("A=5#0", "5#0"),
        ("A=", ""),
        ('A=""', ""),
        ("A=x=y", "x=y"),
        (r'A="a\"b\\c\nd"', 'a"b\\c\nd'),
        (r"A='a\nb'", r"a\nb"),
        ("A=it's", "it's"),
    ],
)
def test_variables_are_read_as_compose_reads_them(tmp_path: Path, line: str, value: str) -> None:
    path = tmp_path / ".env"
    path.write_text(f"# A=1\n\n  # A=2\nno assignment\n{line}\nB=after\n")
    assert read_env(path) == {"A": value, "B": "after"}
    path.write_text(f"{line}\n")
    assert dotenv_values(path, interpolate=False) == {"A": value}  # what Compose 1.29 reads with


@pytest.mark.parametrize("line", ['A="5000', "A='5000", 'A="5000" 6', "A='5'6"])
def test_a_quote_that_is_not_closed_is_named_with_its_line(tmp_path: Path, line: str) -> None:
    path = tmp_path / ".env"
    path.write_text(f"B=1\n{line}\n")
    with pytest.raises(StackError, match=r"line 2 of .*: close the quote of A"):
        read_env(path)


def secrets_of(service: dict[str, Any]) -> dict[str, str]:
    """Sources of a service's secrets by the names it reads them as."""
    given = [{"source": each, "target": each} if isinstance(each, str) else each for each in service.get("secrets", ())]
    return {each["target"]: each["source"] for each in given}


def test_a_client_of_a_server_in_the_stack_has_its_password(services: dict[str, Any]) -> None:
    secrets = {name: secrets_of(service) for name, service in services.items()}
    assert secrets["prefect-server"]["PREFECT_SERVER_API_AUTH_STRING"] == "PREFECT_AUTH_STRING"
    assert secrets["mlflow"]["MLFLOW_AUTH_ADMIN_PASSWORD"] == "MLFLOW_PASSWORD"
    assert "--app-name basic-auth" in services["mlflow"]["command"]
    callers = {name for name, service in services.items() if "PREFECT_API_URL" in service.get("environment", {})}
    assert callers == {"worker", "deploy", "serving"}
    assert all(secrets[name]["PREFECT_API_AUTH_STRING"] == "PREFECT_AUTH_STRING" for name in callers)
    logins = {
        name: (service["environment"].get("MLFLOW_TRACKING_USERNAME"), secrets[name].get("MLFLOW_TRACKING_PASSWORD"))
        for name, service in services.items()
        if "MLFLOW_TRACKING_URI" in service.get("environment", {})
    }
    admin, reader = ("admin", "MLFLOW_PASSWORD"), ("reader", "MLFLOW_READER_PASSWORD")
    worker = ("worker", "MLFLOW_WORKER_PASSWORD")
    assert logins == {"worker": worker, "deploy": admin, "serving": reader, "inference": reader}
    created = {name for name in secrets["deploy"] if name.startswith("MLFLOW_") and name != "MLFLOW_TRACKING_PASSWORD"}
    assert created == {f"MLFLOW_{user.upper()}_PASSWORD" for user in USERS}, "it creates the users"
    assert {name for name, mounted in secrets.items() if "MLFLOW_PASSWORD" in mounted.values()} == {"mlflow", "deploy"}
    settings = (ROOT / "docker/mlflow.ini").read_text()
    assert "admin_username = admin" in settings
    assert "default_permission = READ" in settings


def test_processes_without_containers_know_the_api_and_their_login(
    services: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prefect's pages stay blank where they look for the API on another port."""
    (tmp_path / "docker").mkdir()
    (tmp_path / "docker/mlflow.ini").write_text((ROOT / "docker/mlflow.ini").read_text())
    (tmp_path / "state").mkdir()
    environments: dict[str, Mapping[str, str]] = {}
    held: list[int] = []

    @contextmanager
    def process(name: str, arguments: tuple[str, ...], env: Mapping[str, str]) -> Iterator[Any]:
        environments[name] = env
        yield SimpleNamespace(poll=lambda: 0, pid=len(environments))

    def deploying(*_: object, env: Mapping[str, str], **__: object) -> SimpleNamespace:
        environments["deploy"] = env
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr("processes.ROOT", tmp_path)
    monkeypatch.setattr("processes.STATE", tmp_path / "state")
    monkeypatch.setattr("processes.process", process)
    monkeypatch.setattr("processes.wait_for", lambda *_: None)
    monkeypatch.setattr("processes.subprocess.run", deploying)
    with pytest.raises(StackError, match="a process has ended"), ExitStack() as stack:
        run(stack, cast("Tether", SimpleNamespace(hold=held.append)), 4242, 5252, 8282)
    assert held == [1, 2, 3, 4], "none outlives the process that started it"
    server, worker = environments["prefect-server"], environments["worker"]
    assert server["PREFECT_SERVER_UI_API_URL"] == worker["PREFECT_API_URL"] == "http://127.0.0.1:4242/api"
    assert server["PREFECT_SERVER_API_AUTH_STRING"] == worker["PREFECT_API_AUTH_STRING"]
    compose = services["prefect-server"]["environment"]["PREFECT_SERVER_UI_API_URL"]
    assert compose == "http://127.0.0.1:${PREFECT_PORT:-4200}/api"
    logins = {
        name: (environments[name]["MLFLOW_TRACKING_USERNAME"], environments[name]["MLFLOW_TRACKING_PASSWORD"])
        for name in ("worker", "deploy", "serving")
    }
    admin = ("admin", environments["mlflow"]["MLFLOW_AUTH_ADMIN_PASSWORD"])
    users = {user: (user, environments["deploy"][f"MLFLOW_{user.upper()}_PASSWORD"]) for user in USERS}
    assert logins == {"worker": users["worker"], "deploy": admin, "serving": users["reader"]}
    assert len({password for _, password in (admin, *users.values())}) == 3
    for name in ("worker", "serving"):
        assert admin[1] not in environments[name].values(), "only what deploys is an admin"


def test_no_secret_is_a_variable_of_a_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compose = yaml.safe_load((ROOT / "docker/compose.yaml").read_text())
    secret = [name for name, value in read_env(ROOT / "docker/.env.example").items() if not value]
    assert len(secret) == 12
    text = json.dumps(compose)
    assert [name for name in (*secret, "AWS_SECRET_ACCESS_KEY", "NOTIFY_URL") if f"${{{name}" in text] == []
    used = {source for service in compose["services"].values() for source in secrets_of(service).values()}
    assert used == set(compose["secrets"])
    stack = a_stack(tmp_path, monkeypatch)
    stack.write_secrets()
    assert {file.name for file in stack.secrets.iterdir()} == used
    assert stack.secrets.stat().st_mode & 0o777 == 0o700
    variables = read_env(stack.env_file)
    auth_string = f"prefect:{variables['PREFECT_PASSWORD']}"
    expected = {**variables, "AWS_SECRET_ACCESS_KEY": "", "NOTIFY_URL": "", "PREFECT_AUTH_STRING": auth_string}
    for file in stack.secrets.iterdir():
        assert file.stat().st_mode & 0o777 == 0o444  # each image has a user of its own
        assert file.read_text() == expected[file.name]
    stack.write_secrets()  # as at every start


@pytest.mark.parametrize("name", [name for name, value in read_env(ROOT / "docker/.env.example").items() if not value])
def test_the_stack_does_not_start_without_any_of_its_secrets(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack = a_stack(tmp_path, monkeypatch)
    text = stack.env_file.read_text()
    stack.env_file.write_text(text.replace(f"{name}=", "OTHER="))
    with pytest.raises(StackError, match=f"{name} in env is empty or missing: give it a value"):
        stack.up()
    assert not stack.secrets.exists()


def a_stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stack:
    monkeypatch.setattr("stack.compose_command", lambda: ("false",))
    write_env(tmp_path / "env")
    return Stack("dqn-none", tmp_path / "env")


def test_a_secret_in_a_file_is_a_variable_of_the_command_alone(tmp_path: Path) -> None:
    script = (ROOT / "docker/entrypoint.sh").read_text().replace("/run/secrets", str(tmp_path))

    def run() -> "subprocess.CompletedProcess[str]":
        return subprocess.run(("sh", "-c", script, "sh", "env"), text=True, capture_output=True)

    assert run().returncode == 0
    (tmp_path / "TOKEN").write_text("a b$c")
    (tmp_path / "NONE").write_text("")
    lines = run().stdout.splitlines()
    assert "TOKEN=a b$c" in lines
    assert not any(line.startswith("NONE=") for line in lines)
    (tmp_path / "LOST").mkdir()  # what the engine makes of a file that is not there
    refused = run()
    assert refused.returncode == 1
    assert "LOST is no file: start the stack by `make up`" in refused.stderr


async def refused_without_password(path: str, method: str, headers: dict[str, str]) -> int:
    with temporary_settings({PREFECT_SERVER_API_AUTH_STRING: "prefect:secret"}):
        app = create_app(ignore_cache=True)
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        return (await client.request(method, path, headers=headers, content=b'{"name": "x"}')).status_code


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "http://evil.example", "Content-Type": "text/plain"},
        {"Host": "evil.example:4200"},
        {"Authorization": "Basic " + base64.b64encode(b"prefect:guess").decode()},
    ],
)
def test_prefect_refuses_strangers_where_there_is_a_password(headers: dict[str, str]) -> None:
    assert asyncio.run(refused_without_password("/api/flows/", "POST", headers)) == 401


def test_a_file_of_secrets_that_cannot_be_read_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "env"
    path.write_bytes("NAME=Jürgen".encode("latin-1"))
    with pytest.raises(StackError, match=r"env is not UTF-8 \(byte 6\): save it as UTF-8"):
        read_env(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(StackError, match="env is a directory: move it away"):
        read_env(path)
