"""`make secrets`, `up`, `down` and `destroy`: the containers of compose.yaml, with any Docker engine and Compose.

Needs nothing but Python's standard library, so that it runs before anything is installed.
"""

import argparse
import base64
import json
import os
import re
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from engine import StackError, compose_command, docker, has_failed, is_ready, service_of

ROOT: Final = Path(__file__).resolve().parent.parent
COMPOSE_FILE: Final = ROOT / "docker" / "compose.yaml"
ENV_FILE: Final = ROOT / "docker" / ".env"
PORTS: Final = {"prefect-server": "PREFECT_PORT", "mlflow": "MLFLOW_PORT", "serving": "SERVING_PORT"}
PROFILES: Final = ("inference", "monitoring")
MONITORING_PORTS: Final = {"prometheus": "PROMETHEUS_PORT", "grafana": "GRAFANA_PORT"}
PATIENCE: Final = 300
_QUOTED: Final = re.compile(r"""(?:'([^']*)'|"((?:[^"\\]|\\.)*)")(?:\s*#.*)?""")
_ESCAPE: Final = re.compile(r"""\\([nrt"\\$])""")
_ESCAPED: Final = {"n": "\n", "r": "\r", "t": "\t", '"': '"', "\\": "\\", "$": "$"}
_DESTROYED: Final = "This deletes the volumes: every run, model, checkpoint and both databases of the stack."
_AUTH_STRING: Final = r'''"prefect:$(sed -nE "s/^(export )?PREFECT_PASSWORD=['\"]?([^'\" ]*).*/\2/p" docker/.env)"'''
_COMMENT: Final = re.compile(r"\s+#")


class Stack:
    """The containers, networks and volumes of one Compose project."""

    def __init__(self, project: str = "dqn", env_file: Path = ENV_FILE, profiles: Sequence[str] = ()) -> None:
        self.project = project
        self.env_file = env_file
        self.secrets = env_file.with_name(f"{env_file.name}.secrets")
        self._command = [*compose_command(), "-p", project, "-f", str(COMPOSE_FILE), "--env-file", str(env_file)]
        self._command += [f"--profile={profile}" for profile in profiles]
        self._ports = PORTS | (MONITORING_PORTS if "monitoring" in profiles else {})

    @property
    def environment(self) -> dict[str, str]:
        """Environment of Compose."""
        return {**os.environ, "GIT_COMMIT": git_commit(), "SECRETS": str(self.secrets.absolute())}

    def command(self, *arguments: str) -> tuple[str, ...]:
        """The command line of Compose with these arguments."""
        return (*self._command, *arguments)

    def compose(self, *arguments: str, quiet: bool = False) -> str:
        """Run Compose; returns its output if quiet.

        Raises:
            StackError: if it fails; its errors have been printed.
        """
        output = subprocess.PIPE if quiet else None
        done = subprocess.run(self.command(*arguments), env=self.environment, text=True, stdout=output)
        if done.returncode:
            raise StackError(f"`{' '.join(arguments)}` failed, see above")
        return done.stdout or ""

    def containers(self) -> dict[str, dict[str, Any]]:
        """The engine's description of each container by name, including those that have ended."""
        label = f"label=com.docker.compose.project={self.project}"
        ids = docker("ps", "--all", "--quiet", "--filter", label).split()
        if not ids:
            return {}
        return {container["Name"].lstrip("/"): container for container in json.loads(docker("inspect", *ids))}

    def up(self, *arguments: str) -> None:
        """Build, start and wait until everything is healthy.

        Raises:
            StackError: if a port is taken, or a container fails or does not become healthy.
        """
        self.write_secrets()
        self.check_ports()
        print("building the images: minutes the first time", flush=True)
        self.compose("build", "--quiet")
        self.compose("up", "--detach", *arguments)
        self.wait()

    def write_secrets(self) -> None:
        """Write each secret to a file that containers can read, in a directory that is private to this user.

        Raises:
            StackError: if a secret is empty or missing.
        """
        given = {**read_env(self.env_file), **os.environ}
        wanted = [name for name, value in read_env(ENV_FILE.with_name(".env.example")).items() if not value]
        if missing := [name for name in wanted if not given.get(name)]:
            raise StackError(f"{', '.join(missing)} in {self.env_file.name} is empty or missing: give it a value")
        files = {name: given.get(name, "") for name in (*wanted, "AWS_SECRET_ACCESS_KEY", "NOTIFY_URL")}
        files["PREFECT_AUTH_STRING"] = f"prefect:{files.pop('PREFECT_PASSWORD')}"
        self.secrets.mkdir(mode=0o700, exist_ok=True)
        for name, value in files.items():
            path = self.secrets / name
            path.unlink(missing_ok=True)
            path.write_text(value)
            path.chmod(0o444)

    def check_ports(self) -> None:
        """Refuse ports that are taken by another program."""
        running = {service_of(container) for container in self.containers().values() if container["State"]["Running"]}
        for service, port in self.ports().items():
            if service in running:
                continue
            check_free(port, service, f"{self._ports[service]} in docker/.env")

    def ports(self) -> dict[str, int]:
        """Published ports by service, as Compose resolves them.

        Raises:
            StackError: if one is not a port number.
        """
        environment = {**read_env(ENV_FILE.with_name(".env.example")), **read_env(self.env_file), **os.environ}
        return {service: parse_port(variable, environment[variable]) for service, variable in self._ports.items()}

    def wait(self, patience: float = PATIENCE) -> None:
        """Wait until every container is healthy and the one-shot has succeeded."""
        started = time.monotonic()
        ready: set[str] = set()
        while True:
            containers = self.containers()
            for name, container in containers.items():
                if name not in ready and is_ready(container):
                    ready.add(name)
                    print(f"{time.monotonic() - started:5.1f} s  {name} is ready", flush=True)
                if has_failed(container):
                    print(docker("logs", "--tail", "20", name), file=sys.stderr)
                    raise StackError(f"{name} failed, see above")
            if ready >= containers.keys():
                return
            if time.monotonic() - started > patience:
                late = ", ".join(sorted(containers.keys() - ready))
                raise StackError(f"{late} not healthy after {patience:.0f} s: look at `docker logs`")
            time.sleep(0.5)


def parse_port(name: str, value: str) -> int:
    """The value of a variable as a port number.

    Raises:
        StackError: if it is not one.
    """
    if not (value.isdecimal() and 0 < int(value) < 2**16):
        raise StackError(f"{name} is {value!r}: set it to a port from 1 to 65535")
    return int(value)


def check_free(port: int, service: str, variable: str) -> None:
    """Refuse a port that is taken by another program.

    Raises:
        StackError: naming the variable that sets the port.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise StackError(
                f"port {port} for {service} is taken ({error.strerror}): set {variable} to a free one"
            ) from error


def git_commit() -> str:
    """The commit the images are labelled with."""
    if commit := os.environ.get("GIT_COMMIT"):
        return commit
    command = ("git", "-C", str(ROOT), "rev-parse", "--show-toplevel", "HEAD")
    done = subprocess.run(command, text=True, capture_output=True)
    root, _, commit = done.stdout.strip().rpartition("\n")
    own = not done.returncode and Path(root).resolve() == ROOT  # and not a repository around it
    return commit if own else "unknown"


def read_env(path: Path) -> dict[str, str]:
    """Variables of a file as Compose reads it, but for interpolation and values over several lines.

    Quotes are taken off, `export` may precede a name, and a comment may follow a value after a space.

    Raises:
        StackError: if the file is a directory or not UTF-8; naming the line, if a quote is not closed or something else
            follows it than a comment.
    """
    variables = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise StackError(f"{path} is not UTF-8 (byte {error.start}): save it as UTF-8") from error
    except IsADirectoryError as error:
        raise StackError(f"{path} is a directory: move it away, and `make secrets` writes the file") from error
    for number, line in enumerate(lines, start=1):
        name, equals, rest = line.strip().removeprefix("export ").partition("=")
        if not equals or name.lstrip().startswith("#"):
            continue
        value = rest.strip()
        if value[:1] in ("'", '"'):
            quoted = _QUOTED.fullmatch(value)
            if not quoted:
                raise StackError(f"line {number} of {path}: close the quote of {name.strip()}, with only a # after it")
            literal, escaped = quoted.groups()
            value = literal if escaped is None else _ESCAPE.sub(lambda found: _ESCAPED[found[1]], escaped)
        else:
            value = _COMMENT.split(value)[0]
        variables[name.strip()] = value
    return variables


def write_env(path: Path) -> None:
    """Copy .env.example and give every empty secret a random value.

    Raises:
        StackError: if there is such a file; its secrets belong to databases that exist.
    """
    lines = []
    for line in ENV_FILE.with_name(".env.example").read_text().splitlines():
        name, equals, value = line.partition("=")
        if equals and not value and not line.startswith("#"):
            key = base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()
            value = key if name.endswith("_ENCRYPTION_KEY") else secrets.token_hex(24)
        lines.append(f"{name}{equals}{value}")
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise StackError(f"{path} exists already, and the databases know its passwords: edit it") from error
    with open(descriptor, "w") as file:
        file.write("\n".join(lines) + "\n")


def confirmed(consequence: str) -> bool:
    """Ask the person at the terminal whether to lose the data.

    Raises:
        StackError: if there is no terminal.
    """
    if not sys.stdin.isatty():
        raise StackError(f"{consequence} Add --yes to mean it")
    print(consequence)
    return input("Type 'yes' to continue: ").strip() == "yes"


def require_env() -> None:
    """Require the file with the stack's secrets."""
    if not ENV_FILE.exists():
        raise StackError("docker/.env with the stack's secrets is missing: `make secrets` writes one")


def main(arguments: list[str] | None = None) -> int:
    """Run a verb; returns the exit status."""
    parser = argparse.ArgumentParser(prog="docker/stack.py", description=__doc__)
    parser.add_argument("verb", choices=("secrets", "up", "down", "destroy"))
    parser.add_argument("--yes", action="store_true", help="destroy without asking")
    parser.add_argument("--profile", action="append", default=[], choices=PROFILES, help="start its containers too")
    options, rest = parser.parse_known_args(arguments)
    try:
        if options.verb == "secrets":
            write_env(ENV_FILE)
            print(f"{ENV_FILE.relative_to(ROOT)} holds fresh secrets")
            return 0
        require_env()
        stack = Stack(profiles=options.profile if options.verb == "up" else PROFILES)
        if options.verb == "up":
            stack.up(*rest)
            print_places(stack)
        elif options.verb == "down":
            stack.compose("down", *rest)
        elif options.yes or confirmed(_DESTROYED):
            stack.compose("down", "--volumes", *rest)
    except StackError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def print_places(stack: Stack) -> None:
    """Where to look now, and what to type."""
    ports = stack.ports()
    names = {"prometheus": "Prometheus", "grafana": "Grafana"}
    lines = [f"{names[each]}  http://127.0.0.1:{ports[each]}\n" for each in names if each in ports]
    monitoring = "".join([*lines, "\n"] if lines else [])
    print(f"""
Prefect  http://127.0.0.1:{ports["prefect-server"]}
MLflow   http://127.0.0.1:{ports["mlflow"]}
Serving  http://127.0.0.1:{ports["serving"]}

{monitoring}MLflow asks for the user admin and MLFLOW_PASSWORD, Prefect for the string below; both are in docker/.env.

export PREFECT_API_URL=http://127.0.0.1:{ports["prefect-server"]}/api
export PREFECT_API_AUTH_STRING={_AUTH_STRING}
.venv/bin/prefect deployment run train-dqn/cartpole -p 'config={{"seed": 7}}' --watch""")


if __name__ == "__main__":
    sys.exit(main())
