"""`python -m flows.train`: arguments, the quiet environment of a terminal, and errors as one sentence."""

import argparse
import dataclasses
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import tyro

from dqn.config import ConfigError, DQNConfig
from dqn.presets import PRESETS, PresetName

BAD_INPUT: Final = 2
INTERRUPTED: Final = 130

ENVIRONMENT: Final = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "PREFECT_LOGGING_LEVEL": "CRITICAL",  # what goes wrong is said once, below
    "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Train a population of DQN agents, register the best and promote it if it passes the gate."""

    config: Annotated[DQNConfig, tyro.conf.arg(name="")]
    preset: PresetName = "cartpole"
    """Hyper-parameters to start from; the options below change single ones."""
    resume: str | None = None
    """Id of an interrupted run to go on with; it keeps its own configuration."""
    warm_start: str | None = None
    """Version or alias of the environment's registered model; all agents start with its network."""
    checkpoint_dir: Path = Path("checkpoints")
    """Where the training state is kept until training is over."""


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, train, report; returns the exit code."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    try:
        chosen = parse(arguments)
    except ConfigError as error:
        return _fail(error, BAD_INPUT)
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        return run(chosen)
    except KeyboardInterrupt as error:
        return _fail(error, INTERRUPTED, "interrupted")


def parse(argv: Sequence[str]) -> Arguments:
    """Arguments with the defaults of the preset they name.

    Raises:
        ConfigError: if a value is out of range.
        SystemExit: with code 2 if an option is unknown or no value of its type; with 0 for `--help`.
    """
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--preset", default="cartpole")
    preset = first.parse_known_args(argv)[0].preset
    default = Arguments(config=PRESETS.get(preset, PRESETS["cartpole"]))
    return tyro.cli(
        Arguments, prog="python -m flows.train", default=default, args=argv, config=(tyro.conf.FlagConversionOff,)
    )


def run(arguments: Arguments) -> int:
    """Run the flow on Prefect's temporary API, or the one that PREFECT_API_URL names."""
    # Imported here: Prefect reads the environment when it is imported, and --help need not wait for torch.
    from mlflow.exceptions import MlflowException

    from dqn.checkpoint import CheckpointError
    from dqn.spec import EnvironmentUnsupportedError
    from flows.attempt import StaleAttemptError
    from flows.parameters import ConfigOverrides, InputError
    from flows.prefect_api import PrefectError, ensure_api
    from flows.registry import RegistryError
    from flows.tracking import TrackingError, one_line
    from flows.train import check_request, train_dqn

    logging.getLogger("urllib3").setLevel(logging.ERROR)  # each of its retries is a warning
    config = ConfigOverrides.model_validate(_overrides(arguments))
    request = (config, arguments.preset, arguments.resume, arguments.warm_start, str(arguments.checkpoint_dir))
    try:
        check_request(*request)  # the flow does so too, but Prefect takes ten seconds to start
        ensure_api()
        print(train_dqn(*request))
    except (ConfigError, EnvironmentUnsupportedError, InputError, MemoryError) as error:
        return _fail(error, BAD_INPUT)
    except (TrackingError, RegistryError, CheckpointError, PrefectError, StaleAttemptError) as error:
        return _fail(error, 1)
    except MlflowException as error:
        return _fail(error, 1, f"MLflow: {one_line(error)}")
    return 0


def _overrides(arguments: Arguments) -> dict[str, Any]:
    preset = PRESETS[arguments.preset]
    given = {field.name: getattr(arguments.config, field.name) for field in dataclasses.fields(DQNConfig)}
    return {name: value for name, value in given.items() if value != getattr(preset, name)}


def _fail(error: BaseException, code: int, message: str | None = None) -> int:
    print(f"error: {message or error}", *getattr(error, "__notes__", ()), sep="\n", file=sys.stderr)
    return code
