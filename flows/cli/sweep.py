"""`python -m flows sweep`: arguments, the quiet environment of a terminal, and errors as one sentence."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final, Literal

from dqn.config import ConfigError
from dqn.presets import PresetName
from flows.cli.terminal import fail, quieten, verb
from flows.failures.errors import FlowError
from flows.orchestration.console import phase
from flows.orchestration.flow_run import api_is_named
from flows.orchestration.place import run_elsewhere
from flows.request.suggestions import did_you_mean

SPACES: Final = ("small", "arlbench")
_OF_A_RUN: Final = ("resume", "save", "promote", "spread_to", "checkpoint_dir")


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Search hyper-parameters with whole populations, and train the winner anew on fresh seeds."""

    preset: PresetName = "cartpole"
    """Source of every value that is not searched, and of the environment."""
    space: str = "small"
    """small, arlbench, or a JSON file."""
    method: Literal["tpe", "random"] = "tpe"
    """tpe: Optuna's estimator of good values; random: values drawn at random."""
    trials: int = 1_024
    """Number of configurations to try."""
    shard_trials: int = 0
    """Trials that are sampled and compared together; 0 means an eighth of all, 16 or more."""
    rungs: tuple[int, ...] = ()
    """Updates after which trials are compared; none takes the preset's."""
    keep: float = 0.5
    """Share of the trials that continues after each rung."""
    episodes: int = 10
    """Greedy episodes per comparison."""
    finalists: int = 4
    """Best trials that are trained again, by four agents each, to choose the winner; 0 takes the best trial."""
    seed: int = 0
    """Seed for sampling, training and comparisons."""
    resume: str | None = None
    """Name of the study to resume; it keeps its own settings."""
    save: str | None = None
    """Name of the preset to save the winner as, in this directory, for `--preset NAME`."""
    promote: bool = False
    """Train the winner through export, registry and gate, as a training does."""
    spread_to: str | None = None
    """Deployment to run the shards, such as sweep-shard/default; none runs them in this process."""
    checkpoint_dir: Path = Path("checkpoints")
    """Directory of the checkpoints of unfinished shards."""


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, search, report; returns the exit code."""
    return verb(Arguments(), argv, "sweep", (), check, run)


def check(arguments: Arguments) -> None:
    """Refuse arguments that can be checked without importing PyTorch and Optuna.

    Raises:
        ConfigError: if there is no such space, or settings are given for an existing study.
    """
    if arguments.resume:
        own = [field.name for field in fields(Arguments) if field.name not in _OF_A_RUN]
        given = [name for name in own if getattr(arguments, name) != getattr(Arguments(), name)]
        if given:
            named = ", ".join("--" + name.replace("_", "-") for name in given)
            raise ConfigError(f"a resumed study keeps its own settings: leave out {named}")
    elif arguments.space not in SPACES and not Path(arguments.space).is_file():
        meant = did_you_mean(arguments.space, SPACES)
        expected = f"name one of {', '.join(SPACES)}, or a JSON file that holds one"
        raise ConfigError(f"there is no space {arguments.space!r}{meant or f': {expected}'}")


def run(arguments: Arguments) -> int:
    """Search: as a run of the deployment if Prefect has it, as a flow run here if it has not, or without Prefect."""
    given: dict[str, Any] = {
        **vars(arguments),
        "rungs": list(arguments.rungs) or None,
        "checkpoint_dir": str(arguments.checkpoint_dir),
    }
    default = Arguments()
    parameters = {name: given[name] for name, value in vars(arguments).items() if value != getattr(default, name)}
    try:
        if run_elsewhere("sweep-dqn/default", parameters, why_here=_why_here(arguments)):
            return 0
    except FlowError as error:
        return fail(error, error.exit_code)
    # Imported here: Prefect reads the environment on import, and --help should not wait for torch.
    with phase("load Optuna, MLflow and PyTorch"):
        import optuna

        from flows.cli.exits import reported
        from flows.search.study import read_study
        from flows.sweep import request, sweep_dqn

    quieten()
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # a line a trial

    def work() -> None:
        sweep = sweep_dqn
        with phase("check"):  # the flow checks too, but under Prefect a refusal would be a failed run
            if arguments.resume:
                read_study(arguments.resume)
            else:
                request(**{name: value for name, value in given.items() if name not in _OF_A_RUN})
        if api_is_named():
            from flows.deployed import sweep_dqn as sweep
        print(sweep(**given))

    return reported(work)


def _why_here(arguments: Arguments) -> str:
    """Why a worker cannot search, if it cannot."""
    if arguments.save:
        return "--save writes into this directory"
    if arguments.space not in SPACES:
        return "the space is a file of this machine"
    if arguments.checkpoint_dir != Arguments.checkpoint_dir:
        return "--checkpoint-dir is a directory of this machine"
    return ""
