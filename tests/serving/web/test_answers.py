"""The table from exceptions to answers."""

import pytest
from starlette.exceptions import HTTPException
from starlette.testclient import TestClient

from serving.errors import PolicyError, RecordingError, RegistryUnavailableError, RequestError, UnknownModelError
from serving.metrics.metrics import Metrics
from serving.web.answers import refusal
from serving.web.security import Guard

SCOPE = {"path": "/x", "method": "PUT"}
RETRY = [(b"retry-after", b"1")]
CLOSE = [(b"connection", b"close")]


@pytest.mark.parametrize(
    ("error", "answer"),
    [
        (RequestError("wrong"), (400, "wrong", [])),
        (RequestError("late", 408), (408, "late", CLOSE)),
        (RequestError("large", 413), (413, "large", CLOSE)),
        (RequestError("busy", 503), (503, "busy", RETRY)),
        (UnknownModelError("none"), (404, "none", [])),
        (RegistryUnavailableError("gone"), (503, "gone", RETRY)),
        (PolicyError("refused"), (503, "refused", RETRY)),
        (RecordingError("no codec"), (501, "no codec", [])),
        (ValueError("wrong"), (400, "wrong", [])),
        (KeyError("x"), (500, "the server failed; its log says why", [])),
        (HTTPException(404), (404, "there is nothing at '/x'; /openapi.json lists what there is", [])),
        (HTTPException(404, "no file"), (404, "no file", [])),
        (HTTPException(405, headers={"Allow": "GET"}), (405, "PUT is not allowed at '/x'", [(b"allow", b"GET")])),
    ],
)
def test_an_exception_has_one_answer(error: Exception, answer: tuple[int, str, list[tuple[bytes, bytes]]]) -> None:
    assert refusal(error, SCOPE) == answer


@pytest.mark.parametrize("status", [404, 405])
def test_a_long_path_is_cut(status: int) -> None:
    path = "/" + "x" * 119
    _, sentence, _ = refusal(HTTPException(status), {"path": path + "y", "method": "PUT"})
    assert repr(path) in sentence


@pytest.mark.parametrize(("error", "logged"), [(KeyError("secret"), 1), (ValueError("wrong"), 0)])
def test_an_unexpected_exception_is_logged_and_not_sent(
    error: Exception, logged: int, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(*_: object) -> None:
        raise error

    client = TestClient(Guard(fail, count=Metrics().requests.count, hosts=(), token=None), base_url="http://localhost")
    assert "secret" not in client.get("/").json()["error"]
    assert [record.getMessage() for record in caplog.records if record.exc_info] == ["a request failed"] * logged
