"""Vector implementations of every autoreset mode: they are used as what they are, or their single environments are."""

from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from dqn.environments.making import make, make_vec
from dqn.environments.spec import Environment, EnvironmentUnsupportedError
from dqn.evaluation.returns import episodic_returns
from tests.support.dqn.spaces import LENGTH, SPACES, Shown
from tests.support.dqn.vector import make as make_training
from tests.support.dqn.vector import play, same

MODES = list(AutoresetMode)
MADE: list[Any] = []


def single(**_: Any) -> Shown:
    return Shown(SPACES["image"])


def several(mode: AutoresetMode) -> Any:
    def made(num_envs: int, **_: Any) -> VectorEnv[Any, Any, Any]:
        envs = SyncVectorEnv([single] * num_envs, autoreset_mode=mode)
        MADE.append(envs)
        return envs

    return made


@pytest.fixture(params=MODES, ids=lambda mode: mode.name)
def registered(request: pytest.FixtureRequest) -> Iterator[str]:
    gym.register("Mode-v0", single, max_episode_steps=LENGTH, vector_entry_point=several(request.param))
    gym.register("Plain-v0", single, max_episode_steps=LENGTH)
    MADE.clear()
    yield "Mode-v0"
    gym.registry.pop("Mode-v0")
    gym.registry.pop("Plain-v0")


def test_its_transitions_are_those_of_its_single_environments(registered: str) -> None:
    """Through several ends of episodes: no transition joins two of them, and none is lost or counted twice."""
    own, plain = make_training(registered), make_training("Plain-v0")
    transitions = play(own, 3 * LENGTH)
    assert MADE, "the vector implementation was tried"
    assert same(transitions, play(plain, 3 * LENGTH))
    assert sum(int(each.terminated.sum()) for each in transitions) == 3 * 4 * (3 * LENGTH // (LENGTH + 1))
    for each in (own, plain):
        each.select(torch.tensor([0, 2]))
    assert same(play(own, LENGTH), play(plain, LENGTH))
    for each in (own, plain):
        each.close()


def test_its_returns_are_those_of_its_single_environments(registered: str) -> None:
    def act(observation: Any) -> Any:
        return (observation[:, 0, 0, 0] == 0).astype(int)

    returns = [episodic_returns(act, name, num_episodes=9, seed=3).tolist() for name in (registered, "Plain-v0")]
    assert returns[0] == returns[1]


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
def test_one_without_single_environments_is_refused_in_a_sentence(mode: AutoresetMode) -> None:
    gym.register("Alone-v0", None, max_episode_steps=LENGTH, vector_entry_point=several(mode))
    try:
        for attempt in (make, lambda name: make_vec(name, num_envs=2)):
            with pytest.raises(
                EnvironmentUnsupportedError, match=r"^environment 'Alone-v0' has a vector .* entry_point=$"
            ):
                attempt("Alone-v0")
    finally:
        gym.registry.pop("Alone-v0")


def test_a_function_that_makes_several_is_refused_in_a_sentence() -> None:
    made: Any = several(AutoresetMode.SAME_STEP)
    environment = Environment(env_id="Mine", factory=lambda: made(2), max_episode_steps=3)
    with pytest.raises(
        EnvironmentUnsupportedError, match=r"^environment 'Mine' failed in its constructor .*gymnasium\.Env"
    ):
        make_vec(environment, num_envs=2)
