"""Challenger and champion are compared in the challenger's environment, with its arguments and its time limit."""

import dataclasses
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from dqn.environments.spec import Environment
from dqn.environments.world import NOMINAL
from flows.failures.errors import RegistryError
from flows.registry import evaluation
from flows.registry.champion import play_champion
from serving.policy import OnnxPolicy
from tests.support.serving.policies import PROPERTIES, linear_model

SHORT = {"env_kwargs": '{"sutton_barto_reward": true}', "max_episode_steps": "7"}


def policy_of(**properties: str) -> OnnxPolicy:
    return OnnxPolicy.load(linear_model(properties=PROPERTIES | properties))


def test_a_champion_plays_by_the_arguments_of_its_challenger(monkeypatch: pytest.MonkeyPatch) -> None:
    champion, challenger = policy_of(), policy_of(**SHORT)
    artifact = SimpleNamespace(policy=champion)
    monkeypatch.setattr("flows.registry.versions.download", lambda *_: artifact)
    played = play_champion("dqn-CartPole-v1", 1, challenger.metadata, seed=3, stressed=False)
    assert played.returns is not None
    own = evaluation.play(champion, NOMINAL, seed=3, environment=challenger.metadata.environment)
    assert played.returns.tolist() == own.tolist()
    assert set(own.tolist()) <= {0.0, -1.0}, "rewards of Sutton and Barto, in seven steps at most"
    assert evaluation.play(champion, NOMINAL, seed=3).max() > 7


def test_further_episodes_are_of_the_same_environment() -> None:
    champion, environment = policy_of(), policy_of(**SHORT).metadata.environment
    more = evaluation.play_on(champion, NOMINAL, np.zeros(100), version=2, episodes=110, environment=environment)
    assert set(more[100:].tolist()) <= {0.0, -1.0}


def test_a_version_that_cannot_play_there_is_refused_in_a_sentence() -> None:
    artifact: Any = SimpleNamespace(policy=policy_of())
    environment = Environment(env_id="CartPole-v1", max_episode_steps=9)
    evaluation.require_playable(artifact, environment)
    image = dataclasses.replace(artifact.policy.metadata, observation_shape=(2, 2, 1))
    artifact.policy.metadata = image
    with pytest.raises(
        RegistryError, match="takes 2 x 2 x 1 numbers and chooses among 2 actions; CartPole-v1 has 4 and"
    ):
        evaluation.require_playable(artifact, environment)
