"""Webhooks of MLflow's registry."""

import hashlib
import hmac
from base64 import b64encode
from collections import OrderedDict
from typing import Final

from starlette.exceptions import HTTPException

WEBHOOK_PATH: Final = "/api/webhooks/registry"
_WEBHOOK_WINDOW: Final = 300


class Webhooks:
    """Verifies MLflow's signed deliveries (mlflow.webhooks.delivery: HMAC-SHA256 of "id.timestamp.payload")."""

    def __init__(self, secret: str) -> None:
        self._secret = secret.encode()
        self._handled: OrderedDict[str, float] = OrderedDict()

    def check(self, headers: dict[str, str], payload: bytes, now: float) -> None:
        """Check a delivery and remember its id.

        Raises:
            HTTPException: if it is not genuine, recent and new.
        """
        delivery, stamp = headers.get("x-mlflow-delivery-id", ""), headers.get("x-mlflow-timestamp", "")
        signed = f"{delivery}.{stamp}.".encode() + payload
        expected = b"v1," + b64encode(hmac.new(self._secret, signed, hashlib.sha256).digest())
        if not hmac.compare_digest(expected, headers.get("x-mlflow-signature", "").encode()):
            raise HTTPException(401, "the signature does not match SERVING_WEBHOOK_SECRET")
        if not stamp.isdecimal() or abs(now - int(stamp)) > _WEBHOOK_WINDOW:
            raise HTTPException(
                401, f"the delivery's timestamp is more than {_WEBHOOK_WINDOW} seconds away from this clock"
            )
        if delivery in self._handled:
            raise HTTPException(409, "this delivery was handled already")
        self._handled[delivery] = now
        while self._handled and next(iter(self._handled.values())) < now - 2 * _WEBHOOK_WINDOW:
            self._handled.popitem(last=False)
