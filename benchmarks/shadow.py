"""CPU time of a request without a shadow and with one, in pairs of blocks in one process, without HTTP's own part.

.venv/bin/python -m benchmarks.shadow [SHARE]
"""

import asyncio
import statistics
import sys
import time
from typing import Final

import orjson

from serving.application import App
from serving.inference.shadow import Shadow
from serving.models.follower import Models
from tests.support.serving.faulty import GOOD, Registry

PAIRS: Final = 20
REQUESTS: Final = 6_000
_PATH: Final = "/v2/models/dqn/infer"


async def application(share: float | None) -> App:
    """Version 1 plays; version 2 is in its shadow for a share of the requests."""
    registry = Registry(*GOOD[:2])
    registry.aliases["challenger"] = "2"
    models = Models(registry, alias="champion", version=None)
    app = App(models, show=False, shadow=None if share is None else Shadow(models, "challenger", share=share))
    await models.poll()
    return app


async def block(app: App, body: bytes) -> float:
    """CPU seconds a request, with all that the shadow computes for it."""
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "path": _PATH,
        "root_path": "",
        "query_string": b"",
    }
    headers = [(b"host", b"localhost"), (b"content-length", str(len(body)).encode()), (b"accept", b"*/*")]

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: object) -> None:
        pass

    began = time.process_time()
    for index in range(REQUESTS):
        await app.asgi({**scope, "headers": headers}, receive, send)
        if index % 16 == 0:
            await asyncio.sleep(0)
    while app.shadow and app.shadow._working:
        await asyncio.sleep(0.05)
    return (time.process_time() - began) / REQUESTS


async def main(share: float) -> None:
    """Measure pairs, in turn, and print medians and quartiles."""
    tensor = {"name": "observation", "shape": [1, 4], "datatype": "FP32", "data": [0.125] * 4}
    body = orjson.dumps({"inputs": [tensor]})
    apps = [await application(None), await application(share)]
    for app in apps:
        await block(app, body)
    measured = []
    for index in range(PAIRS):
        order = (0, 1) if index % 2 else (1, 0)
        seconds = {which: await block(apps[which], body) for which in order}
        measured.append((seconds[0], seconds[1]))
    off, on = (statistics.median(pair[which] for pair in measured) for which in (0, 1))
    low, middle, high = statistics.quantiles((on / off for off, on in measured), n=4)
    print(f"CPU a request: {1e6 * off:.1f} µs without, {1e6 * on:.1f} µs with a shadow of share {share:g}")
    print(f"ratio of pairs: {middle:.3f} (quartiles {low:.3f} and {high:.3f})")


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[1]) if sys.argv[1:] else 0.1))
