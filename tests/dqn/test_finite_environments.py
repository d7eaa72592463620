"""An environment that returns what is not finite is named, and ends the run."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dqn.evaluation.returns import episodic_returns
from dqn.finite import EnvironmentFaultError
from dqn.training.loop import train
from dqn.training.selection import leave
from dqn.training.state import TrainingState
from dqn.training.steps import collect
from tests.support.dqn.finite import CONFIGS, ENVS, VALUES, agents, configs


@settings(max_examples=20, deadline=None)
@given(
    name=configs,
    field=st.sampled_from(["observation", "reward"]),
    agent=agents,
    env=st.integers(0, ENVS - 1),
    step=st.integers(1, 10),
    value=st.sampled_from([*VALUES, 1e39, -1e300]),
)
def test_what_an_environment_gives_is_finite_or_ends_the_run_in_a_sentence(
    name: str, field: str, agent: int, env: int, step: int, value: float
) -> None:
    config = CONFIGS[name]
    state = TrainingState.begin(config)
    envs, taken = state.environment._envs, list[int]()
    original = envs.step

    def faulty(action: Any) -> Any:
        observation, reward, *others = original(action)
        taken.append(1)
        if len(taken) == step:
            observation, reward = np.array(observation, np.float64), np.array(reward, np.float64)
            (observation if field == "observation" else reward[:, np.newaxis])[agent * ENVS + env, 0] = value
        return observation, reward, *others

    setattr(envs, "step", faulty)  # noqa: B010 # of this one alone
    with pytest.raises(EnvironmentFaultError) as caught:
        train(config, state=state)
    said = str(caught.value)
    assert f"environment {config.env_id!r} returned the {field} {value}" in said
    assert f"in sub-environment {env} of agent {agent:02d} at step {step}: look at its step()" in said


@pytest.mark.parametrize("field", ["observation", "reward", "reset"])
@pytest.mark.parametrize("value", VALUES)
def test_an_episode_of_an_evaluation_is_finite_too(field: str, value: float, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.support.dqn.probes import RandomLength

    original = RandomLength.step
    if field == "reset":
        monkeypatch.setattr(RandomLength, "_start", lambda self: value)
    else:

        def step(self: RandomLength, action: Any) -> Any:
            observation, reward, *others = original(self, action)
            bad = np.array([value], np.float32)
            return (bad, reward, *others) if field == "observation" else (observation, value, *others)

        monkeypatch.setattr(RandomLength, "step", step)
    act: Callable[..., Any] = lambda observation: np.zeros(len(observation), dtype=np.int64)  # noqa: E731
    with pytest.raises(EnvironmentFaultError, match=r"'ProbeRandomLength-v0' returned the .* of 3 at (step|its)"):
        episodic_returns(act, "ProbeRandomLength-v0", num_episodes=3, seed=0)
    if field == "reset":
        with pytest.raises(EnvironmentFaultError, match="of agent 00 at its reset: look at its reset"):
            TrainingState.begin(CONFIGS["plain"])


def test_the_sub_environment_is_named_by_its_agent_after_others_left() -> None:
    state = TrainingState.begin(CONFIGS["plain"])
    collect(state)
    leave(state, torch.tensor([0]))
    state.environment._envs.step = lambda actions: (  # type: ignore[method-assign]
        np.array([[0.0], [0.0], [0.0], [np.nan]]), np.zeros(4), np.zeros(4, bool), np.zeros(4, bool), {}
    )  # fmt: skip
    with pytest.raises(EnvironmentFaultError, match=r"observation nan in entry 0, .* 1 of agent 02 at step 2:"):
        collect(state)
