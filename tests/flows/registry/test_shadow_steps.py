"""A promotion that asks for steps in the shadow reads the server's own count."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from mlflow import MlflowClient

from flows.cli import models
from flows.failures.errors import InputError
from flows.promotion import promote_version
from flows.serving_client import require_shadow_steps
from tests.support.flows.promoting import empty_store
from tests.support.flows.registering import BALANCING, registered

__all__ = ["empty_store"]  # a fixture
NAME = "dqn-CartPole-v1"
SHADOW: dict[str, Any] = {
    "model": NAME,
    "reference": "challenger",
    "challenger": "3",
    "notice": "",
    "agreed": 1000,
    "canary": {"returned": ""},
}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """A server whose `/api/shadow` answers with the last element."""
    answers: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/api/shadow" else 404)
            self.end_headers()
            self.wfile.write(json.dumps(answers[-1]).encode())

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        monkeypatch.setenv("SERVING_URL", f"http://127.0.0.1:{listening.server_port}/")
        yield answers
        listening.shutdown()
        thread.join()


def test_enough_agreeing_steps_are_enough(server: list[Any]) -> None:
    server.append(SHADOW)
    require_shadow_steps(NAME, 3, 1000)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (SHADOW | {"agreed": 999}, "has agreed with the champion in 999 steps in the shadow, and --shadow-steps asks"),
        (SHADOW | {"challenger": "4"}, "is not in the shadow at .*: 'challenger' is version 4 of dqn-CartPole-v1"),
        (SHADOW | {"model": "dqn-Acrobot-v1"}, "is not in the shadow at .*: 'challenger' is version 3 of dqn-Acrobot"),
        (SHADOW | {"notice": "version 3 was refused"}, "is not in the shadow at .*: version 3 was refused"),
        (SHADOW | {"canary": {"returned": "it failed"}}, "has returned version 3 of dqn-CartPole-v1: it failed"),
        (None, "is not in the shadow at .*: it has no --shadow"),
        ({"model": NAME, "challenger": "3"}, "--shadow-steps reads .* which failed"),
        ([1], "--shadow-steps reads .* which failed"),
    ],
)
def test_anything_else_is_refused_in_a_sentence(server: list[Any], answer: Any, said: str) -> None:
    server.append(answer)
    with pytest.raises(InputError, match=said) as refused:
        require_shadow_steps(NAME, 3, 1000)
    assert "\n" not in str(refused.value)


def test_a_server_that_is_away_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVING_URL", "http://127.0.0.1:1")
    with pytest.raises(InputError, match=r"http://127.0.0.1:1/api/shadow, which failed .*: set SERVING_URL"):
        require_shadow_steps(NAME, 3, 1)


def test_a_promotion_without_the_steps_plays_and_writes_nothing(
    server: list[Any], empty_store: MlflowClient, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server.append(None)
    version = registered(empty_store, NAME, BALANCING)
    monkeypatch.setattr("flows.promotion.evaluate", lambda *_: pytest.fail("it was played"))
    with pytest.raises(InputError, match="it has no --shadow"):
        promote_version(version, "CartPole-v1", force=True, shadow_steps=1)
    monkeypatch.setattr(models, "api_is_named", lambda: False)
    monkeypatch.setattr("flows.orchestration.place.api_is_named", lambda: False)
    for more in ([], ["--dry-run"]):
        assert models.promote([str(version), "--shadow-steps", "1", *more]) == 2
        assert "is not in the shadow at" in capsys.readouterr().err
    assert "gate" not in empty_store.get_model_version(NAME, str(version)).tags
