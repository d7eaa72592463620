"""Trainings in an environment with action masks: no action that is not allowed is ever taken."""

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dqn.config import DQNConfig
from dqn.environments.spaces import Spaces
from dqn.environments.world import World
from dqn.evaluation.greedy import greedy_returns
from dqn.experience.buffer import ReplayBuffer
from dqn.finite import EnvironmentFaultError
from dqn.networks.bodies.mlp import MLP
from dqn.networks.population import QNetworks
from dqn.policy import evaluate
from dqn.training.checkpoint import load_checkpoint, save_checkpoint
from dqn.training.loop import train
from dqn.training.machine import training_bytes
from dqn.training.state import TrainingState
from dqn.training.steps import advance
from serving.episodes.simulation import play
from serving.policy import OnnxPolicy
from tests.support.dqn.masked import ACTIONS, BEST, BROKEN, CORRIDOR, LENGTH, QUICK, Broken, Corridor, counted
from tests.support.dqn.training import equal

SHORT = dataclasses.replace(QUICK, acceptance_return=None, max_updates=150, eval_interval=50)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"double_dqn": False, "n_step": 1},
        {"priority_exponent": 0.6, "dueling": True, "world": World(sensor_bias=(0.01,) * LENGTH)},
    ],
    ids=["n steps", "plain DQN", "priorities, dueling, a world"],
)
def test_the_corridor_is_solved_without_an_action_that_is_not_allowed(fields: dict[str, Any], tmp_path: Path) -> None:
    config = dataclasses.replace(QUICK, **fields)
    with counted():
        result = train(config)
    assert result.solved_fraction == 1
    with counted():
        assert result.test_returns(20).min() == BEST
    with counted():
        noisy = greedy_returns(result.best, CORRIDOR, config.world, episodes=50, seed=0, epsilon=0.5)
    assert 20 * -1 <= noisy.min() < BEST
    result.export(tmp_path / "policy.onnx")
    with counted():
        assert evaluate(result.policy(), episodes=5).min() == BEST
    with counted():
        steps = list(play(OnnxPolicy.load(tmp_path / "policy.onnx"), seed=3))
    assert steps[-1].episodic_return == BEST


def test_without_its_masks_an_agent_takes_actions_that_are_not_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests above can fail."""
    monkeypatch.setattr(Corridor, "_info", lambda _: {"action_mask": np.ones(ACTIONS, np.int8)})
    monkeypatch.setattr(Corridor, "step", unmasked_step(Corridor.step))
    before = Corridor.illegal
    train(SHORT)
    assert Corridor.illegal > before


def unmasked_step(step: Any) -> Any:
    def illegal(self: Corridor, action: np.int64) -> Any:
        Corridor.illegal += int(action) not in (self._onward(), (self._onward() + 4) % 5)
        return step(self, action)

    return illegal


def test_a_training_goes_on_from_a_checkpoint_with_the_same_masks(tmp_path: Path) -> None:
    whole = train(SHORT)
    state = TrainingState.begin(SHORT)
    advance(state, 60)
    save_checkpoint(tmp_path / "run.ckpt", state)
    state.environment.close()
    loaded, continues = load_checkpoint(tmp_path / "run.ckpt")
    assert continues
    assert torch.equal(loaded.environment.action_mask, state.environment.action_mask)  # type: ignore[arg-type]
    with counted():
        advance(loaded, 70)
        advance(state, 70)
    for mine, other in zip(loaded.learner.online.tensors, state.learner.online.tensors, strict=True):
        assert torch.equal(mine, other)
    states: list[TrainingState] = []
    saved = tmp_path / "middle.ckpt"

    def keep(state: TrainingState) -> None:
        if state.learner.updates >= 60 and not states:
            states.append(state)
            save_checkpoint(saved, state)

    clock = itertools.count(step=1e9)
    assert equal(train(SHORT, on_checkpoint=keep, now=lambda: float(next(clock))), whole)
    assert equal(train(SHORT, state=load_checkpoint(saved)[0]), whole)


def test_agents_that_stay_keep_their_masks() -> None:
    with counted():
        state = TrainingState.begin(dataclasses.replace(SHORT, num_agents=3))
        advance(state, 20)
        mask = state.environment.action_mask
        assert mask is not None
        state.select(torch.tensor([0, 2]))
        assert torch.equal(state.environment.action_mask, mask[[0, 2]])  # type: ignore[arg-type]
        advance(state, 40)
        state.environment.close()


def test_an_exploratory_action_persists_while_it_is_allowed() -> None:
    config = dataclasses.replace(SHORT, epsilon_end=0.9, exploration_persistence=1.0)
    with counted():
        state = TrainingState.begin(config)
        advance(state, 30)
    assert state.environment.action_mask is not None
    held = state.persisting >= 0
    assert held.any()
    assert state.environment.action_mask.gather(2, state.persisting.clamp_min(0).unsqueeze(2)).squeeze(2)[held].all()
    state.environment.close()


@pytest.mark.parametrize(("answer", "message"), [(..., "no action_mask"), (np.zeros(ACTIONS, np.int8), "allows no")])
def test_a_training_ends_with_the_agent_and_the_step_of_a_wrong_mask(
    answer: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Broken, "answer", answer)
    with pytest.raises(
        EnvironmentFaultError, match=f"'{BROKEN}' .*{message}.*sub-environment 0 of agent 00 at step 1$"
    ):
        train(dataclasses.replace(SHORT, env_id=BROKEN))


def test_the_memory_of_masks_is_counted() -> None:
    config = DQNConfig(num_agents=2, num_envs=3, n_step=2, replay_capacity=2000)
    spaces = Spaces(observation_shape=(4,), num_actions=6)
    plain, masked = (training_bytes(config, dataclasses.replace(spaces, masked=each)) for each in (False, True))
    assert masked == plain + 2 * 2000 * 8 + 2 * 3 * 2 * 6
    state = TrainingState.begin(SHORT)
    assert isinstance(state.replay, ReplayBuffer)
    assert state.replay.nbytes == SHORT.num_agents * SHORT.replay_capacity * (2 * LENGTH + 3 + 2) * 4
    state.environment.close()


def test_an_untrained_network_is_evaluated_with_masks() -> None:
    body = MLP(observation_shape=(LENGTH,), hidden_sizes=())
    networks = QNetworks.initialised(seeds=range(8), body=body, num_actions=ACTIONS)
    with counted():
        greedy_returns(networks, CORRIDOR, episodes=3, seed=0)
