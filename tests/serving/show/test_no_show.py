"""`--no-show`, for replicas behind a load balancer. In process."""

from pathlib import Path

import pytest
from starlette.testclient import TestClient

from serving.show.show import Show
from tests.support.serving.clients import client_of, infer


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TestClient:
    def refuse(*_: object) -> None:
        raise AssertionError("a show was made")

    monkeypatch.setattr(Show, "__init__", refuse)
    return client_of(tmp_path, show=False)[1]


def test_inference_metrics_and_status_are_there(client: TestClient) -> None:
    with client:
        assert client.post("/v2/models/p/infer", json=infer(1)).status_code == 200
        assert client.get("/v2/health/ready").json() == {"ready": True}
        assert client.get("/api/status").json()["current"]["version"] == "1"
        assert "serving_requests_total" in client.get("/metrics").text


def test_the_root_says_that_the_show_is_off(client: TestClient) -> None:
    answer = {"model": "p", "show": "off (--no-show)", "documentation": "/openapi.json"}
    assert client.get("/").json() == answer


@pytest.mark.parametrize(
    "path", ["/static/page.js", "/api/frame.png", "/api/live.mjpeg", "/api/show", "/api/episodes/x.gif"]
)
def test_there_are_no_page_no_pictures_and_no_kept_files(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 404
    documented = client.get("/openapi.json").json()["paths"]
    assert "/api/frame.png" not in documented
    assert "/api/episodes/{file}" not in documented
    assert set(documented["/api/episodes"]) == {"post"}


def test_an_episode_is_answered_whole_and_not_kept(client: TestClient, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = client_of(tmp_path / "other", show=False)[1]
    request = {"seed": 7, "pushes": [{"step": 3, "force": 40}]}
    answer = client.post("/api/episodes", json=request)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["seed"] == 7
    assert len(answer.json()["observations"]) == len(answer.json()["actions"]) + 1
    assert other.post("/api/episodes", json=request).content == answer.content, "whichever replica plays it"
    assert client.get("/api/episodes").status_code == 405
