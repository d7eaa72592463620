"""The verbs as programs, before anything heavy is imported."""

import io
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Final, NoReturn

from flows.failures.errors import InputError
from flows.failures.interrupts import end_at_once, leave
from flows.request.suggestions import did_you_mean

_PROXIES: Final = ("http_proxy", "https_proxy", "all_proxy")
_LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, kw_only=True)
class Verb:
    """A verb of the command line."""

    module: str
    """Imported only for its verb."""
    about: str
    """One line of `--help`."""
    function: str = "main"
    """Takes nothing, reads `sys.argv[1:]` and returns the exit code."""


_MODELS: Final = "flows.cli.models"
_SERVING: Final = "serving.__main__"
VERBS: Final[dict[str, Verb]] = {
    "train": Verb(module="flows.cli.train", about="train agents, register the best, promote it if it passes the gate"),
    "sweep": Verb(module="flows.cli.sweep", about="search hyper-parameters with whole populations"),
    "bank": Verb(module="flows.cli.bank", about="give the champion members for worlds that it does not balance"),
    "versions": Verb(module="flows.cli.versions", about="list the registered versions"),
    "compare": Verb(module=_MODELS, function="compare", about="play two versions on the same unseen episodes"),
    "promote": Verb(module=_MODELS, function="promote", about="make a version champion if it passes the gate"),
    "rollback": Verb(module=_MODELS, function="rollback", about="return to the champion before"),
    "retire": Verb(module=_MODELS, function="retire", about="take a version out of use"),
    "card": Verb(module="flows.cli.card", about="write a web page that plays a version without a server"),
    "deploy": Verb(module=_MODELS, function="deploy", about="set up Prefect's and MLflow's servers for this project"),
    "serve": Verb(module=_SERVING, about="play the champion in the browser"),
    "watch": Verb(module=_SERVING, about="play the champion in Gymnasium's own window"),
    "record": Verb(module=_SERVING, about="write a video of the champion"),
}
"""In the order of `--help`. A new verb is a line here."""
_LISTED: Final = ("--help", "-h", "--help-all")


def main() -> NoReturn:
    """`dqn VERB` and `python -m flows VERB`: run the verb that is the first argument, with the others as its own."""
    given = sys.argv[1] if len(sys.argv) > 1 else ""
    if given in VERBS and VERBS[given].module == _SERVING:  # it reads its verb itself
        import_module(_SERVING).run()
    if given in VERBS:
        end_at_once()
        del sys.argv[1]
        leave(getattr(import_module(VERBS[given].module), VERBS[given].function)())
    asked = given in _LISTED
    if given and not asked:
        print(f"error: there is no verb {given!r}{did_you_mean(given, VERBS)}", file=sys.stderr)
    width = max(map(len, VERBS))
    lines = [f"  {name:<{width}}  {verb.about}" for name, verb in VERBS.items()]
    usage = f"usage: {prog()} VERB [OPTIONS]; --help after a verb lists its options\n"
    print(usage, *lines, sep="\n", file=sys.stdout if asked else sys.stderr)
    raise SystemExit(0 if asked else InputError.exit_code)


def prog(verb: str = "") -> str:
    """How the program was called, and a verb of it."""
    name = "dqn" if os.path.basename(sys.argv[0]) == "dqn" else "python -m flows"
    return f"{name} {verb}".rstrip()


def prepare() -> None:
    """Make a process independent of its surroundings.

    Characters that a terminal cannot show are replaced. Modules of the current directory can be imported from a console
    script too, after the installed ones. Connections to this machine's own servers bypass a proxy.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    here = os.getcwd()
    if not {"", here} & set(sys.path):
        sys.path.append(here)
    os.environ |= without_proxy(os.environ)


def without_proxy(environment: Mapping[str, str]) -> dict[str, str]:
    """Variables that make connections to this machine bypass a proxy; none if no proxy is set."""
    if not any(environment.get(name) for proxy in _PROXIES for name in (proxy, proxy.upper())):
        return {}
    excepted = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
    names = [name.strip() for name in excepted.split(",") if name.strip()]
    value = ",".join([*names, *(name for name in _LOOPBACK if name not in names and "*" not in names)])
    return {"no_proxy": value, "NO_PROXY": value}
