"""The Prefect flow run that this process executes, if any.

If no Prefect API is named, a training runs without Prefect: the import of Prefect and its temporary server would take
longer than the training.
"""

import logging
import os
import sys
from pathlib import Path
from typing import Any, Final

from dqn.config import ConfigError

_FILES: Final = (".env", "prefect.toml", "pyproject.toml")

logger = logging.getLogger(__name__)


def flow_run_id() -> str | None:
    """Id of the flow run that this thread belongs to; None outside a flow run."""
    context: Any = sys.modules.get("prefect.context")  # imported by every flow run
    if context is None:
        return None
    running = context.FlowRunContext.get()
    return str(running.flow_run.id) if running and running.flow_run else None


def deployment_id() -> str | None:
    """Id of the flow run's deployment; None if it has none."""
    if flow_run_id() is None:
        return None
    import prefect.runtime

    deployment: str | None = prefect.runtime.deployment.id
    return deployment


def api_is_named() -> bool:
    """Whether the environment, Prefect's active profile or a file in this directory names a Prefect API.

    Raises:
        ConfigError: if one of the files cannot be read.
    """
    if "PREFECT_API_URL" in os.environ:
        return bool(os.environ["PREFECT_API_URL"])
    home = Path(os.environ.get("PREFECT_HOME", "~/.prefect")).expanduser()
    profiles = Path(os.environ.get("PREFECT_PROFILES_PATH", home / "profiles.toml"))
    if not (profiles.exists() or any(_speaks_of_prefect(Path(file)) for file in _FILES)):
        return False
    from prefect.settings import PREFECT_API_URL  # takes a second, so only if something is configured

    return PREFECT_API_URL.value() is not None


def _speaks_of_prefect(file: Path) -> bool:
    if file.is_dir():
        logger.warning("%s is a directory: no settings are read from it", file.absolute())
        return False
    if not file.exists():
        return False
    try:
        text = file.read_text(encoding="utf-8").lower()
    except (UnicodeDecodeError, OSError) as error:
        what = "is not UTF-8" if isinstance(error, UnicodeDecodeError) else f"cannot be read ({error.strerror})"
        raise ConfigError(
            f"{file.absolute()} {what}, and may name a Prefect API: save it as UTF-8 that this user can read, or start "
            "in another directory"
        ) from error
    return any(word in text for word in ("prefect_", "[tool.prefect", "[api"))
