"""MLflow's users beside `admin`, and what each may do."""

import os
from collections.abc import Mapping
from typing import Final

import httpx

USERS: Final[Mapping[str, Mapping[str, str]]] = {
    "reader": {},
    # MANAGE is the right to delete: aliases, and a logged model that an interrupted attempt has left unfinished.
    "worker": {"experiment": "EDIT", "logged_model": "MANAGE", "registered_model": "MANAGE"},
}
"""MLflow's users beside `admin`, with their permissions. Serving is the reader. The worker trains and promotes."""


def upsert_user(name: str, password: str, grants: Mapping[str, str]) -> None:
    """Create a user of MLflow, or set its password, and give it permissions.

    By HTTP, because MLflow's own client for users imports the whole server.

    Args:
        name: of the user. It may read everything by `default_permission` in mlflow.ini.
        password: of 12 characters or more.
        grants: a permission by type of resource, on all resources of that type.
    """
    api = f"{os.environ['MLFLOW_TRACKING_URI']}/api"
    user = {"username": name, "password": password}
    login = (os.environ["MLFLOW_TRACKING_USERNAME"], os.environ["MLFLOW_TRACKING_PASSWORD"])
    with httpx.Client(auth=login, timeout=30) as client:
        answer = client.post(f"{api}/2.0/mlflow/users/create", json=user)
        if "RESOURCE_ALREADY_EXISTS" in answer.text:
            answer = client.patch(f"{api}/2.0/mlflow/users/update-password", json=user)
        answer.raise_for_status()
        for kind, permission in grants.items():
            grant = {"username": name, "resource_type": kind, "resource_id": "*", "permission": permission}
            answer = client.post(f"{api}/3.0/mlflow/users/permissions/grant", json=grant)
            if "RESOURCE_ALREADY_EXISTS" not in answer.text:
                answer.raise_for_status()
