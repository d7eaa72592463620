"""prefect.yaml, and the scripts beside the containers that need no engine."""

import asyncio
import base64
import io
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import prefect
import pytest
import yaml
from deploy import POOL, READER, create_pool
from dotenv import dotenv_values
from engine import StackError, compose_command, has_failed, is_ready
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.flows import Flow, load_flow_from_entrypoint
from prefect.server.api.server import create_app
from prefect.settings import PREFECT_SERVER_API_AUTH_STRING, temporary_settings
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools import validate
from prefect.utilities.templating import apply_values, find_placeholders
from processes import free_ports, kept_key, only_one, run
from stack import PORTS, Stack, confirmed, main, parse_port, read_env, write_env
from tether import Tether

ROOT = Path(__file__).parents[2]
SPECIFICATION: dict[str, Any] = yaml.safe_load((ROOT / "prefect.yaml").read_text())
IMAGE = "dqn-pipeline:1"


def test_every_deployment_names_a_flow_and_parameters_it_takes() -> None:
    names = []
    for deployment in SPECIFICATION["deployments"]:
        flow: Flow[..., Any] = load_flow_from_entrypoint(str(ROOT / deployment["entrypoint"]))
        names.append(f"{flow.name}/{deployment['name']}")
        validate(
            deployment.get("parameters", {}),
            parameter_schema(flow).model_dump(),
            ignore_required=True,
        )
        assert deployment["description"]
        assert deployment["tags"]
        assert deployment["enforce_parameter_schema"]
        active = any(schedule["active"] for schedule in deployment.get("schedules", ()))
        assert active == (flow.name == "cleanup")  # a training is for a person to schedule
    assert names == [
        "train-dqn/cartpole",
        "train-dqn/article",
        "adapt-policy/default",
        "sweep-dqn/default",
        "sweep-shard/default",
        "promote-policy/default",
        "rollback-policy/default",
        "cleanup/daily",
    ]


def test_a_deployment_copies_no_hyper_parameter() -> None:
    for deployment in SPECIFICATION["deployments"]:
        assert set(deployment.get("parameters", {})) <= {"preset", "spread_to"}


@pytest.mark.slow
@pytest.mark.parametrize(("package", "pool"), [("prefect-docker", "docker"), ("prefect-kubernetes", "kubernetes")])
def test_a_container_pool_needs_one_override(package: str, pool: str, prefect_api: str) -> None:
    metadata = Path(prefect.__file__).parent / "server/api/collections_data/views/aggregate-worker-metadata.json"
    template = json.loads(metadata.read_text())[package][pool]["default_base_job_configuration"]
    if pool == "kubernetes":
        template = json.loads((ROOT / "docker/kubernetes.json").read_text())
    options = ("--name", "train-dqn/cartpole", "--pool", pool, "--job-variable", f"image={IMAGE}")
    with SyncPrefectClient(prefect_api) as client:
        client.create_work_pool(WorkPoolCreate(name=pool, type=pool, base_job_template=template))
        subprocess.run(
            (sys.executable, "-m", "prefect", "--no-prompt", "deploy", *options),
            cwd=ROOT,
            env={**os.environ, "PREFECT_API_URL": prefect_api},
            check=True,
            timeout=120,
        )
        deployment = client.read_deployment_by_name("train-dqn/cartpole")
    assert deployment.work_pool_name == pool
    known = template["variables"]["properties"]
    defaults = {name: variable["default"] for name, variable in known.items() if "default" in variable}
    assert set(deployment.job_variables) <= set(known)
    job = apply_values(template["job_configuration"], {**defaults, **deployment.job_variables})
    if pool == "kubernetes":
        (container,) = job["job_manifest"]["spec"]["template"]["spec"]["containers"]
        assert container["image"] == IMAGE
    else:
        assert job["image"] == IMAGE
    assert not find_placeholders(job)
    # The worker fills in the command, `prefect flow-run execute`; the code is where the image has it.
    assert job.get("command") is None
    assert deployment.pull_steps == SPECIFICATION["pull"]
    (step,) = SPECIFICATION["pull"]
    directory = step["prefect.deployments.steps.set_working_directory"]["directory"]
    assert f"WORKDIR {directory}" in (ROOT / "docker/pipeline.Dockerfile").read_text()


def test_secrets_are_fresh_complete_and_never_overwritten(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    write_env(first)
    write_env(second)
    variables, others = read_env(first), read_env(second)
    assert all(variables.values())
    secret = [name for name in variables if variables[name] != others[name]]
    assert [name for name in read_env(ROOT / "docker/.env.example") if name not in PORTS.values()][:11] == secret
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


def services() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "docker/compose.yaml").read_text())["services"]
    return found


def secrets_of(service: dict[str, Any]) -> dict[str, str]:
    """Sources of a service's secrets by the names it reads them as."""
    given = [{"source": each, "target": each} if isinstance(each, str) else each for each in service.get("secrets", ())]
    return {each["target"]: each["source"] for each in given}


def test_a_client_of_a_server_in_the_stack_has_its_password() -> None:
    secrets = {name: secrets_of(service) for name, service in services().items()}
    assert secrets["prefect-server"]["PREFECT_SERVER_API_AUTH_STRING"] == "PREFECT_AUTH_STRING"
    assert secrets["mlflow"]["MLFLOW_AUTH_ADMIN_PASSWORD"] == "MLFLOW_PASSWORD"
    assert "--app-name basic-auth" in services()["mlflow"]["command"]
    callers = {name for name, service in services().items() if "PREFECT_API_URL" in service.get("environment", {})}
    assert callers == {"worker", "deploy", "serving"}
    assert all(secrets[name]["PREFECT_API_AUTH_STRING"] == "PREFECT_AUTH_STRING" for name in callers)
    logins = {
        name: (service["environment"].get("MLFLOW_TRACKING_USERNAME"), secrets[name].get("MLFLOW_TRACKING_PASSWORD"))
        for name, service in services().items()
        if "MLFLOW_TRACKING_URI" in service.get("environment", {})
    }
    admin, reader = ("admin", "MLFLOW_PASSWORD"), (READER, "MLFLOW_READER_PASSWORD")
    assert logins == {"worker": admin, "deploy": admin, "serving": reader, "inference": reader}
    assert "MLFLOW_READER_PASSWORD" in secrets["deploy"], "it creates the user"
    assert "MLFLOW_PASSWORD" not in {*secrets["serving"].values(), *secrets["inference"].values()}
    settings = (ROOT / "docker/mlflow.ini").read_text()
    assert "admin_username = admin" in settings
    assert "default_permission = READ" in settings


def test_processes_without_containers_know_the_api_and_their_login(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
    compose = services()["prefect-server"]["environment"]["PREFECT_SERVER_UI_API_URL"]
    assert compose == "http://127.0.0.1:${PREFECT_PORT:-4200}/api"
    logins = {
        name: (environments[name]["MLFLOW_TRACKING_USERNAME"], environments[name]["MLFLOW_TRACKING_PASSWORD"])
        for name in ("worker", "deploy", "serving")
    }
    admin = ("admin", environments["mlflow"]["MLFLOW_AUTH_ADMIN_PASSWORD"])
    reader = (READER, environments["deploy"]["MLFLOW_READER_PASSWORD"])
    assert logins == {"worker": admin, "deploy": admin, "serving": reader}
    assert reader[1] != admin[1]
    assert "MLFLOW_READER_PASSWORD" not in worker


def test_no_secret_is_a_variable_of_a_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compose = yaml.safe_load((ROOT / "docker/compose.yaml").read_text())
    secret = [name for name, value in read_env(ROOT / "docker/.env.example").items() if not value]
    assert len(secret) == 11
    text = json.dumps(compose)
    assert [name for name in (*secret, "AWS_SECRET_ACCESS_KEY") if f"${{{name}" in text] == []
    used = {source for service in compose["services"].values() for source in secrets_of(service).values()}
    assert used == set(compose["secrets"])
    stack = a_stack(tmp_path, monkeypatch)
    stack.write_secrets()
    assert {file.name for file in stack.secrets.iterdir()} == used
    assert stack.secrets.stat().st_mode & 0o777 == 0o700
    variables = read_env(stack.env_file)
    auth_string = f"prefect:{variables['PREFECT_PASSWORD']}"
    expected = {**variables, "AWS_SECRET_ACCESS_KEY": "", "PREFECT_AUTH_STRING": auth_string}
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


def test_every_service_has_limits() -> None:
    for name, service in services().items():
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


def test_a_pool_that_a_worker_has_made_is_no_error(prefect_api: str) -> None:
    with SyncPrefectClient(prefect_api) as client:
        for _ in range(2):
            create_pool(client)
        assert client.read_work_pool(POOL).type == "process"


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
    status: dict[str, Any], healthy: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = yaml.safe_load((ROOT / "docker/compose.yaml").read_text())["services"]
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


def test_replicas_of_inference_keep_nothing_and_start_only_when_asked_for() -> None:
    service = yaml.safe_load((ROOT / "docker/compose.yaml").read_text())["services"]["inference"]
    assert service["profiles"] == ["inference"]
    assert "--no-show" in service["command"]
    assert "volumes" not in service
    assert service["ports"] == ["127.0.0.1::8000"], "each a free port: a fixed one admits one replica"


def test_a_file_of_secrets_that_cannot_be_read_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "env"
    path.write_bytes("NAME=Jürgen".encode("latin-1"))
    with pytest.raises(StackError, match=r"env is not UTF-8 \(byte 6\): save it as UTF-8"):
        read_env(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(StackError, match="env is a directory: move it away"):
        read_env(path)
