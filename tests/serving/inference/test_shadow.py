"""A challenger in the shadow of the version that plays, and as a canary in its place."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import pytest

from dqn.environments.masks import MASKED_Q, Mask
from dqn.environments.world import NOMINAL
from serving.application import App
from serving.inference import shadow as shadows
from serving.inference.shadow import Shadow
from serving.loop.finding import say
from serving.metrics.shadow import ShadowCounts
from serving.models.follower import Models
from serving.policy import FloatArray, OnnxPolicy
from tests.support.serving.clients import infer, samples
from tests.support.serving.faulty import BAD, Registry
from tests.support.serving.policies import ACROBOT, BALANCES, SWINGS, linear_model
from tests.support.serving.stepped import joined

INFER = "/v2/models/dqn/infer"
CHAMPION = linear_model(BALANCES)
SAME = linear_model(BALANCES, bias=2)
OPPOSITE = linear_model([-gain for gain in BALANCES])
Client = httpx.AsyncClient


@pytest.fixture(autouse=True)
def _without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shadows, "_PAUSE", 0)


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


def test_a_share_of_requests_is_answered_in_the_shadow_and_compared() -> None:
    draws: Iterator[float] = itertools.cycle([0.05, 0.15, 0.95])

    async def tell(app: App, client: Client, registry: Registry) -> None:
        assert [await answered(client, rows=3) for _ in range(6)] == ["1"] * 6
        status = await compared(app, client)
        assert (status["champion"], status["challenger"], status["notice"]) == ("1", "2", "")
        assert (status["steps"], status["agreed"], status["weighted_agreement"]) == (6, 6, 1), "two requests of six"
        assert status["mean_q_difference"] == pytest.approx(2)
        assert status["mean_seconds"] > 0
        metrics = samples((await client.get("/metrics")).text, "serving_shadow")
        pair = ("challenger", "2"), ("champion", "1")
        assert metrics["serving_shadow_steps_total", ("agreed", "true"), *pair, ("source", "requests")] == 6
        assert metrics["serving_shadow_seconds_count", *pair] == 1
        assert metrics["serving_shadow_q_difference_sum", *pair] == pytest.approx(12)

    story(tell, SAME, draw=lambda: next(draws))


def test_disagreement_counts_by_what_is_at_stake() -> None:
    q_values = np.array([[1, 0], [1, 0.9], [0, 2], [0, MASKED_Q]], np.float32)
    shadowed = np.array([[1, 0], [0, 1], [0, 1], [0, 1]], np.float32)
    counts, every = ShadowCounts("1", "2"), np.ones(4, np.bool_)
    counts.add(q_values, shadowed, {"show": every, "requests": ~every})
    assert (counts.agreed, sum(counts.steps.values())) == (2, 4)
    assert counts.weighted_agreement == pytest.approx(1 - 0.1 / 3.1), "what the champion may not do costs nothing"
    assert counts.differences.sum == pytest.approx(0 + 1 + 1 + 0)


def test_every_step_of_the_show_is_compared() -> None:
    async def tell(app: App, client: Client, registry: Registry) -> None:
        show = joined(app)
        for _ in range(4):
            show._tick(0.02)
            status = await compared(app, client)
        assert (status["steps"], status["agreed"]) == (5, 0)
        assert status["weighted_agreement"] == pytest.approx(0)

    story(tell, OPPOSITE, show=True, share=0.0)


def test_nothing_is_compared_without_another_version_that_plays_the_same_and_it_is_said_why() -> None:
    async def tell(app: App, client: Client, registry: Registry) -> None:
        for target, notice in (
            ("3", "version 3 plays Acrobot-v1 with other inputs or actions"),
            ("1", "'challenger' is version 1, which plays"),
            ("4", "version 4 is being fetched, or was refused: the log says why"),
            ("5", "the registry has no version or alias 'challenger'"),
        ):
            registry.aliases["challenger"] = target
            await app.models.poll()
            assert await answered(client, canary="1") == "1"
            status = await compared(app, client)
            assert (status["steps"], status["notice"]) == (0, notice)

    story(tell, SAME, linear_model(SWINGS, properties=ACROBOT, actions=3), BAD["garbage"])


@pytest.mark.parametrize(("steps", "size", "kept"), [(101, 10**6, 101), (10**6, 100 * 16, 100)])
def test_waiting_samples_are_bounded_and_what_is_dropped_is_counted(
    steps: int, size: int, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shadows, "_WAITING_STEPS", steps)
    monkeypatch.setattr(shadows, "_WAITING_BYTES", size)

    async def tell(app: App, client: Client, registry: Registry) -> None:
        assert app.shadow
        served = app.models.current
        assert served
        for rows in (90, 11, 10, 1):
            app.shadow.offer(served, np.zeros((rows, 4), np.float32), np.zeros((rows, 2), np.float32), "requests")
        status = await compared(app, client)
        assert (status["steps"], status["dropped"]) == (kept, 112 - kept)
        app.shadow.offer(served, np.zeros((1, 4), np.float32), np.zeros((1, 2), np.float32), "requests")
        assert (await compared(app, client))["steps"] == kept + 1, "there is room again"

    story(tell, SAME)


def test_counts_begin_anew_when_one_of_the_versions_moves() -> None:
    async def tell(app: App, client: Client, registry: Registry) -> None:
        await answered(client)
        assert (await compared(app, client))["steps"] == 1
        registry.aliases["challenger"] = "3"
        await app.models.poll()
        status = await compared(app, client)
        assert (status["challenger"], status["steps"]) == ("3", 0)
        await answered(client)
        registry.aliases["champion"] = "2"
        await app.models.poll()
        status = await compared(app, client)
        assert (status["champion"], status["challenger"], status["steps"]) == ("2", "3", 0), "what waited is of 1"

    story(tell, SAME, OPPOSITE)


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
