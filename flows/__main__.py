"""`python -m flows VERB`."""

import sys
from collections.abc import Callable
from typing import Final, NoReturn

from flows.cli import program

VERBS: Final[dict[str, Callable[[], NoReturn]]] = {
    "train": program.train,
    "sweep": program.sweep,
    "card": program.card,
}


def main() -> NoReturn:
    """Run the verb that is the first argument, with the others as its own."""
    if len(sys.argv) < 2 or sys.argv[1] not in VERBS:
        asked = sys.argv[1:] in (["--help"], ["-h"])
        usage = f"usage: python -m flows {{{','.join(VERBS)}}} [OPTIONS]; --help after a verb lists its options"
        given = "" if asked or len(sys.argv) < 2 else f"error: there is no verb {sys.argv[1]!r}\n"
        print(given + usage, file=sys.stdout if asked else sys.stderr)
        raise SystemExit(0 if asked else 2)
    VERBS[sys.argv.pop(1)]()


if __name__ == "__main__":
    main()
