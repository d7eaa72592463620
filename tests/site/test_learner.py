"""The lab's learner computes what the Python code computes, on shared vectors."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
import torch
from playwright.sync_api import Page

from dqn.config import DQNConfig
from dqn.experience.nstep import NStepAccumulator
from dqn.experience.transitions import Batch, Transition
from dqn.learning.learner import Learner
from dqn.networks.bodies.mlp import MLP
from dqn.networks.population import QNetworks
from dqn.presets import PRESETS
from tests.support.serving.browser import IN_A_BROWSER

pytestmark = IN_A_BROWSER

ROOT: Final = Path(__file__).parents[2]
SCRIPTS: Final = ("dqn/cards/static/play.js", "docs/site/learner.js")
CARTPOLE: Final = PRESETS["cartpole"]
LEARN: Final = """([hidden, decay, numbers, batches]) => {
  const one = agent({...PRESET, hidden, decay}, 1), sizes = [4, ...hidden, 2];
  for (const name of ["online", "target", "average"]) one[name].set(numbers[name]);
  const q = [...passes(sizes, 128).forward(one.online, batches[0], 128, 11)];
  const gradients = batches.map((rows) => (one.learn(Float32Array.from(rows)), [...one.gradient.slice(4)]));
  return {q, gradients, online: [...one.online], target: [...one.target], average: [...one.average]};
}"""


@pytest.fixture
def page(lonely: Page) -> Page:
    lonely.goto("about:blank")
    for script in SCRIPTS:
        lonely.add_script_tag(content=(ROOT / script).read_text())
    return lonely


def drawn(seed: int, hidden: tuple[int, ...]) -> QNetworks:
    return QNetworks.initialised(
        seeds=[seed],
        body=MLP(observation_shape=(4,), hidden_sizes=hidden),
        num_actions=2,
        observation_scale=CARTPOLE.observation_scale,
        initial_q=1.0,
    )


def numbers(networks: QNetworks) -> list[float]:
    """As in the lab: the scale, then weights and biases, layer by layer."""
    return [*networks.observation_scale.tolist(), *flat(interleaved(networks))]


def interleaved(networks: QNetworks) -> list[torch.Tensor]:
    return [tensor for layer in zip(networks.weights, networks.biases, strict=True) for tensor in layer]


def flat(tensors: Iterable[torch.Tensor | None]) -> list[float]:
    return [x for tensor in tensors if tensor is not None for x in tensor.flatten().tolist()]


def batch_of(rows: np.ndarray[Any, np.dtype[np.float32]]) -> Batch:
    tensor = torch.from_numpy(rows).unsqueeze(0)
    return Batch(
        observation=tensor[..., :4],
        next_observation=tensor[..., 4:8],
        action=tensor[..., 8].long(),
        reward=tensor[..., 9],
        discount=tensor[..., 10],
    )


def test_the_labs_values_are_the_presets(page: Page) -> None:
    found = page.evaluate("PRESET")
    assert found.pop("limit") == CARTPOLE.acceptance_return == 500
    names = {
        "hidden": "hidden_sizes", "scale": "observation_scale", "initialQ": "initial_q", "envs": "num_envs",
        "capacity": "replay_capacity", "batch": "batch_size", "minBatches": "min_replay_batches",
        "epsilonEnd": "epsilon_end", "epsilonUpdates": "epsilon_decay_updates", "gamma": "gamma", "nStep": "n_step",
        "rewardScale": "reward_scale", "rate": "learning_rate", "rateEnd": "learning_rate_end",
        "rateUpdates": "learning_rate_decay_updates", "betas": "adam_betas", "eps": "adam_eps", "decay": "weight_decay",
        "tau": "tau", "averageRate": "average_rate", "maxUpdates": "max_updates", "evalStart": "eval_start",
        "evalInterval": "eval_interval", "evalEpisodes": "eval_episodes", "acceptEpisodes": "acceptance_episodes",
        "acceptEpsilon": "acceptance_epsilon",
    }  # fmt: skip
    expected = {name: getattr(CARTPOLE, theirs) for name, theirs in names.items()}
    assert found == {name: list(v) if isinstance(v, tuple) else v for name, v in expected.items()}
    left_out = DQNConfig()
    for name in ("double_dqn", "dueling", "num_quantiles", "loss", "max_gradient_norm", "priority_exponent"):
        assert getattr(CARTPOLE, name) == (False if name == "double_dqn" else getattr(left_out, name))


@pytest.mark.parametrize("hidden", [(32, 32), (16,), (7, 5, 6)])
@pytest.mark.parametrize("decay", [0.0, 0.01])
def test_values_gradients_and_steps_are_those_of_the_learner(page: Page, hidden: tuple[int, ...], decay: float) -> None:
    config = replace(CARTPOLE, num_agents=1, hidden_sizes=hidden, weight_decay=decay)
    learner = Learner(config, drawn(0, hidden))
    learner.target, average = drawn(1, hidden), drawn(2, hidden)
    learner._average = average
    given = {"online": numbers(learner.online), "target": numbers(learner.target), "average": numbers(average)}
    generator = np.random.default_rng(3)
    batches = []
    for _ in range(4):
        rows = generator.uniform(-1, 1, (config.batch_size, 11)).astype(np.float32)
        rows[:, 8] = generator.integers(0, 2, config.batch_size)
        rows[:, 10] = generator.choice([0.0, 0.975], config.batch_size)
        batches.append(rows)
    q_values = learner.online(batch_of(batches[0]).observation)
    gradients = []
    for rows in batches:
        learner.update(batch_of(rows))
        gradients.append(flat(tensor.grad for tensor in interleaved(learner.online)))
    found = page.evaluate(LEARN, [list(hidden), decay, given, [rows.ravel().tolist() for rows in batches]])
    np.testing.assert_allclose(np.reshape(found["q"], (-1, 2))[: config.batch_size], q_values[0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found["gradients"], gradients, rtol=1e-5, atol=1e-5)
    assert np.abs(gradients).max() > 0.01
    for name, networks in (("online", learner.online), ("target", learner.target), ("average", average)):
        np.testing.assert_allclose(found[name], numbers(networks), rtol=1e-5, atol=1e-5)
        assert np.abs(np.subtract(found[name], given[name])).max() > 1e-3


@pytest.mark.parametrize("n", [1, 2, 5])
def test_n_step_returns_are_those_of_the_accumulator(page: Page, n: int) -> None:
    generator = np.random.default_rng(n)
    accumulator = NStepAccumulator(
        n_step=n, gamma=0.995, reward_scale=0.005, bootstrap_on_truncation=True, num_agents=1, num_envs=1, obs=4
    )
    steps, expected = [], []
    for _ in range(200):
        before, after = generator.uniform(-1, 1, (2, 4)).astype(np.float32)
        action, reward = int(generator.integers(0, 2)), float(generator.uniform(-1, 2))
        ending = generator.choice(["", "", "", "terminated", "truncated"])
        steps.append([before.tolist(), action, reward, after.tolist(), ending == "terminated", ending == "truncated"])
        batch, valid = accumulator.push(
            Transition(
                observation=torch.from_numpy(before).view(1, 1, 4),
                action=torch.tensor([[action]]),
                reward=torch.tensor([[reward]]),
                next_observation=torch.from_numpy(after).view(1, 1, 4),
                terminated=torch.tensor([[ending == "terminated"]]),
                truncated=torch.tensor([[ending == "truncated"]]),
                valid=torch.tensor([[True]]),
            )
        )
        if bool(valid.all()):
            row = [batch.observation[0, 0], batch.next_observation[0, 0]]
            scalars = (batch.action, batch.reward, batch.discount)
            expected.append([*(x for part in row for x in part.tolist()), *(float(each[0, 0]) for each in scalars)])
    run = """([n, steps]) => {
      const rows = [], push = nStep({...PRESET, nStep: n}, (row) => rows.push([...row]));
      for (const step of steps) push(...step);
      return rows;
    }"""
    found = page.evaluate(run, [n, steps])
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert len(expected) == 200 - n + 1
