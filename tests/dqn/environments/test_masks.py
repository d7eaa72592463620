"""Action masks as environments return them."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from dqn.environments.making import has_action_mask, make, make_vec
from dqn.environments.masks import action_masks
from dqn.environments.snapshot import why_not_capturable
from dqn.environments.spec import EnvironmentUnsupportedError
from dqn.environments.world import World
from dqn.evaluation.returns import episodic_returns
from dqn.experience.vector import VectorEnvironment
from dqn.finite import EnvironmentFaultError
from tests.support.dqn.masked import ACTIONS, BROKEN, CORRIDOR, Broken, counted

ALLOWED = np.array([1, 0, 1, 0, 0, 0], dtype=np.int8)
FAULTS: list[tuple[Any, str]] = [
    (..., r"returned no action_mask \(either reset and every step return one, or none does\)"),
    (np.zeros(ACTIONS, np.int8), "returned an action_mask that allows no action"),
    (np.ones(4, np.int8), r"returned an action_mask of shape \[4\] \(expected 6 entries, int8 or bool"),
    (np.ones((1, ACTIONS), np.int8), r"returned an action_mask of shape \[1, 6\] \(expected 6 entries"),
    (np.array([1, 0, 2, 0, 0, 0], np.int8), "returned an action_mask with the value 2 "),
    (np.array([1, 0, np.nan, 0, 0, 0]), "returned an action_mask with the value nan "),
    ([1, 0, 1, 0, 0, 0], "returned an action_mask of type list "),
    (1, "returned an action_mask of type int64 "),
]


@pytest.mark.parametrize(("answer", "message"), FAULTS)
def test_a_wrong_mask_is_refused_by_environment_field_and_step(
    answer: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Broken, "answer", answer)
    where = r".*, in sub-environment 0 of 2 at step 1$"
    with pytest.raises(EnvironmentFaultError, match=f"^environment '{BROKEN}' {message}{where}"):
        episodic_returns(lambda _, mask: mask.argmax(1), BROKEN, num_episodes=2, seed=0)


def test_masks_of_several_lengths_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = iter([6, 5, 6, 5])
    monkeypatch.setattr(Broken, "answer", lambda *_: np.ones(next(lengths), np.int8))
    refused = f"^environment '{BROKEN}' returned an action_mask of another length .*, at step 1 "
    with pytest.raises(EnvironmentFaultError, match=refused):
        episodic_returns(lambda _, mask: mask.argmax(1), BROKEN, num_episodes=2, seed=0)
    environment = VectorEnvironment(BROKEN, num_agents=1, num_envs=2, seed=0)
    with pytest.raises(EnvironmentFaultError, match=refused):
        environment.step(torch.zeros(1, 2, dtype=torch.int64))
    environment.close()


@pytest.mark.parametrize("mask", [ALLOWED, ALLOWED.astype(bool), ALLOWED.astype(float)])
def test_every_type_of_zeros_and_ones_is_a_mask(mask: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Broken, "answer", mask)
    episodic_returns(lambda _, mask: mask.argmax(1), BROKEN, num_episodes=2, seed=0)


def test_a_mask_that_the_reset_did_not_return_is_refused() -> None:
    masks = {"action_mask": np.ones((1, 2), np.int8)}
    with pytest.raises(
        EnvironmentFaultError, match=r"'X' returned an action_mask that its reset does not return .* 3$"
    ):
        action_masks(masks, "X", num_actions=2, terminated=np.array([False]), step=3, masked=False)


def test_the_mask_after_a_terminated_episode_is_not_read() -> None:
    envs = gym.vector.SyncVectorEnv([lambda: gym.make(CORRIDOR)] * 2)
    envs.reset(seed=0)
    illegal = np.array([1, 0])  # ends the first episode; Corridor then returns no mask
    *_, terminated, _, info = envs.step(illegal)
    envs.close()
    assert info["_action_mask"].tolist() == [False, True]
    found = action_masks(info, CORRIDOR, num_actions=ACTIONS, terminated=terminated, step=1, masked=True)
    assert found is not None
    assert found.tolist() == [[True] * 6, [False, True, True, False, False, False]]


def test_environments_with_masks_are_known() -> None:
    assert has_action_mask(CORRIDOR)
    assert not has_action_mask("CartPole-v1")


def test_a_snapshot_is_tried_with_allowed_actions() -> None:
    with counted():
        assert why_not_capturable(lambda: make_vec(CORRIDOR, num_envs=1), ACTIONS) is None


def test_a_world_does_not_delay_the_actions_of_an_environment_with_masks() -> None:
    env = make(CORRIDOR)
    env.reset(seed=0)
    refused = "Corridor-v0 has an action mask, and an action that was allowed .*action_delay must be 0"
    with pytest.raises(EnvironmentUnsupportedError, match=refused):
        env.change(World(action_delay=1))
    with pytest.raises(EnvironmentUnsupportedError, match=refused):
        make(CORRIDOR, World(action_delay=(0, 2))).reset(seed=0)
    env.change(World(sensor_bias=(0.1,) * 5))
    env.close()
