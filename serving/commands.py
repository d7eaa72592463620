"""Commands for messages, as they work in the directory where this process was started."""

import re
import shlex
import sys
from pathlib import Path
from typing import Final

_PROGRAMS: Final = {
    "serve": "python -m serving",
    "record": "python -m serving record",
    "ui": "mlflow ui",
}
"""The program behind a verb of the Makefile; `python -m flows VERB` is behind the others."""
_PLAIN: Final = re.compile(r"[\w@%+=:,./-][\w@%+=:,./~-]*")


def command(verb: str, *options: str) -> str:
    """The command for a verb with options: `make` if this project's Makefile is in the current directory.

    Elsewhere it is the console script, if this process is one, or Python with the module. Make and its shell each
    remove one level of quotes.
    """
    words = " ".join(word if _PLAIN.fullmatch(word) else shlex.quote(word) for word in options)
    if not _makefile_is_here():
        is_script = Path(sys.argv[0]).name == "dqn" and verb != "ui"
        program = f"dqn {verb}" if is_script else _PROGRAMS.get(verb, f"python -m flows {verb}")
        return f"{program} {words}".rstrip()
    if not options:
        return f"make {verb}"
    words = words.replace("$", "$$")
    return f"make {verb} ARGS=" + (shlex.quote(words) if re.search(r'["$`\\!]', words) else f'"{words}"')


def _makefile_is_here() -> bool:
    try:
        return "-m flows train" in Path("Makefile").read_text(errors="replace")
    except OSError:
        return False
