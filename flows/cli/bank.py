"""`python -m flows bank`: arguments, the quiet environment of a terminal, and errors as one sentence."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.cli.terminal import fail, verb
from flows.failures.errors import FlowError
from flows.orchestration.console import phase
from flows.orchestration.flow_run import api_is_named
from flows.orchestration.place import run_elsewhere


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Give CartPole's champion members for worlds that it does not balance with the change undone."""

    worlds: int = 64
    """Number of random worlds around the champion's own, each with one agent."""
    members: int = 8
    """Number of members at most; fewer if no more agent adds a world."""
    seed: int = 0
    """Seed of the worlds and the training."""
    checkpoint_dir: Path = Path("checkpoints")
    """Directory of the training state, which is kept until training is over."""


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, train, choose and report; returns the exit code."""
    return verb(Arguments(), argv, "bank", (), lambda _: None, run)


def run(arguments: Arguments) -> int:
    """Make a bank: as a run of the deployment if Prefect has it, as a flow run here if not, or without Prefect."""
    given: dict[str, Any] = {**vars(arguments), "checkpoint_dir": str(arguments.checkpoint_dir)}
    parameters = {name: given[name] for name, value in vars(arguments).items() if value != getattr(Arguments, name)}
    elsewhere = arguments.checkpoint_dir != Arguments.checkpoint_dir
    try:
        why_here = "--checkpoint-dir is a directory of this machine" if elsewhere else ""
        if run_elsewhere("bank-dqn/default", parameters, why_here=why_here):
            return 0
    except FlowError as error:
        return fail(error, error.exit_code)
    with phase("load MLflow and PyTorch"):
        from flows.bank import bank_dqn, check_request
        from flows.cli.exits import reported

    def work() -> None:
        bank = bank_dqn
        with phase("check"):  # the flow checks too, but under Prefect a refusal would be a failed run
            check_request(arguments.worlds, arguments.members, str(arguments.checkpoint_dir))
        if api_is_named():
            from flows.deployed import bank_dqn as bank
        print(bank(**given))

    return reported(work)
