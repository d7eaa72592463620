"""The Prefect flow run that goes on here, if one does.

Where no Prefect API is named, a training runs without Prefect: its temporary server and its import would take longer
than the training, and nobody would look at either.
"""

import os
import sys
from pathlib import Path
from typing import Any, Final

_FILES: Final = (".env", "prefect.toml", "pyproject.toml")


class PrefectError(RuntimeError):
    """Prefect's API cannot be reached; the message says which and what to do."""


def flow_run_id() -> str | None:
    """Id of the flow run that this thread is part of; None where there is none."""
    context: Any = sys.modules.get("prefect.context")  # a flow run has imported it
    if context is None:
        return None
    running = context.FlowRunContext.get()
    return str(running.flow_run.id) if running and running.flow_run else None


def deployment_id() -> str | None:
    """Id of the deployment whose flow run this is; None where there is none."""
    if flow_run_id() is None:
        return None
    import prefect.runtime

    deployment: str | None = prefect.runtime.deployment.id
    return deployment


def api_is_named() -> bool:
    """Whether the environment, Prefect's active profile or a file in this directory names a Prefect API."""
    if "PREFECT_API_URL" in os.environ:
        return bool(os.environ["PREFECT_API_URL"])
    home = Path(os.environ.get("PREFECT_HOME", "~/.prefect")).expanduser()
    profiles = Path(os.environ.get("PREFECT_PROFILES_PATH", home / "profiles.toml"))
    if not (profiles.exists() or any(_speaks_of_prefect(Path(file)) for file in _FILES)):
        return False
    from prefect.settings import PREFECT_API_URL  # a second, for those who have configured something

    return PREFECT_API_URL.value() is not None


def _speaks_of_prefect(file: Path) -> bool:
    return file.exists() and any(word in file.read_text().lower() for word in ("prefect_", "[tool.prefect", "[api"))
