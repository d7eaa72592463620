"""MLflow's pages of a run and a version, and the address of its store."""

import os
from shlex import quote
from typing import Final

import mlflow

from flows.uris import redacted, without_login
from serving.commands import program
from serving.models.glance import store_file

LOCAL_UI: Final = "http://127.0.0.1:5000"
"""The address of `mlflow ui`."""
_MODELS: Final = "?workflowType=machine_learning"
"""Without it MLflow opens its view for GenAI applications, which has no model registry in the menu."""


def absolute_uri() -> str:
    """The tracking store's address. That of an embedded store has an absolute path, and works from any directory."""
    uri = mlflow.get_tracking_uri()
    file = store_file(uri)
    return f"sqlite:///{file}" if file else redacted(uri)


def mlflow_command(words: str) -> str:
    """A command of MLflow's own program; it names the store, if that is not the default one."""
    store = f"MLFLOW_TRACKING_URI={quote(absolute_uri())} " if os.environ.get("MLFLOW_TRACKING_URI") else ""
    return f"{store}{program('mlflow')} {words}"


def run_page(experiment: str, run_id: str) -> str | None:
    """A run's page; None if there is no server."""
    server = _server()
    return f"{server}/#/experiments/{experiment}/runs/{run_id}{_MODELS}" if server else None


def version_page(name: str, version: int, *, server: str | None = None) -> str:
    """A registered version's page on a server; by default the one in use."""
    return f"{server or _server() or LOCAL_UI}/#/models/{name}/versions/{version}{_MODELS}"


def _server() -> str | None:
    """The server's address for a browser: MLFLOW_UI_URL, if it differs from the address within containers."""
    uri = mlflow.get_tracking_uri()
    return without_login(os.environ.get("MLFLOW_UI_URL", uri).rstrip("/")) if uri.startswith("http") else None
