"""Prefect's engine in a forked process."""

import os
import runpy
import signal
import sys
from contextlib import suppress
from pathlib import Path

from prefect.context import SettingsContext, get_settings_context
from prefect.settings import Settings


def run_engine(environment: dict[str, str], directory: str) -> None:
    """Execute the flow run that the environment names, as `python -m prefect.engine` does, in a process of its own.

    Args:
        environment: the whole environment; Prefect's settings are read from it again.
        directory: the working directory.
    """
    os.setsid()  # signals to the worker's group are passed on by the worker
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})  # the fork server blocks it
    with suppress(OSError):  # a name for `ps` and `top`, if the system supports it
        Path("/proc/self/comm").write_text("prefect.engine")
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(directory)
    sys.argv = ["prefect.engine"]
    sys.modules.pop("prefect.engine", None)  # it is run, not imported
    with SettingsContext(profile=get_settings_context().profile, settings=Settings()):
        runpy.run_module("prefect.engine", run_name="__main__")
