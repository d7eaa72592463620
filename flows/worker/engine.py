"""Prefect's engine in a process that was forked."""

import os
import runpy
import signal
import sys
from contextlib import suppress
from pathlib import Path

from prefect.context import SettingsContext, get_settings_context
from prefect.settings import Settings


def run_engine(environment: dict[str, str], directory: str) -> None:
    """Execute the flow run that the environment names, as `python -m prefect.engine` does. The process is its own.

    Args:
        environment: all of it; Prefect's settings are read from it again.
        directory: to begin in.
    """
    os.setsid()  # what the worker's group is told, the worker tells this process
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})  # which the fork server holds back
    with suppress(OSError):  # a name for `ps` and `top`, where the system takes one
        Path("/proc/self/comm").write_text("prefect.engine")
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(directory)
    sys.argv = ["prefect.engine"]
    sys.modules.pop("prefect.engine", None)  # it is run, not imported
    with SettingsContext(profile=get_settings_context().profile, settings=Settings()):
        runpy.run_module("prefect.engine", run_name="__main__")
