"""Stories on an application with a challenger in the shadow."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import pytest

from dqn.environments.masks import Mask
from serving.application import App
from serving.inference.shadow import Shadow
from serving.models.follower import Models
from serving.policy import FloatArray, OnnxPolicy
from tests.support.serving.clients import infer
from tests.support.serving.faulty import Registry
from tests.support.serving.policies import BALANCES, linear_model

INFER = "/v2/models/dqn/infer"
CHAMPION = linear_model(BALANCES)
SAME = linear_model(BALANCES, bias=2)
OPPOSITE = linear_model([-gain for gain in BALANCES])
Client = httpx.AsyncClient


def story(
    tell: Callable[[App, Client, Registry], Awaitable[None]], *challengers: bytes, show: bool = False, **options: Any
) -> None:
    """Run a story on an application in which version 2, the alias `challenger`, is in the shadow of version 1."""

    async def run() -> None:
        registry = Registry(CHAMPION, *challengers)
        registry.aliases["challenger"] = "2"
        models = Models(registry, alias="champion", version=None)
        options.setdefault("draw", lambda: 0.05)
        app = App(models, show=show, shadow=Shadow(models, "challenger", **options))
        await models.poll()
        transport = httpx.ASGITransport(app.asgi)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            await tell(app, client, registry)
        app.close()

    asyncio.run(run())


async def answered(client: Client, *, rows: int = 1, path: str = INFER, canary: str = "") -> str:
    """Ask once; the number of the version that answered."""
    answer = await client.post(path, json=infer(rows), headers={"X-Canary": canary} if canary else {})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["model_version"])


async def compared(app: App, client: Client) -> dict[str, Any]:
    """The state of the shadow once nothing waits."""
    assert app.shadow
    while app.shadow._working:
        await app.shadow._working
    status: dict[str, Any] = (await client.get("/api/shadow")).json()
    return status


def broken(monkeypatch: pytest.MonkeyPatch, content: FloatArray | Exception) -> None:
    """Version 2, which has a bias, answers otherwise than when it was loaded."""
    q_values = OnnxPolicy.q_values

    def other(policy: OnnxPolicy, observation: npt.NDArray[np.floating], mask: Mask | None = None) -> FloatArray:
        right = q_values(policy, observation, mask)
        if right.mean() < 1:
            return right
        if isinstance(content, Exception):
            raise content
        return content

    monkeypatch.setattr(OnnxPolicy, "q_values", other)
