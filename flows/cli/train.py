"""`python -m flows train`: arguments, the quiet environment of a terminal, and errors as one sentence."""

import argparse
import dataclasses
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dqn.config import ConfigError, DQNConfig
from dqn.environments.spec import Environment, EnvironmentUnsupportedError
from dqn.environments.world import World
from dqn.presets import PRESETS
from flows.cli import options
from flows.cli.keywords import read_keywords
from flows.cli.program import prepare, prog
from flows.cli.refusals import (
    preset_warning,
    require_device_name,
    require_environment,
    require_preset,
    require_run,
    require_version,
)
from flows.cli.terminal import BAD_INPUT, attended, fail, quieten
from flows.failures.errors import FlowError
from flows.orchestration.console import note, phase
from flows.orchestration.flow_run import api_is_named
from flows.orchestration.place import run_elsewhere
from flows.request.general import GENERAL, StartName, budget, general, has_preset, start_of
from flows.request.saved_presets import read_preset
from flows.uris import redacted


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Train a population of DQN agents, register the best and promote it if it passes the gate."""

    config: DQNConfig
    preset: StartName = "cartpole"
    """Hyper-parameters to start from, or those that a sweep saved; the options below change single ones."""
    resume: str | None = None
    """Id of an interrupted run to resume; it keeps its own configuration."""
    warm_start: str | None = None
    """Version or alias of the environment's registered model; all agents start with its network."""
    checkpoint_dir: Path = Path("checkpoints")
    """Directory of the training state, which is kept until training is over."""


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, train and report. Returns the exit code."""
    prepare()
    arguments = sys.argv[1:] if argv is None else list(argv)

    def begin() -> int:
        try:
            chosen = parse(arguments)
            warning = check(chosen)
        except (ConfigError, EnvironmentUnsupportedError) as error:
            return fail(error, BAD_INPUT)
        note(announcement(chosen))
        if chosen.preset == GENERAL:
            note(budget(chosen.config))
        elif warning:
            note(f"warning: {warning}")
        return run(chosen)

    return attended(begin)


def parse(argv: Sequence[str]) -> Arguments:
    """Arguments with the defaults of the preset that they name.

    Raises:
        ConfigError: if an option is unknown, or a value has another type than its option's or is out of range.
        SystemExit: with code 0 for `--help`.
    """
    options.require_once(argv)
    if environment := without_preset(argv):
        require_environment(environment)
        default = Arguments(config=general(environment), preset=GENERAL)
        return options.parse(Arguments, argv, prog=prog("train"), default=default)
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--preset", nargs="?", const="", default="cartpole")
    known, others = first.parse_known_args(argv)
    require_preset(known.preset)
    given, default = list(argv), Arguments(config=PRESETS.get(known.preset, PRESETS["cartpole"]))
    if known.preset not in PRESETS and (saved := read_preset(known.preset)):  # a saved one, as changes to a shipped one
        shipped, config = saved
        given, default = [*others, "--preset", shipped], Arguments(config=config)
    return options.parse(Arguments, given, prog=prog("train"), default=default)


def without_preset(argv: Sequence[str]) -> Environment | None:
    """The environment to train with general values, or None.

    General values are used if they are named, or if no preset is named and none was tuned to the environment.

    Raises:
        ConfigError: if the arguments of the environment cannot be read.
    """
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in ("env-id", "preset", "resume", "max-episode-steps"):
        first.add_argument(f"--{name}", f"--{name.replace('-', '_')}", nargs="?", const="")
    first.add_argument("--env-kwargs", "--env_kwargs", nargs="*", default=[])
    known, _ = first.parse_known_args(argv)
    named = known.preset is not None or known.resume is not None or not known.env_id
    if known.preset != GENERAL and (named or has_preset(known.env_id)):
        return None
    options.values_of(argv, options.option_types(Arguments))
    return DQNConfig(
        env_id=known.env_id or DQNConfig.env_id,
        env_kwargs=read_keywords(known.env_kwargs),
        max_episode_steps=int(known.max_episode_steps or 0),
    ).environment


def check(arguments: Arguments) -> str | None:
    """Refuse what can be refused without PyTorch. Returns a warning, or None.

    Raises:
        ConfigError: if the device, the version to start from or the run to resume does not exist.
        EnvironmentUnsupportedError: if the environment does not exist.
    """
    if arguments.resume:
        if _overrides(arguments) or arguments.preset != "cartpole" or arguments.warm_start:
            raise ConfigError(
                "a resumed run keeps its own configuration: leave out the preset, its fields and warm_start"
            )
        require_run(arguments.resume, arguments.checkpoint_dir)
        return None
    config = arguments.config
    require_device_name(config.device)
    require_environment(config.environment)
    if arguments.warm_start:
        require_version(config.env_id, arguments.warm_start)
    return preset_warning(arguments.preset, config.env_id)


def announcement(arguments: Arguments) -> str:
    """A sentence about what is trained, with which values, and where the results go."""
    where = redacted(os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path('mlflow.db').absolute()}")
    if arguments.resume:
        return f"Resuming run {arguments.resume} of {where}"
    config = arguments.config
    agents = "1 DQN agent" if config.num_agents == 1 else f"{config.num_agents} DQN agents"
    values = "general values" if arguments.preset == GENERAL else f"preset {arguments.preset}"
    what = f"{config.env_id} ({values}, seed {config.seed})"
    goes = "" if api_is_named() else f"; runs and models go to {where}"  # a worker has a store of its own
    return f"Training {agents} on {what}{goes}"


def run(arguments: Arguments) -> int:
    """Train: as a run of the deployment if Prefect has it, as a flow run here if it has not, or without Prefect."""
    parameters = {
        "config": _json(_overrides(arguments)),
        "preset": arguments.preset,
        **({"resume": arguments.resume} if arguments.resume else {}),
        **({"warm_start": arguments.warm_start} if arguments.warm_start else {}),
    }
    try:
        if run_elsewhere("train-dqn/cartpole", parameters, why_here=_why_here(arguments)):
            return 0
    except FlowError as error:
        return fail(error, error.exit_code)
    # Imported here: Prefect reads the environment on import, and wrong arguments are refused without waiting for it.
    with phase("load MLflow and PyTorch"):
        from flows.cli.exits import reported
        from flows.request.parameters import ConfigOverrides
        from flows.train import check_request, train_dqn

    quieten()
    request = (
        ConfigOverrides.model_validate(_overrides(arguments)),
        arguments.preset,
        arguments.resume,
        arguments.warm_start,
        str(arguments.checkpoint_dir),
    )

    def work() -> None:
        train = train_dqn
        with phase("check"):  # the flow checks too, but retries for minutes and leaves a failed flow run
            check_request(*request)
        if api_is_named():
            from flows.deployed import train_dqn as train
        report = train(*request)
        if api_is_named():
            print(report)

    return reported(work)


def _why_here(arguments: Arguments) -> str:
    if arguments.checkpoint_dir != Arguments.checkpoint_dir:
        return "--checkpoint-dir is a directory of this machine"
    mine = arguments.resume and (arguments.checkpoint_dir / f"{arguments.resume}.ckpt").exists()
    return "the run's checkpoint is on this machine" if mine else ""


def _json(overrides: dict[str, Any]) -> dict[str, Any]:
    def plain(value: Any) -> Any:
        if isinstance(value, tuple):
            return [plain(entry) for entry in value]
        return value.to_dict() if isinstance(value, World) else value

    return {name: plain(value) for name, value in overrides.items()}


def _overrides(arguments: Arguments) -> dict[str, Any]:
    start = start_of(arguments.preset, arguments.config.environment)
    given = {field.name: getattr(arguments.config, field.name) for field in dataclasses.fields(DQNConfig)}
    changed = {name: value for name, value in given.items() if value != getattr(start, name)}
    return changed | ({"env_id": arguments.config.env_id} if arguments.preset == GENERAL else {})
