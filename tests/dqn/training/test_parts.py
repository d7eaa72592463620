"""Bodies, heads, exploration and replay buffers in training: learned with, resumed and exported."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dqn.config import ConfigError, DQNConfig
from dqn.experience.buffer import ReplayBuffer
from dqn.experience.exploration import Exploration
from dqn.experience.transitions import Batch
from dqn.learning.losses import quantile_huber
from dqn.networks.population import greedy_action
from dqn.policy import evaluate
from dqn.presets import PRESETS
from dqn.training.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from dqn.training.loop import train
from dqn.training.machine import training_bytes
from dqn.training.state import TrainingState
from tests.support.dqn.bodies import Gated, layers
from tests.support.dqn.masked import BEST, QUICK, counted
from tests.support.dqn.spaces import LENGTH
from tests.support.dqn.training import equal

IMAGES = "Shown-bits-v0"


class Recent:
    """A replay buffer that adds to each batch the newest transition (Zhang and Sutton, 2017), around the project's."""

    def __init__(self, **given: Any) -> None:
        self._buffer = ReplayBuffer(**given)
        self.inserted = 0

    def insert(self, batch: Batch, valid: Tensor) -> None:
        self.inserted += int(valid.sum())
        self._buffer.insert(batch, valid)

    def sample(self, batch_size: int, *, importance_exponent: float = 1.0) -> Batch:
        batch = self._buffer.sample(batch_size, importance_exponent=importance_exponent)
        batch.reward[:, 0] = 0.25
        return batch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._buffer, name)


def boltzmann(q_values: Tensor, epsilon: Tensor, generator: torch.Generator) -> Tensor:
    """Draws actions in proportion to exp(Q / epsilon)."""
    chances = (q_values / epsilon[:, None, None]).softmax(2)
    drawn = torch.multinomial(chances.flatten(0, 1), 1, generator=generator)
    return drawn.view(q_values.shape[:2])


PARTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "convolution": ({"body": "conv", "env_id": IMAGES}, {}),
    "convolution, dueling": ({"body": "conv", "env_id": IMAGES, "dueling": True, "average_rate": 0.1}, {}),
    "mlp on images": ({"env_id": IMAGES}, {}),
    "own body": ({"env_id": IMAGES}, {"body": layers}),
    "own body, atoms": ({"num_atoms": 11, "value_range": (0.0, 3.0), "env_id": IMAGES}, {"body": Gated}),
    "atoms": ({"num_atoms": 11, "value_range": (0.0, 3.0), "priority_exponent": 0.5}, {}),
    "quantiles": ({"num_quantiles": 3}, {"loss": quantile_huber}),
    "own exploration": ({}, {"exploration": boltzmann}),
    "own replay": ({}, {"replay": Recent}),
}
every_part = pytest.mark.parametrize("part", PARTS)


def config_of(part: str, **fields: Any) -> DQNConfig:
    """Learns which of two actions the observation shows, in a second."""
    given: dict[str, Any] = {
        "env_id": "Shown-floats-v0",
        "num_agents": 3,
        "num_envs": 4,
        "hidden_sizes": (16,),
        "batch_size": 32,
        "replay_capacity": 500,
        "max_updates": 300,
        "max_gradient_norm": 10.0,
        "eval_start": 100,
        "eval_interval": 100,
        "epsilon_decay_updates": 150,
        "learning_rate": 1e-2,
        "learning_rate_end": 1e-2,
        "gamma": 0.5,
        "target_update_interval": 20,
        "eval_episodes": 2,
        "acceptance_return": float(LENGTH),
        "acceptance_episodes": 3,
        "checkpoint_interval": 0.0,
    }
    return DQNConfig(**(given | PARTS[part][0] | fields))


@every_part
def test_it_learns_and_its_policy_is_exported(part: str) -> None:
    result = train(config_of(part), **PARTS[part][1])
    assert result.solved_fraction == 1
    assert evaluate(result.policy(), episodes=5).tolist() == [LENGTH] * 5
    assert len(result.milestones_of(0)) > 10


@every_part
def test_a_resumed_training_is_the_same(part: str, tmp_path: Path) -> None:
    parts, config, path = PARTS[part][1], config_of(part, max_updates=150), tmp_path / "run.ckpt"

    def keep(state: TrainingState) -> None:
        if state.learner.updates == 60:
            save_checkpoint(path, state)

    whole = train(config, on_checkpoint=keep, now=lambda: 0.0, **parts)
    made = {name: value for name, value in parts.items() if name in ("body", "replay")}
    state, continues = load_checkpoint(path, config, **made)
    assert continues
    assert state.learner.updates == 60
    again = {name: value for name, value in parts.items() if name not in made}
    assert equal(train(config, state=state, **again), whole)


def test_a_checkpoint_of_another_body_is_refused(tmp_path: Path) -> None:
    config = config_of("own body")
    state = TrainingState.begin(config, body=layers)
    save_checkpoint(tmp_path / "run.ckpt", state)
    state.environment.close()
    for body in (None, Gated):
        with pytest.raises(CheckpointError, match="has networks with another body: pass the `body` of its training"):
            load_checkpoint(tmp_path / "run.ckpt", config, body=body)


@pytest.mark.parametrize("given", [{"body": Gated}, {"replay": Recent}], ids=str)
def test_a_state_has_its_own_parts(given: dict[str, Any]) -> None:
    config = config_of("own body")
    state = TrainingState.begin(config, body=layers)
    with pytest.raises(ConfigError, match=f"a state has its own {(name := next(iter(given)))}: leave out {name}="):
        train(config, state=state, **given)
    state.environment.close()


def test_a_network_to_start_from_has_the_same_body() -> None:
    config = config_of("own body")
    first = TrainingState.begin(config, body=layers)
    start = first.learner.online.select(torch.tensor([1]))
    second = TrainingState.begin(config, body=layers, start=start)
    assert torch.equal(second.learner.online.tensors[0][2], first.learner.online.tensors[0][1])
    with pytest.raises(ConfigError, match=r"start does not fit .* it has body ModuleBody\(.*, not MLP\("):
        TrainingState.begin(config, start=start)
    for state in (first, second):
        state.environment.close()


def test_a_replay_buffer_of_ones_own_is_learned_from() -> None:
    state = TrainingState.begin(config_of("own replay"), replay=Recent)
    assert isinstance(state.replay, Recent)
    result = train(state.config, state=state)
    assert state.replay.inserted >= 400
    assert result.agents[0].observed != ()


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (lambda q: None, "got NoneType"),
        (lambda q: greedy_action(q).float(), r"got float32 \[3, 4\]"),
        (lambda q: greedy_action(q)[:, :1], r"got int64 \[3, 1\]"),
        (lambda q: greedy_action(q) + 2, "got 2 to 3"),
        (lambda q: greedy_action(q) - 2, "got -2 to -1"),
    ],
)
def test_actions_that_are_none_are_refused(action: Any, message: str) -> None:
    exploration: Exploration = lambda q_values, epsilon, generator: action(q_values)  # noqa: E731
    with pytest.raises(
        ConfigError, match=rf"exploration must give an action from 0 to 1 .*, int64 \[3, 4\], {message}"
    ):
        train(config_of("own exploration"), exploration=exploration)


def test_exploration_and_atoms_are_among_the_allowed_actions() -> None:
    config = dataclasses.replace(
        QUICK, initial_q=0.0, num_atoms=21, value_range=(-10.0, 10.0), acceptance_return=None, max_updates=300
    )
    with counted():
        result = train(config, exploration=boltzmann)
    assert float(result.test_returns(2).max()) == BEST
    with pytest.raises(ConfigError, match="got one that the action mask forbids"):
        train(QUICK, exploration=lambda q_values, *_: q_values.argmin(2))


def test_memory_counts_the_body() -> None:
    def taken(part: str, **fields: Any) -> int:
        config = config_of(part, **fields)
        state = TrainingState.begin(config, body=PARTS[part][1].get("body"))
        state.environment.close()
        return training_bytes(config, state.environment.spaces, state.learner.online.body)

    assert taken("convolution", num_agents=6) == 2 * taken("convolution")
    assert taken("convolution", batch_size=40) - taken("convolution") == 2 * 3 * 8 * (18 + 18 + 16 + 16 + 2) * 4
    assert taken("own body") != taken("mlp on images")
    assert taken("atoms") > taken("quantiles")


@pytest.mark.slow
def test_a_distribution_of_returns_balances_the_pole() -> None:
    """C51 solves CartPole with the preset's own values, where the returns lie between 0 and 1."""
    config = dataclasses.replace(PRESETS["cartpole"], num_agents=4, initial_q=0.0, num_atoms=51, value_range=(0.0, 1.0))
    result = train(config)
    assert result.solved_fraction >= 0.5, result
    assert float(result.test_returns(20).mean(1).max()) > 475
