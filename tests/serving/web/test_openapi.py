"""/openapi.json compared with the answers of every operation, and /api/status. In process."""

from pathlib import Path

import pytest
from starlette.testclient import TestClient

from tests.support.serving.clients import client_of

STATUSES = {
    "POST /api/webhooks/registry": (202, 401, 404, 408, 409, 413, 415),
    "GET /metrics": (200,),
    "GET /api/status": (200,),
    "GET /api/seen": (200,),
    "GET /api/shadow": (200,),
    "GET /api/history": (200,),
    "GET /api/training/poles": (200, 404, 503),
    "GET /api/episodes": (200,),
    "POST /api/episodes": (201, 400, 401, 404, 408, 413, 415, 503),
    "GET /api/episodes/{file}": (200, 404, 416, 501),
    "GET /api/learning": (200, 404, 503),
    "GET /api/learning/{milestone}": (200, 404, 503),
    "GET /api/frame.png": (200, 501, 503),
    "PUT /api/world": (200, 400, 401, 408, 413, 415, 503),
    "GET /api/experience": (200, 400, 503),
    "GET /api/adaptation": (200,),
    "POST /api/adaptation": (200, 400, 401, 408, 409, 413, 415),
}


@pytest.fixture
def client(tmp_path: Path) -> TestClient:
    return client_of(tmp_path, token="t", mlflow_url="http://mlflow/")[1]


def test_every_status_of_an_answer_is_declared(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    declared = {
        f"{method.upper()} {path}": tuple(map(int, operation["responses"]))
        for path, item in document["paths"].items()
        for method, operation in item.items()
        if method != "parameters" and not path.startswith("/v2")
    }
    assert declared == STATUSES
    assert document["paths"]["/api/episodes/{file}"]["parameters"] == [
        {
            "name": "file",
            "in": "path",
            "description": "ID.json, .gif, .mp4, .webm or .html",
            "required": True,
            "schema": {"type": "string"},
        }
    ]
    responses = document["paths"]["/api/frame.png"]["get"]["responses"]
    assert responses["200"] == {"description": "OK", "content": {"image/png": {}}}
    refused = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    assert responses["503"] == {"description": "refused, with a sentence", "content": refused}
    assert "requestBody" not in document["paths"]["/api/status"]["get"]


def test_the_status_has_the_version_that_plays_and_the_state_of_the_registry(client: TestClient) -> None:
    status = client.get("/api/status").json()
    assert status["current"]["version"] == "1"
    assert status["registry_age_seconds"] >= 0
    for name in ("current", "registry_age_seconds"):
        del status[name]
    assert status == {
        "model": "p",
        "ready": True,
        "notice": "",
        "aliases": {},
        "versions": ["1"],
        "swaps": 1,
        "failed_swaps": 0,
        "follower_errors": 0,
        "registry_reachable": True,
        "drift": None,
        "recent_episodes": [],
        "episode": None,
        "locked": True,
        "mlflow_url": "http://mlflow",
    }


def test_the_status_while_no_version_plays(tmp_path: Path) -> None:
    app, client = client_of(tmp_path, show=False)
    app.models.current, app.models.reachable = None, None
    status = client.get("/api/status").json()
    assert [status[name] for name in ("ready", "current", "registry_reachable", "locked")] == [
        False,
        None,
        False,
        False,
    ]


def test_head_is_answered_wherever_get_is(client: TestClient) -> None:
    assert client.head("/api/status").status_code == 200
    assert client.head("/api/world").status_code == 405
