"""How a promoted version is watched, and what follows: it stays, or it is rolled back."""

from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest

from dqn.environments.spec import Environment
from dqn.environments.world import NOMINAL, World
from dqn.seeding import TEST, stream_seed
from flows.adaptation import identify, watch
from flows.adaptation.identify import fetch
from flows.adaptation.watch import elsewhere, is_over, roll_back_from, watched
from flows.registry import versions
from flows.registry.lock import PROMOTION_TAG
from flows.registry.versions import CHAMPION, PREVIOUS
from flows.tracking.attempt import Attempt
from tests.support.flows.adapting import MODEL, REVERSED, Page, adapting
from tests.support.flows.in_memory import in_memory


class Clock:
    """Time that passes in sleep alone."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def time(self) -> float:
        return self.now

    monotonic = time

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in (identify, watch):
        monkeypatch.setattr(module, "time", clock)
    return clock


def played(*returns: float, version: int = 2, ended_at: float = 1001.0) -> list[dict[str, Any]]:
    return [
        {
            "version": str(version),
            "episodic_return": each,
            "disturbed": False,
            "ended_at": ended_at,
            "truncated": each == 500,
        }
        for each in returns
    ]


def seen(*episodes: dict[str, Any]) -> dict[str, Any]:
    return {"recent_episodes": list(episodes), "episode": None}


FELL = played(10.0, 30.0)
AWAY = httpx.ConnectError("starting again")


@pytest.mark.parametrize(
    ("statuses", "before", "stage", "said", "slept"),
    [
        ([seen(*played(500.0))], 1, "recovered", "version 2 balances", 0),
        ([AWAY, seen(*played(9.0)), seen(*played(9.0, 500.0))], 1, "recovered", "version 2 balances", 2),
        ([seen(*FELL, *played(21.0, version=1))], 1, "rolled back", "returned 20 on stage, version 1 21: version 7", 0),
        ([seen(*FELL, *played(20.0, version=1))], 1, "refused", "version 2 does not balance (mean return 20); it", 0),
        ([seen(*FELL, *played(19.0, version=1))], 1, "refused", "the one before was no better. A person", 0),
        ([seen(*FELL)], 1, "refused", "the one before has returned nothing since the change", 0),
        (  # what the one before returned before the change is no reason to return to it
            [seen(*FELL, *played(19.0, version=1), *played(500.0, version=1, ended_at=999.0))],
            1,
            "refused",
            "the one before was no better",
            0,
        ),
        (
            [seen(*FELL, *played(500.0, 500.0, version=1, ended_at=999.0))],
            1,
            "refused",
            "the one before has returned nothing since the change",
            0,
        ),
        (  # and what it returned between the change and the promotion is
            [
                {
                    **seen(
                        *FELL,
                        *played(400.0, version=1, ended_at=901.0),
                        *played(19.0, version=1, ended_at=902.0),
                    ),
                    "drift": {"id": "d", "noticed_at": 900.0},
                }
            ],
            1,
            "refused",
            "the one before was no better",
            0,
        ),
        (
            [
                {
                    **seen(
                        *FELL,
                        *played(500.0, version=1, ended_at=899.0),
                        *played(400.0, version=1, ended_at=901.0),
                        *played(21.0, version=1, ended_at=902.0),
                    ),
                    "drift": {"id": "d", "noticed_at": 900.0},
                }
            ],
            1,
            "rolled back",
            "returned 20 on stage, version 1 21",
            0,
        ),
        ([seen(*FELL, *played(500.0, ended_at=999.0))], 2, "refused", "it stays", 0),
        ([seen(*FELL)], None, "refused", "it stays", 0),
        ([seen(*played(500.0, version=1))], 1, "waiting", "has played no episode", 120),
        ([AWAY], 1, "waiting", "has played no episode", 120),
        ([seen(*played(10.0))], 1, "refused", "it stays", 120),
    ],
)
def test_a_version_is_watched_for_a_minute_and_goes_where_another_did_better(
    statuses: list[Any],
    before: int | None,
    stage: str,
    said: str,
    slept: int,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watch, "roll_back_from", lambda model, version: 7)
    adaptation = adapting(Page(*statuses))
    ended, text = watched(adaptation, MODEL, 2, before, REVERSED)
    assert (ended, clock.slept) == (stage, [0.5] * slept)
    assert said in text
    assert [event.text for event in adaptation.events if event.stage == "watching"] == ["starting again"] * (
        statuses.count(AWAY) * max(slept, 1) if statuses[-1] is AWAY else statuses.count(AWAY)
    )


@pytest.mark.parametrize(
    ("counts", "kept", "slept"), [([60], 60, 0), ([0, 59, 61], 61, 2), ([59], 59, 61), ([0], 0, 61)]
)
def test_half_a_minute_is_waited_for_sixty_transitions(
    counts: list[int], kept: int, slept: int, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = in_memory(monkeypatch, "flows.adaptation.identify")
    run_id = store.create_run("1", {"attempt": "t"}).info.run_id
    page = Page(*counts)
    monkeypatch.setattr(identify, "Show", lambda url, drift: page)
    found = fetch.fn("http://127.0.0.1:9", 7, Attempt(run_id=run_id, token="t"))
    assert found == (f"memory:/{run_id}/experience/since-7.json", kept, 7 + kept)
    assert set(page.asked) == {7}
    assert clock.slept == [0.5] * slept
    assert len(store.files[run_id]["experience/since-7.json"]["transitions"].get("id", ())) == kept


@pytest.mark.parametrize(
    ("status", "over"), [({"drift": None}, True), ({"drift": {"id": "d"}}, False), ({}, False), (AWAY, False)]
)
def test_it_is_over_where_the_server_says_so(status: Any, over: bool) -> None:
    adaptation = adapting(Page(status))
    assert is_over(adaptation) is over
    assert [event.stage for event in adaptation.events] == ["asking"] * (status is AWAY)


@pytest.mark.parametrize(
    ("aliases", "plays", "rolled_back"),
    [({CHAMPION: 2, PREVIOUS: 1}, 1, True), ({CHAMPION: 3, PREVIOUS: 1}, 3, False), ({PREVIOUS: 1}, 1, True)],
)
def test_only_the_version_that_did_not_stand_is_rolled_back(
    aliases: dict[str, int], plays: int, rolled_back: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = in_memory(monkeypatch, "flows.adaptation.watch")
    for _ in range(3):
        store.version({})
    store.aliases = dict(aliases)
    assert roll_back_from.fn(MODEL, 2) == plays
    assert (store.aliases == aliases) is not rolled_back
    assert PROMOTION_TAG in store.tags


@pytest.mark.parametrize(("before", "numbers"), [(None, [2]), (2, [2]), (1, [2, 1])])
def test_how_both_do_in_the_nominal_world_is_noted(
    before: int | None, numbers: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(name: str, version: int) -> Any:
        metadata = SimpleNamespace(env_id="CartPole-v1", environment=Environment(env_id="CartPole-v1"))
        return SimpleNamespace(policy=SimpleNamespace(metadata=metadata, version=version))

    def play(policy: Any, world: World, *, seed: int) -> Any:
        assert (world, seed) == (NOMINAL, stream_seed(policy.version, TEST, 1))
        return np.array([100.0 * policy.version, 0.0])

    monkeypatch.setattr(versions, "download", download)
    monkeypatch.setattr(watch, "play", play)
    played = ", ".join(f"version {number} returns {50 * number}" for number in numbers)
    assert elsewhere(MODEL, 2, before) == f"in the nominal world {played}; threshold 475"
