"""A challenger in the shadow of the version that plays."""

import itertools
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest

from dqn.environments.masks import MASKED_Q, Mask
from serving.application import App
from serving.inference import shadow as shadows
from serving.metrics.shadow import ShadowCounts
from serving.policy import FloatArray, OnnxPolicy
from tests.support.serving.clients import samples
from tests.support.serving.faulty import BAD, Registry
from tests.support.serving.policies import ACROBOT, SWINGS, linear_model
from tests.support.serving.shadowed import OPPOSITE, SAME, Client, answered, compared, story
from tests.support.serving.stepped import joined


@pytest.fixture(autouse=True)
def _without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shadows, "_PAUSE", 0)


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


def test_a_batch_is_no_larger_than_every_version_has_answered_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    async def tell(app: App, client: Client, registry: Registry) -> None:
        sizes: list[int] = []
        q_values, challenger = OnnxPolicy.q_values, app.models.peek("challenger")
        assert challenger

        def sized(policy: OnnxPolicy, observation: npt.NDArray[np.floating], mask: Mask | None = None) -> FloatArray:
            sizes.extend([len(observation)] * (policy is challenger.policy))
            return q_values(policy, observation, mask)

        monkeypatch.setattr(OnnxPolicy, "q_values", sized)
        await answered(client, rows=100)
        await answered(client, rows=30)
        status = await compared(app, client)
        assert (status["steps"], status["agreed"]) == (130, 130)
        assert sizes == [64, 36, 64, 64, 2]

    story(tell, SAME)


def test_a_champion_whose_answer_is_not_finite_is_not_compared() -> None:
    async def tell(app: App, client: Client, registry: Registry) -> None:
        served = app.models.current
        assert served
        assert app.shadow
        q_values = np.array([[0, 1], [np.nan, 1]], np.float32)
        app.shadow.offer(served, np.zeros((2, 4), np.float32), q_values, "show")
        status = await compared(app, client)
        assert (status["steps"], status["errors"], status["weighted_agreement"]) == (1, 0, pytest.approx(0))

    story(tell, SAME)
