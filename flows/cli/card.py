"""`python -m flows card`: write the card of a registered version."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from dqn.config import DQNConfig
from flows.cli.program import prepare, prog
from flows.cli.terminal import attended, quieten


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Write the card of a registered version: one HTML file that plays it in any browser, without a server."""

    version: Annotated[str, tyro.conf.Positional]
    """Number or alias of the version, such as 3 or champion."""
    env_id: str = DQNConfig.env_id
    """Environment whose registered model is meant."""
    output: Path = Path("card.html")
    """The file to write."""


def main(argv: Sequence[str] | None = None) -> int:
    """Parse arguments and write the card. Returns the exit code."""
    prepare()
    arguments = tyro.cli(Arguments, prog=prog("card"), args=argv)
    return attended(lambda: run(arguments))


def run(arguments: Arguments) -> int:
    """Write the card and print its path."""
    from flows.cli.exits import reported  # imports PyTorch, which --help should not wait for
    from flows.failures.errors import InputError
    from flows.registry import versions
    from flows.reporting.card import version_card
    from flows.tracking.store import connect

    quieten()

    def work() -> None:
        client = connect()
        name = versions.model_name(arguments.env_id)
        number = versions.resolve(client, name, arguments.version)
        if number is None:
            known = sorted(int(found.version) for found in client.search_model_versions(f"name='{name}'"))
            listed = ", ".join(map(str, known)) or "none"
            raise InputError(f"{name} has no version or alias {arguments.version!r}; registered are: {listed}")
        artifact = versions.download(name, number)
        arguments.output.write_bytes(version_card(client, artifact))
        print(f"{arguments.output}: open it in a browser")

    return reported(work)
