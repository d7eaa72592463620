"""`python -m flows card`: write the card of a registered version."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dqn.config import DQNConfig
from flows.cli.refusals import require_model, require_registry, require_version
from flows.cli.terminal import verb


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

    def check(chosen: Arguments) -> None:
        require_registry()
        require_model(chosen.env_id)
        require_version(chosen.env_id, chosen.version, why="")

    return verb(Arguments(), argv, "card", ("version",), check, run)


def run(arguments: Arguments) -> int:
    """Write the card and print its path."""
    from flows.cli.exits import reported  # imports PyTorch, which --help should not wait for
    from flows.registry import versions
    from flows.reporting.card import version_card
    from flows.tracking.store import connect

    def work() -> None:
        client = connect()
        name = versions.model_name(arguments.env_id)
        artifact = versions.download(name, versions.require(client, name, arguments.version))
        arguments.output.write_bytes(version_card(client, artifact))
        print(f"{arguments.output}: open it in a browser")

    return reported(work)
