"""The verbs as programs, before anything heavy is imported."""

import io
import os
import sys
from collections.abc import Mapping
from typing import Final, NoReturn

from flows.failures.interrupts import end_at_once, leave

_PROXIES: Final = ("http_proxy", "https_proxy", "all_proxy")
_LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")


def train() -> NoReturn:
    """`dqn-train` and `python -m flows train`."""
    end_at_once()
    from flows.cli.train import main

    leave(main())


def sweep() -> NoReturn:
    """`python -m flows sweep`."""
    end_at_once()
    from flows.cli.sweep import main

    leave(main())


def card() -> NoReturn:
    """`python -m flows card`."""
    end_at_once()
    from flows.cli.card import main

    leave(main())


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
