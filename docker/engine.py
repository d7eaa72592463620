"""The Docker engine: its clients, and the state of containers."""

import shutil
import subprocess
from typing import Any


class StackError(RuntimeError):
    """A failure of the stack; the message is one sentence for a person."""


def service_of(container: dict[str, Any]) -> str:
    """The service in compose.yaml that a container belongs to."""
    return str(container["Config"]["Labels"]["com.docker.compose.service"])


def is_ready(container: dict[str, Any]) -> bool:
    """Whether a container is healthy, or has ended without error."""
    state = container["State"]
    if "Health" in state:
        return bool(state["Health"]["Status"] == "healthy")
    return bool(state["Status"] == "exited" and state["ExitCode"] == 0)


def has_failed(container: dict[str, Any]) -> bool:
    """Whether a container has ended with an error, or restarts again and again."""
    state = container["State"]
    return bool(state["Status"] == "exited" and state["ExitCode"] != 0) or int(container["RestartCount"]) > 3


def compose_command() -> tuple[str, ...]:
    """`docker compose` or, where that is missing, `docker-compose`.

    Raises:
        StackError: if there is neither, or no engine answers.
    """
    if not shutil.which("docker"):
        raise StackError("there is no `docker` on PATH: install a Docker engine with Compose")
    if subprocess.run(("docker", "info"), capture_output=True).returncode:
        raise StackError("no Docker engine answers: start it, or set DOCKER_HOST to where it listens")
    if subprocess.run(("docker", "compose", "version"), capture_output=True).returncode == 0:
        return ("docker", "compose")
    if shutil.which("docker-compose"):
        return ("docker-compose",)
    raise StackError("there is neither `docker compose` nor `docker-compose`: install Docker's Compose plugin")


def docker(*arguments: str) -> str:
    """Output of the Docker client, including its standard error."""
    done = subprocess.run(("docker", *arguments), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode:
        raise StackError(f"`docker {arguments[0]}` failed: {done.stdout.strip()}")
    return done.stdout
