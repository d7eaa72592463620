"""`promote`, `rollback`, `retire`, `compare` and `deploy`: what a person does to versions and their servers."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from dqn.config import ConfigError, DQNConfig
from flows.cli.refusals import require_model, require_registry, require_version
from flows.cli.terminal import fail, verb
from flows.failures.errors import FlowError
from flows.names import model_name
from flows.orchestration.console import phase
from flows.orchestration.flow_run import api_is_named
from flows.orchestration.place import run_elsewhere

REFUSED: Final = 4
"""Exit code if the gate refuses a version."""
_REGISTRIES: Final = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")


@dataclass(frozen=True, kw_only=True)
class Promote:
    """Evaluate a version again and make it champion if it passes the gate. Exit code 4 means that the gate refuses."""

    version: str = ""
    """Number or alias of a registered version."""
    env_id: str = DQNConfig.env_id
    """Environment of the registered model."""
    file: Path | None = None
    """ONNX file to register as a new version first, such as one that was trained elsewhere."""
    force: bool = False
    """Make it champion whatever the gate decides; the decision stays in the version's tags."""
    dry_run: bool = False
    """Say what the gate would decide, and change nothing."""
    shadow_steps: int = 0
    """Refuse it unless it has agreed with the champion in so many steps in the shadow of the server at SERVING_URL."""


@dataclass(frozen=True, kw_only=True)
class Rollback:
    """Make the champion before the present one champion again; once more goes one further back."""

    env_id: str = DQNConfig.env_id
    """Environment of the registered model."""


@dataclass(frozen=True, kw_only=True)
class Retire:
    """Take a version out of use: no rollback and no adaptation chooses it, and only --force promotes it."""

    version: str = ""
    """Number or alias of a registered version."""
    env_id: str = DQNConfig.env_id
    """Environment of the registered model."""


@dataclass(frozen=True, kw_only=True)
class Compare:
    """Play two versions on the same unseen episodes, and compare them as the gate does. Nothing is written."""

    a: str = ""
    """Number or alias of a registered version; both play in its world."""
    b: str = ""
    """The version to compare it with."""
    env_id: str = DQNConfig.env_id
    """Environment of the registered model."""


@dataclass(frozen=True, kw_only=True)
class Deploy:
    """Set up the servers that PREFECT_API_URL and MLFLOW_TRACKING_URI name: deployments, automations, users."""


def promote(argv: Sequence[str] | None = None) -> int:
    """`promote VERSION`: returns the exit code."""

    def check(chosen: Promote) -> None:
        if bool(chosen.version) == bool(chosen.file):
            raise ConfigError("promote takes a VERSION or a --file, and not both: promote 3, or promote --file p.onnx")
        if chosen.force and chosen.dry_run:
            raise ConfigError("--force and --dry-run exclude each other: leave out one")
        if chosen.shadow_steps < 0 or (chosen.shadow_steps and chosen.file):
            raise ConfigError(
                "--shadow-steps is a number of steps from 0, of a VERSION that a server has in the shadow"
            )
        if chosen.file and not chosen.file.is_file():
            raise ConfigError(f"there is no file {chosen.file}")
        if _reads_here(chosen) and not chosen.dry_run and api_is_named() and not any(map(os.environ.get, _REGISTRIES)):
            number = "" if chosen.file else ", or name the version by its number"
            raise ConfigError(f"Prefect's workers promote in their own registry: set MLFLOW_TRACKING_URI to it{number}")
        if chosen.version and (_reads_here(chosen) or not api_is_named()):
            _check(chosen.env_id, chosen.version)

    return verb(Promote(), argv, "promote", ("version",), check, _promote)


def rollback(argv: Sequence[str] | None = None) -> int:
    """`rollback`: returns the exit code."""

    def check(chosen: Rollback) -> None:
        if not api_is_named():
            _check(chosen.env_id)

    return verb(Rollback(), argv, "rollback", (), check, _rollback)


def retire(argv: Sequence[str] | None = None) -> int:
    """`retire VERSION`: returns the exit code."""

    def check(chosen: Retire) -> None:
        if not chosen.version:
            raise ConfigError("retire takes a VERSION: name its number or its alias")
        _check(chosen.env_id, chosen.version)

    return verb(Retire(), argv, "retire", ("version",), check, _retire)


def compare(argv: Sequence[str] | None = None) -> int:
    """`compare A B`: returns the exit code."""

    def check(chosen: Compare) -> None:
        if not chosen.a or not chosen.b:
            raise ConfigError("compare takes two versions: name their numbers or aliases, as in compare 3 champion")
        _check(chosen.env_id, chosen.a, chosen.b)

    return verb(Compare(), argv, "compare", ("a", "b"), check, _compare)


def deploy(argv: Sequence[str] | None = None) -> int:
    """`deploy`, which is docker/deploy.py: returns the exit code."""
    script = Path(__file__).parents[2] / "docker/deploy.py"

    def check(chosen: Deploy) -> None:
        for name in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI"):
            if not os.environ.get(name):
                raise ConfigError(f"{name} is not set: set it to the URL of the server to deploy to")
        if not script.exists():
            raise ConfigError(f"there is no {script}: deploy from a clone of the repository")

    def run(chosen: Deploy) -> int:
        return subprocess.call((sys.executable, str(script)), cwd=script.parents[1])  # noqa: S603 # our own program

    return verb(Deploy(), argv, "deploy", (), check, run)


def _check(env_id: str, *references: str) -> None:
    """Refuse what this machine's registry does not have."""
    require_registry()
    require_model(env_id)
    for reference in references:
        require_version(env_id, reference, why="")


def _reads_here(chosen: Promote) -> bool:
    """Whether this process reads the registry, and not only a run of the deployment."""
    return chosen.dry_run or not chosen.version.isdecimal()


def _promote(chosen: Promote) -> int:
    parameters: dict[str, Any] = {"env_id": chosen.env_id, "force": chosen.force}
    if chosen.shadow_steps:
        parameters["shadow_steps"] = chosen.shadow_steps
    here = _reads_here(chosen)
    if not here and (code := _elsewhere("promote-policy/default", parameters | {"version": int(chosen.version)})):
        return code.exit_code
    with phase("load MLflow and PyTorch"):
        from flows.cli.exits import reported
        from flows.promotion import promote_version, would_decide
        from flows.registry import versions
        from flows.registry.challenger import read_file, register_file
        from flows.serving_client import require_shadow_steps
        from flows.tracking.store import connect

    done = 0

    def work() -> None:
        nonlocal done
        client, name = connect(), model_name(chosen.env_id)
        version = None if chosen.file else versions.require(client, name, chosen.version)
        if chosen.dry_run:
            if version is not None and version == versions.version_of(client, name, versions.CHAMPION):
                print(f"version {version} of {name} is the champion already")
                return
            if version is None:
                assert chosen.file
                artifact = read_file(client, chosen.file, chosen.env_id)
            else:
                if chosen.shadow_steps:
                    require_shadow_steps(name, version, chosen.shadow_steps)
                artifact = versions.download(name, version)
            with phase("play"):
                decision = would_decide(client, artifact)
            done = 0 if decision.promote else REFUSED
            print(f"{chosen.file or artifact}: the gate would say {decision.gate}")
            return
        if version is None:
            assert chosen.file
            version = register_file(chosen.file, chosen.env_id)
            print(f"{chosen.file} is version {version} of {name}")
        if here and (code := _elsewhere("promote-policy/default", parameters | {"version": version})):
            done = code.exit_code
            return
        text = promote_version(version, chosen.env_id, chosen.force, chosen.shadow_steps)
        print(f"version {version} of {name}: {text}")
        done = REFUSED if text.startswith("refused") else 0

    return reported(work) or done


def _rollback(chosen: Rollback) -> int:
    if code := _elsewhere("rollback-policy/default", {"env_id": chosen.env_id}):
        return code.exit_code
    with phase("load MLflow"):
        from flows.cli.exits import reported
        from flows.promotion import roll_back

    def work() -> None:
        _, sentence = roll_back(model_name(chosen.env_id))
        print(sentence)

    return reported(work)


def _retire(chosen: Retire) -> int:
    with phase("load MLflow"):
        from flows.cli.exits import reported
        from flows.promotion import retire as take_out
        from flows.registry import versions
        from flows.tracking.store import connect

    def work() -> None:
        name = model_name(chosen.env_id)
        version = versions.require(connect(), name, chosen.version)
        take_out(name, version)
        print(f"version {version} of {name} is retired; promote it with --force to use it again")

    return reported(work)


def _compare(chosen: Compare) -> int:
    with phase("load MLflow"):
        from flows.cli.exits import reported
        from flows.registry import versions
        from flows.registry.comparison import side_by_side
        from flows.tracking.store import connect

    def work() -> None:
        client, name = connect(), model_name(chosen.env_id)
        a, b = (versions.require(client, name, reference) for reference in (chosen.a, chosen.b))
        with phase("play"):
            text = side_by_side(versions.download(name, a), versions.download(name, b))
        print(text)

    return reported(work)


@dataclass(frozen=True, kw_only=True)
class _Ended:
    """A verb that ended elsewhere."""

    exit_code: int


def _elsewhere(deployment: str, parameters: Mapping[str, Any]) -> _Ended | None:
    """Run a deployment and print what its last state says; None if the verb is to run here."""
    try:
        state = run_elsewhere(deployment, parameters)
    except FlowError as error:
        return _Ended(exit_code=fail(error, error.exit_code))
    if state is None:
        return None
    print(state.message)
    return _Ended(exit_code=REFUSED if state.name == "Refused" else 0)
