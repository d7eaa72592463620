"""The training that runs now, as its run shows it: what is asked for, when, and what a client is told."""

import asyncio
import json
import threading
from typing import Any

import msgspec
import pytest
from starlette.testclient import TestClient

from serving.application import App
from serving.episodes import training as module
from serving.episodes.training import Seen, Training, newest
from serving.errors import PolicyError, RegistryUnavailableError, UnknownModelError
from serving.models.follower import Models
from serving.models.mlflow import RegistrySource
from serving.models.source import RunningTraining
from tests.serving.conftest import MODEL, LocalRegistry
from tests.support.serving.inprocess import MemoryRegistry, two_versions
from tests.support.serving.policies import ACROBOT, BALANCES, FALLS, SWINGS, linear_model
from tests.support.serving.trainings import NOW, population, running


def registry() -> MemoryRegistry:
    found = two_versions()
    found.running = [running()]
    found.populations["r"] = population(linear_model(FALLS), linear_model(BALANCES, bias=5))
    return found


class Watched:
    """A training that is watched with a clock in the test's hand."""

    def __init__(self, source: MemoryRegistry | None = None, **options: Any) -> None:
        self.now = NOW
        self.source = source or registry()
        self.training = Training(Models(self.source, alias="champion", version=None), clock=lambda: self.now, **options)

    def look(self) -> Seen:
        self.now += 100
        self.source.running = [
            running(f"{each.live.partition(' ')[0]} {self.now:.0f}") if each.live else each
            for each in self.source.running
        ]
        return asyncio.run(self.training.look())


def test_a_running_training_is_told_with_its_curves_and_its_poles() -> None:
    watched = Watched(mlflow_url="http://m")
    seen = watched.look()
    assert (seen.why, seen.title) == ("", "A training runs: cartpole")
    assert seen.said == "Update 900 of 4,000 at most, 1 of 2 agents solved it, mean return 20.5."
    assert seen.url == "http://m/#/experiments/7/runs/r"
    assert seen.population
    assert [(agent.curve, agent.model) for agent in seen.population.agents] == [([(1_000, 20.5)], b"")] * 2
    poles = asyncio.run(watched.training.poles())
    falls, balances = poles.poles
    assert falls.terminated
    assert len(falls.states) < 100 < len(balances.states)
    assert falls.states[0] == balances.states[0], "from the same start"
    assert abs(falls.states[-1][1]) > 0.2
    assert asyncio.run(watched.training.poles()) is poles, "each state is played once"


def test_a_state_is_read_once_and_a_look_is_shared_for_two_seconds() -> None:
    watched = Watched()
    asked: list[str] = []
    trainings, read = watched.source.trainings, watched.source.population
    watched.source.trainings = lambda: asked.append("look") or trainings()  # type: ignore[func-returns-value, method-assign]
    watched.source.population = lambda each: asked.append("read") or read(each)  # type: ignore[func-returns-value, method-assign, assignment]
    watched.look()
    watched.look()
    assert asked == ["look", "read", "look"]
    first = asyncio.run(watched.training.look())
    watched.now += module.LOOK_SECONDS - 0.1
    assert asyncio.run(watched.training.look()) is first
    assert len(asked) == 3
    watched.source.running = [running("1050 1")]
    watched.source.populations["r"] = population(updates=1_050)
    seen = watched.look()
    assert asked[3:] == ["look", "read"]
    assert (seen.said[:12], seen.poles) == ("Update 1,050", "r 1050")
    watched.source.running = []
    watched.look()
    watched.now += module.SELDOM_SECONDS - 0.1
    asyncio.run(watched.training.look())
    assert asked[5:] == ["look"], "seldom while none runs"


def test_nothing_is_asked_without_a_listener() -> None:
    source = registry()
    source.trainings = lambda: pytest.fail("asked")  # type: ignore[method-assign]
    app = App(Models(source, alias="champion", version=None))
    with TestClient(app.asgi, base_url="http://localhost") as client:
        client.get("/api/status")
        assert client.head("/api/training").headers["content-type"].startswith("text/event-stream")
        missing = client.get("/api/training/poles")
        assert (missing.status_code, missing.json()["error"]) == (404, "nothing was looked for yet")


def test_events_come_when_something_differs_and_end_with_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.0)
    watched = Watched()

    async def story() -> list[bytes]:
        events = watched.training.events()
        told = [await anext(events), await anext(events)]
        watched.source.running, watched.now = [], watched.now + 100
        told.append(await anext(events))
        watched.training.close()
        return told + [event async for event in events]

    first, second, third = asyncio.run(story())
    assert msgspec.json.decode(first.removeprefix(b"data: "), type=Seen).poles == "r 900"
    assert second == b":\n\n"
    assert msgspec.json.decode(third.removeprefix(b"data: "))["why"] == "no training runs now"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[", "what the run shows of itself is not as training leaves it: "),
        (population(*[b"x"] * 17), "what the run shows of itself is not as training leaves it: "),
        (UnknownModelError("a file has no tracking server"), "a file has no tracking server"),
        (RegistryUnavailableError("it is away"), "it is away"),
    ],
)
def test_what_cannot_be_seen_is_said_in_a_sentence(content: bytes | Exception, said: str) -> None:
    watched = Watched()

    def read(training: RunningTraining) -> bytes:
        if isinstance(content, Exception):
            raise content
        return content

    watched.source.population = read  # type: ignore[method-assign]
    assert watched.look().why.startswith(said)


def test_clients_that_leave_do_not_have_it_asked_again_and_a_thread_that_hangs_is_the_only_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    watched, asked, answer = Watched(), list[int](), threading.Event()
    trainings = watched.source.trainings

    def slow() -> Any:
        asked.append(1)
        answer.wait()
        return trainings()

    watched.source.trainings = slow  # type: ignore[method-assign]

    async def story() -> None:
        for _ in range(3):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(watched.training.look(), 0.01)
        assert len(asked) == 1, "clients left while it was asked"
        monkeypatch.setattr(module, "_LIMIT_SECONDS", 0.01)
        assert watched.training._looking
        watched.training._looking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await watched.training.look()
        for _ in range(3):
            watched.now += module.SELDOM_SECONDS
            assert (await watched.training.look()).why == "the tracking server has not answered within 0.01 s"
        assert len(asked) == 1, "it hangs"
        answer.set()
        while watched.training._asked and not watched.training._asked.done():
            await asyncio.sleep(0)
        watched.now += module.SELDOM_SECONDS
        assert (await watched.training.look()).why == ""

    asyncio.run(story())


@pytest.mark.parametrize("model", [b"none", linear_model(SWINGS, properties=ACROBOT, actions=3)])
def test_networks_that_cannot_be_drawn_are_refused_and_tried_once(
    model: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Watched()
    watched.source.populations["r"] = population(model)
    assert watched.look().poles
    with pytest.raises(ValueError, match=r"poles are CartPole's|not a loadable ONNX model"):
        asyncio.run(watched.training.poles())
    monkeypatch.setattr(module, "_play", lambda *_: pytest.fail("tried again"))
    with pytest.raises(ValueError, match=r"poles are CartPole's|not a loadable ONNX model"):
        asyncio.run(watched.training.poles())


def test_a_training_has_begun_before_its_first_state_and_is_tested_after_its_last() -> None:
    watched = Watched()
    watched.source.running = [running("", started=NOW + 90)]
    seen = watched.look()
    assert (seen.said, seen.population, seen.poles) == ("It has begun.", None, "")
    with pytest.raises(UnknownModelError, match="no networks of this training can be drawn"):
        asyncio.run(watched.training.poles())
    watched.source.running = [running(f"900 {NOW + 200:.0f}", trained=True)]
    watched.now += 100
    assert asyncio.run(watched.training.look()).title == "Trained, and being tested: cartpole"


@pytest.mark.parametrize(
    ("ago", "trained", "heard", "found"),
    [
        (119, False, True, True),
        (121, False, True, False),
        (899, True, True, True),
        (901, True, True, False),
        (119, False, False, True),
        (121, False, False, False),
    ],
)
def test_a_training_that_was_killed_is_not_taken_for_one_that_runs(
    ago: int, trained: bool, heard: bool, found: bool
) -> None:
    older = running(f"0 {NOW:.0f}", run_id="older")
    given = {"live": f"5 {NOW - ago:.0f}"} if heard else {"live": "", "started": NOW - ago}
    latest = newest([running(**given, trained=trained), older], NOW)
    assert latest
    assert latest.run_id == ("r" if found else "older")
    assert newest([], NOW) is None


def test_trainings_are_found_in_the_tracking_store(registry: LocalRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    client = mlflow.MlflowClient()
    source = RegistrySource(MODEL)
    assert source.trainings() == []
    experiment = client.get_experiment_by_name("dqn")
    assert experiment
    for env_id, tags in (
        ("CartPole-v1", {"population": "2 agents"}),
        ("CartPole-v1", {}),
        ("Acrobot-v1", {"population": "1 agents"}),
    ):
        run_id = client.create_run(experiment.experiment_id, tags=tags, run_name="name").info.run_id
        client.log_param(run_id, "env_id", env_id)
        client.log_dict(run_id, {"run": run_id}, "live/population.json")
    (found,) = source.trainings()
    assert (found.name, found.trained, found.live) == ("name", False, "")
    assert json.loads(source.population(found)) == {"run": found.run_id}
    client.set_tag(found.run_id, "live", "5 6")
    client.set_tag(found.run_id, "trained", "true")
    (found,) = source.trainings()
    assert (found.trained, found.live) == (True, "5 6")
    monkeypatch.setattr("serving.models.mlflow._LIVE_BYTES", 5)
    with pytest.raises(PolicyError, match="shows of itself has"):
        source.population(found)
    client.set_terminated(found.run_id)
    assert source.trainings() == []
