"""Commands for messages, as they work in the directory where this process was started."""

import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import Final

_MODULES: Final = {"serve": "serving", "record": "serving record"}
"""What Python runs for a verb of the Makefile; `flows VERB` for the others."""
_PLAIN: Final = re.compile(r"[\w@%+=:,./-][\w@%+=:,./~-]*")


def command(verb: str, *options: str) -> str:
    """The command for a verb with options: `make` if this project's Makefile is in the current directory.

    Elsewhere it is the console script, if this process is one, or Python with the module. Make and its shell each
    remove one level of quotes.
    """
    words = " ".join(word if _PLAIN.fullmatch(word) else shlex.quote(word) for word in options)
    if not _makefile_is_here():
        return f"{_started(verb)} {words}".rstrip()
    if not options:
        return f"make {verb}"
    words = words.replace("$", "$$")
    return f"make {verb} ARGS=" + (shlex.quote(words) if re.search(r'["$`\\!]', words) else f'"{words}"')


def program(name: str) -> str:
    """A program of this interpreter's environment: its name where a shell finds this one by it, otherwise its path."""
    own = Path(sys.executable) if name == "python" else Path(sys.executable).with_name(name)
    found = shutil.which(name)
    # A `python` may be a link to another environment's, so its directory decides.
    if not own.exists() or (found and Path(found).parent.resolve() == own.parent.resolve()):
        return name
    if found and name != "python" and Path(found).resolve() == own.resolve():
        return name
    return shlex.quote(str(own.relative_to(Path.cwd()) if own.is_relative_to(Path.cwd()) else own))


def _started(verb: str) -> str:
    if verb == "ui":
        return f"{program('mlflow')} ui"
    if Path(sys.argv[0]).name == "dqn":
        return f"{program('dqn')} {verb}"
    return f"{program('python')} -m {_MODULES.get(verb, f'flows {verb}')}"


def _makefile_is_here() -> bool:
    try:
        return "-m flows train" in Path("Makefile").read_text(errors="replace")
    except OSError:
        return False
