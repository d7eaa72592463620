"""The path to another device, as far as it goes without one: on meta tensors, which have a shape and a place alone."""

import pytest
import torch

from dqn.config import ConfigError
from dqn.experience.buffer import ReplayBuffer
from dqn.experience.priorities import Priorities
from dqn.experience.transitions import Batch
from dqn.learning.losses import td_target
from dqn.networks.bodies.mlp import MLP
from dqn.networks.population import QNetworks
from dqn.training.machine import require_device, torch_threads

META = torch.device("meta")


@pytest.mark.parametrize("prioritised", [False, True])
def test_samples_and_gradients_stay_where_the_networks_are(prioritised: bool) -> None:
    A, E, B = 3, 5, 7
    priorities = Priorities(num_agents=A, capacity=20, exponent=0.6) if prioritised else None
    replay = ReplayBuffer(
        num_agents=A, capacity=20, obs=4, generator=torch.Generator(), priorities=priorities, device=META
    )
    stored = Batch(
        observation=torch.zeros(A, E, 4),
        action=torch.zeros(A, E, dtype=torch.int64),
        reward=torch.zeros(A, E),
        next_observation=torch.zeros(A, E, 4),
        discount=torch.zeros(A, E),
    )
    replay.insert(stored, torch.ones(A, E, dtype=torch.bool))
    batch = replay.sample(B)
    assert batch.slot is not None
    assert batch.slot.device.type == "cpu"
    assert (batch.weight is not None) == prioritised
    networks = QNetworks.initialised(
        seeds=range(A), body=MLP(observation_shape=(4,), hidden_sizes=(8, 6)), num_actions=2, dueling=True
    ).on(META)
    assert networks.device == META
    for double_dqn in (False, True):
        target = td_target(batch, online=networks, target=networks, double_dqn=double_dqn)
        assert (target.shape, target.device) == ((A, B), META)
    activations = networks.activations(batch.observation)
    networks.backward(activations, torch.zeros_like(activations[-1]))
    for parameter in networks.select(torch.tensor([0, 2])).parameters():
        assert parameter.device == META
    for parameter in networks.parameters():
        assert parameter.grad is not None
        assert (parameter.grad.shape, parameter.grad.device) == (parameter.shape, META)


def test_a_device_this_machine_lacks_is_refused() -> None:
    assert require_device("cpu") == torch.device("cpu")
    missing = "cuda:99" if torch.cuda.is_available() else "cuda"
    with pytest.raises(ConfigError, match=f"device '{missing}' cannot be used: .*; choose cpu"):
        require_device(missing)
    for name in ("gpu", "meta"):
        with pytest.raises(ConfigError, match=f"device '{name}' cannot be used"):
            require_device(name)


@pytest.mark.parametrize("before", [False, True])
def test_training_flushes_numbers_that_are_slow_and_leaves_the_setting_as_it_was(before: bool) -> None:
    if not torch.set_flush_denormal(before):
        pytest.skip("this processor does not flush denormal numbers")
    try:
        with torch_threads(1), torch_threads(1):
            assert torch.tensor(1e-20).square().item() == 0
        assert (torch.tensor(1e-20).square().item() == 0) == before
        with torch_threads(2):  # which share a large product
            assert bool((torch.full((100_000,), 1e-20).square() > 0).all())
    finally:
        torch.set_flush_denormal(False)
