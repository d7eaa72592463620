"""Versions that may be promoted, in a registry in memory."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from dqn.environments.world import World
from dqn.stress.robustness import CELLS, StressTest
from flows.failures.errors import RegistryError
from flows.registry import champion as module
from flows.registry import versions
from flows.registry.evaluation import SEED_TAG
from flows.registry.versions import CHALLENGER, CHAMPION, DIGEST_TAG
from serving.policy import PolicyMetadata
from tests.support.flows.in_memory import ROOT, in_memory

NAME = "dqn-CartPole-v1"


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Three versions of one run: 1 returns 480, 2 and 3 return 500, and 3 holds all under stress; 1 is champion."""
    store: Any = in_memory(monkeypatch, "flows.registry.champion")
    run = store.create_run("1", {})
    for seed in (10, 20, 30):
        store.version({SEED_TAG: str(seed), DIGEST_TAG: "digest"}, run.info.run_id)
    store.aliases = {CHAMPION: 1, CHALLENGER: 3}
    store.broken, store.played, store.environments, store.files[run.info.run_id] = set(), [], {}, {}

    def download(name: str, version: int) -> Any:
        metadata = PolicyMetadata(
            env_id=store.environments.get(version, "CartPole-v1"),
            action_meanings=("left", "right"),
            run_id="",
            seed=0,
            config_sha256="",
            observation_shape=(4,),
        )
        digest = "another" if version in store.broken else "digest"
        policy = SimpleNamespace(metadata=metadata, version=version)
        return versions.Artifact(name=name, version=version, policy=policy, content=b"", sha256=digest)  # type: ignore[arg-type]

    def playable(artifact: Any, env_id: str) -> None:
        if artifact.version in store.broken:
            raise RegistryError(f"version {artifact.version} is damaged")

    def play(policy: Any, world: World, *, seed: int, episodes: int = 100, environment: Any = None) -> Any:
        store.played.append(("returns", policy.version, world, seed))
        return returns_of(policy.version, episodes)

    def under_stress(policy: Any, world: World, *, seed: int) -> StressTest:
        store.played.append(("stress", policy.version, world, seed))
        return stress_of(policy.version)

    monkeypatch.setattr(versions, "download", download)
    monkeypatch.setattr(module, "require_playable", playable)
    monkeypatch.setattr(module, "play", play)
    monkeypatch.setattr("flows.registry.evaluation.play", play)
    monkeypatch.setattr(module, "under_stress", under_stress)
    monkeypatch.setattr("prefect.events.emit_event", lambda *_, **__: pytest.fail("no flow run goes on here"))
    return store


def evaluated(store: Any, version: int, *, stressed: bool = True) -> str:
    stress = stress_of(version).to_dict() if stressed else None
    run_id = store.versions[version].run_id
    seed = int(store.versions[version].tags[SEED_TAG])
    store.files[run_id][EVALUATION] = {"returns": returns_of(version).tolist(), "stress": stress, "seed": seed}
    return f"{ROOT}/{run_id}/{EVALUATION}"


EVALUATION = "evaluation.json"


def returns_of(version: int, episodes: int = 100) -> Any:
    return np.full(episodes, 480.0 if version == 1 else 500.0)


def stress_of(version: int) -> StressTest:
    return StressTest(balanced=np.full((len(CELLS), 100), version == 3), push=10 * version)
