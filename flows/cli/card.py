"""`python -m flows card`: write the card of a registered version."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dqn.config import ConfigError, DQNConfig
from flows.cli import options
from flows.cli.program import prepare, prog
from flows.cli.terminal import BAD_INPUT, attended, fail, quieten


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Write the card of a registered version: one HTML file that plays it in any browser, without a server."""

    version: str = "champion"
    """Number or alias of the version, such as 3 or champion."""
    env_id: str = DQNConfig.env_id
    """Environment whose registered model is meant."""
    output: Path = Path("card.html")
    """The file to write."""


def main(argv: Sequence[str] | None = None) -> int:
    """Parse arguments and write the card. Returns the exit code."""
    prepare()

    def begin() -> int:
        words = sys.argv[1:] if argv is None else argv
        try:
            chosen = options.parse(Arguments, words, prog=prog("card"), default=Arguments(), positional=("version",))
        except ConfigError as error:
            return fail(error, BAD_INPUT)
        return run(chosen)

    return attended(begin)


def run(arguments: Arguments) -> int:
    """Write the card and print its path."""
    from flows.cli.exits import reported  # imports PyTorch, which --help should not wait for
    from flows.registry import versions
    from flows.reporting.card import version_card
    from flows.tracking.store import connect

    quieten()

    def work() -> None:
        client = connect()
        name = versions.model_name(arguments.env_id)
        artifact = versions.download(name, versions.require(client, name, arguments.version))
        arguments.output.write_bytes(version_card(client, artifact))
        print(f"{arguments.output}: open it in a browser")

    return reported(work)
