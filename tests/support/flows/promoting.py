"""A registry on disk in which versions are promoted, and fixtures that make a promotion quick."""

from contextlib import nullcontext, suppress
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from dqn.environments.world import World
from dqn.evaluation.returns import Act, episodic_returns
from dqn.stress.robustness import CELLS, StressTest
from flows.registry import versions
from flows.registry.lock import PROMOTION_TAG
from flows.registry.versions import CHALLENGER, CHAMPION, PREVIOUS
from flows.reporting import animations

LOST = np.zeros((len(CELLS), 100), dtype=np.bool_)


def began(store: MlflowClient, name: str) -> str:
    store.set_registered_model_tag(name, PROMOTION_TAG, "this")
    return "this"


def aliases(store: MlflowClient, name: str) -> list[int | None]:
    return [versions.version_of(store, name, alias) for alias in (CHAMPION, PREVIOUS, CHALLENGER)]


@pytest.fixture
def empty_store(store: MlflowClient) -> MlflowClient:
    """The registry without CartPole's model: a version's number decides on its episodes."""
    with suppress(MlflowException):
        store.delete_registered_model("dqn-CartPole-v1")
    return store


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What was emitted by promotions in a flow run; their lock, which takes Prefect, is open."""
    emitted: list[dict[str, Any]] = []

    def emit(event: str, *, resource: dict[str, str], payload: dict[str, Any]) -> None:
        emitted.append({"event": event, **resource, **payload})

    monkeypatch.setattr("prefect.events.emit_event", emit)
    monkeypatch.setattr("flows.registry.champion.flow_run_id", lambda: "a flow run")
    monkeypatch.setattr("flows.registry.lock.promotion_lock", lambda name: nullcontext())
    return emitted


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stress test that only asks whether an episode lasts, and no animation: what they show is tested elsewhere."""

    def held(act: Act, world: World, *, episodes: int, seed: int) -> StressTest:
        returns = episodic_returns(act, "CartPole-v1", world, num_episodes=episodes, seed=seed)
        return StressTest(balanced=np.tile(returns == 500, (len(CELLS), 1)), push=60)

    monkeypatch.setattr("flows.registry.evaluation.stress_test", held)
    monkeypatch.setattr(
        "flows.registry.evaluation.stressed_baselines", lambda *_, **__: {"LQR": StressTest(balanced=LOST, push=0)}
    )
    monkeypatch.setattr(animations, "episode_gif", lambda *_, **__: None)
