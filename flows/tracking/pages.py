"""Where MLflow shows a run and a version, and the address of its store that works from any directory."""

import os
from typing import Final

import mlflow

from flows.uris import redacted, without_login
from serving.models.glance import store_file

LOCAL_UI: Final = "http://127.0.0.1:5000"
"""Where `mlflow ui` listens."""
_MODELS: Final = "?workflowType=machine_learning"
"""MLflow opens for GenAI applications otherwise, without its registry of models in the menu."""


def absolute_uri() -> str:
    """The tracking store's address; an embedded one's file by its whole path."""
    uri = mlflow.get_tracking_uri()
    file = store_file(uri)
    return f"sqlite:///{file}" if file else redacted(uri)


def run_page(experiment: str, run_id: str) -> str | None:
    """A run's page; None where there is no server."""
    server = _server()
    return f"{server}/#/experiments/{experiment}/runs/{run_id}{_MODELS}" if server else None


def version_page(name: str, version: int, *, server: str | None = None) -> str:
    """A registered version's page, of this server or another."""
    return f"{server or _server() or LOCAL_UI}/#/models/{name}/versions/{version}{_MODELS}"


def _server() -> str | None:
    """The server's address; a browser may know it by another name, MLFLOW_UI_URL, than a container."""
    uri = mlflow.get_tracking_uri()
    return without_login(os.environ.get("MLFLOW_UI_URL", uri).rstrip("/")) if uri.startswith("http") else None
