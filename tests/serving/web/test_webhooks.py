"""The webhook that the registry calls: signatures, timestamps and repeated deliveries."""

import base64
import hashlib
import hmac
import time
import uuid
from pathlib import Path

from starlette.exceptions import HTTPException

from serving.web.webhooks import Webhooks
from tests.support.serving.clients import client_of


def test_a_secret_guards_the_webhook(tmp_path: Path) -> None:
    app, client = client_of(tmp_path, webhook_secret="hush")
    delivery, stamp, payload = str(uuid.uuid4()), str(int(time.time())), b'{"entity": "model_version_alias"}'
    digest = hmac.new(b"hush", f"{delivery}.{stamp}.".encode() + payload, hashlib.sha256).digest()
    headers = {
        "X-MLflow-Delivery-Id": delivery,
        "X-MLflow-Timestamp": stamp,
        "X-MLflow-Signature": "v1," + base64.b64encode(digest).decode(),
    }
    path = "/api/webhooks/registry"
    assert client.post(path, content=payload + b" ", headers=headers).status_code == 401
    assert client.post(path, content=payload, headers=headers | {"X-MLflow-Timestamp": "1"}).status_code == 401
    assert not app.models._refresh.is_set()
    assert client.post(path, content=payload, headers=headers).json() == {"accepted": True}
    assert app.models._refresh.is_set()
    assert client.post(path, content=payload, headers=headers).status_code == 409


def test_a_delivery_is_taken_once_within_five_minutes_of_this_clock() -> None:
    webhooks = Webhooks("hush")

    def deliver(delivery: str, stamp: str, now: float, scheme: str = "v1") -> int:
        digest = hmac.new(b"hush", f"{delivery}.{stamp}.{{}}".encode(), hashlib.sha256).digest()
        headers = {
            "x-mlflow-delivery-id": delivery,
            "x-mlflow-timestamp": stamp,
            "x-mlflow-signature": f"{scheme},{base64.b64encode(digest).decode()}",
        }
        try:
            webhooks.check(headers, b"{}", now)
        except HTTPException as error:
            return error.status_code
        return 200

    assert [deliver(str(now), "1000", now) for now in (699.0, 700.0, 1300.0, 1301.0)] == [401, 200, 200, 401]
    assert deliver("a", "soon", 1000.0) == deliver("a", "-1", 0.0) == deliver("a", "1000", 1000.0, "v2") == 401
    assert [deliver("a", str(int(now)), now) for now in (2000.0, 2000.0, 2300.0)] == [200, 409, 409]
    assert len(webhooks._handled) == 1, (
        "deliveries of ten minutes ago are forgotten, because their timestamps would be refused"
    )
    assert [deliver(name, "2600", 2600.0) for name in ("b", "a")] == [200, 409]
    assert [deliver(name, "2601", 2601.0) for name in ("c", "a")] == [200, 200]
