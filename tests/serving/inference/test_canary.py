"""A challenger that answers in the place of the version that plays, until it fails."""

import asyncio
import dataclasses
import itertools
from collections.abc import Iterator

import httpx
import numpy as np
import numpy.typing as npt
import pytest

from dqn.environments.masks import Mask
from dqn.environments.world import NOMINAL
from serving.application import App
from serving.inference import shadow as shadows
from serving.loop.finding import say
from serving.models.follower import Models
from serving.policy import FloatArray, OnnxPolicy
from tests.support.serving.clients import samples
from tests.support.serving.faulty import Registry
from tests.support.serving.shadowed import CHAMPION, INFER, OPPOSITE, SAME, Client, answered, broken, compared, story


@pytest.fixture(autouse=True)
def _without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shadows, "_PAUSE", 0)


def test_a_canary_answers_its_share_and_who_asks_for_it() -> None:
    draws: Iterator[float] = itertools.cycle([0.15, 0.5])

    async def tell(app: App, client: Client, registry: Registry) -> None:
        assert [await answered(client) for _ in range(2)] == ["2", "1"]
        assert await answered(client, canary="1") == "2"
        assert await answered(client, canary="0") == "1"
        assert await answered(client, path="/v2/models/dqn/versions/1/infer", canary="1") == "1"
        status = await compared(app, client)
        assert status["canary"] == {"share": 0.2, "answered": 2, "returned": ""}
        assert (
            samples((await client.get("/metrics")).text, "serving_canary_answered")[
                "serving_canary_answered_total", ("challenger", "2"), ("champion", "1")
            ]
            == 2
        )

    story(tell, SAME, share=0.0, canary_share=0.2, draw=lambda: next(draws))


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (np.full((1, 2), np.nan, np.float32), "version 2 failed: RequestError: the observation is so large that"),
        (RuntimeError("a kernel"), "version 2 failed: RuntimeError: a kernel"),
    ],
)
def test_a_canary_that_fails_is_returned_until_the_alias_moves(
    content: FloatArray | Exception, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def tell(app: App, client: Client, registry: Registry) -> None:
        refused = await client.post(INFER, json={}, headers={"X-Canary": "1"})
        assert refused.status_code == 400
        assert (await compared(app, client))["errors"] == 0, "the fault was the request's"
        broken(monkeypatch, content)
        assert await answered(client, canary="1") == "1", "the champion answers in its place"
        monkeypatch.undo()
        assert await answered(client, canary="1") == "1", "it stays returned"
        status = await compared(app, client)
        assert status["errors"] == 1
        assert status["canary"]["returned"].startswith(why)
        assert (
            samples((await client.get("/metrics")).text, "serving_canary_returned")[
                "serving_canary_returned", ("challenger", "2"), ("champion", "1")
            ]
            == 1
        )
        registry.aliases["challenger"] = "3"
        await app.models.poll()
        assert await answered(client, canary="1") == "3"

    story(tell, SAME, SAME, share=0.0)


@pytest.mark.parametrize("canary", ["1", "0"])
def test_a_failure_counts_for_the_version_that_failed_although_the_alias_moves_meanwhile(
    canary: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def tell(app: App, client: Client, registry: Registry) -> None:
        models, shadow = app.models, app.shadow
        assert shadow
        await models.get("3")
        q_values, asked = OnnxPolicy.q_values, models.peek("challenger")

        def moves(policy: OnnxPolicy, observation: npt.NDArray[np.floating], mask: Mask | None = None) -> FloatArray:
            if asked and policy is asked.policy:
                models.snapshot = dataclasses.replace(models.snapshot, aliases={"champion": "1", "challenger": "3"})
                if canary == "1":
                    shadow.status()  # which notices it
                raise RuntimeError("a kernel")
            return q_values(policy, observation, mask)

        monkeypatch.setattr(OnnxPolicy, "q_values", moves)
        assert await answered(client, canary=canary) == "1"
        status = await compared(app, client)
        assert (status["challenger"], status["errors"], status["canary"]["returned"]) == ("3", 0, "")
        assert await answered(client, canary="1") == "3"

    story(tell, SAME, SAME, share=float(canary == "0"))


def test_a_failure_in_the_shadow_reaches_no_client_and_returns_the_canary(monkeypatch: pytest.MonkeyPatch) -> None:
    async def tell(app: App, client: Client, registry: Registry) -> None:
        broken(monkeypatch, np.full((1, 2), np.inf, np.float32))
        assert await answered(client) == "1"
        status = await compared(app, client)
        assert (status["steps"], status["errors"]) == (0, 1)
        assert status["canary"]["returned"] == "version 2 failed: ValueError: its Q-values are not finite"

    story(tell, SAME)


@pytest.mark.parametrize(("challenger", "returned"), [(SAME, False), (OPPOSITE, True)])
def test_a_canary_that_answers_otherwise_is_returned(challenger: bytes, returned: bool) -> None:
    async def tell(app: App, client: Client, registry: Registry) -> None:
        await answered(client, rows=99)
        assert (await compared(app, client))["canary"]["returned"] == "", "too few to say"
        await answered(client)
        why = (await compared(app, client))["canary"]["returned"]
        assert why == ("after 100 steps its weighted agreement is 0.00, below 0.75" if returned else "")

    story(tell, challenger)


def test_a_canary_is_returned_when_the_world_has_changed() -> None:
    async def tell(app: App, client: Client, registry: Registry) -> None:
        assert app.live
        assert app.models.current
        loop = app.live.stage.loop
        loop._notice(app.models.current, say((), NOMINAL, sure=False, transitions=9))
        loop._tell()
        assert loop.drift
        assert await answered(client, canary="1") == "1"
        status = await compared(app, client)
        assert status["canary"]["returned"] == f"the world has changed: {loop.drift.finding}"
        registry.aliases["challenger"] = "3"
        await app.models.poll()
        loop._tell()
        assert await answered(client, canary="1") == "3", "it may be trained for that world"

    story(tell, SAME, SAME, show=True)


def test_without_the_option_there_is_no_shadow() -> None:
    async def run() -> None:
        models = Models(Registry(CHAMPION, SAME), alias="champion", version=None)
        await models.poll()
        app = App(models, show=False)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app.asgi), base_url="http://localhost") as client:
            assert await answered(client, canary="1") == "1"
            assert (await client.get("/api/shadow")).json() is None
            assert not samples((await client.get("/metrics")).text, "serving_shadow")

    asyncio.run(run())
