"""What is given beside a configuration fits it, or is refused in a sentence that names it."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch

from dqn.config import ConfigError, DQNConfig
from dqn.hyperparameters import HyperParameters
from dqn.learning.losses import quantile_huber
from dqn.networks.bodies.mlp import MLP
from dqn.networks.heads import Mean
from dqn.networks.population import QNetworks
from dqn.training import loop
from dqn.training.loop import train
from dqn.training.state import TrainingState
from dqn.training.steps import advance

Make = Callable[..., DQNConfig]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (lambda loss: loss.unsqueeze(2), r"got the shape \[3, 16, 1\]"),
        (lambda loss: loss.unsqueeze(2).expand(-1, -1, 16), r"got the shape \[3, 16, 16\]"),
        (lambda loss: loss.mT, r"got the shape \[16, 3\]"),
        (lambda loss: loss.mean(1), r"got the shape \[3\]"),
        (lambda loss: loss.mean(1, keepdim=True), r"got the shape \[3, 1\]"),
        (lambda loss: loss.mean(), r"got the shape \[\]"),
        (lambda loss: loss[:, 1:], r"got the shape \[3, 15\]"),
        (lambda loss: loss.detach(), "got one that has no gradient"),
        (lambda loss: loss.tolist(), "got list"),
        (lambda loss: None, "got NoneType"),
    ],
)
def test_a_loss_gives_one_number_a_transition(given: Any, message: str, small_config: Make) -> None:
    def loss(outputs: torch.Tensor, *_: Any) -> Any:
        return given(outputs.square().mean((2, 3)))

    with pytest.raises(ConfigError, match=rf"^loss must give .*\[agents, batch_size\] = \[3, 16\].*{message}"):
        train(small_config(), loss=loss)


def test_quantiles_need_a_loss_that_learns_them_wherever_they_are_trained(small_config: Make) -> None:
    state = TrainingState.begin(small_config(num_quantiles=5))
    with pytest.raises(ConfigError, match="num_quantiles is 5"):
        advance(state, 1)
    with pytest.raises(ConfigError, match="num_quantiles is 5"):
        state.learner.update(state.replay.sample(1))
    assert state.environment_steps == 0
    advance(state, 3, loss=quantile_huber)
    assert state.learner.updates == 3


@pytest.mark.parametrize(
    "changes",
    [
        {"env_id": "Acrobot-v1"},
        {"num_agents": 2},
        {"num_envs": 5},
        {"hidden_sizes": (8,)},
        {"dueling": True},
        {"gamma": 0.5},
        {"max_updates": 121},
        {"seed": 1},
    ],
    ids=str,
)
def test_a_state_goes_on_by_its_own_configuration(changes: dict[str, Any], small_config: Make) -> None:
    (name,) = changes
    state = TrainingState.begin(small_config())
    with pytest.raises(ConfigError, match=f"^state belongs to another configuration: it has {name} = .*, not "):
        train(small_config(**changes), state=state)
    assert state.environment_steps == 0


def test_a_state_goes_on_by_its_own_hyperparameters(small_config: Make) -> None:
    config = small_config(max_updates=3)
    own = HyperParameters.of([dataclasses.replace(config, gamma=gamma) for gamma in (0.5, 0.6, 0.7)])
    for given in (HyperParameters.of([config]), HyperParameters.of([dataclasses.replace(config, gamma=0.5)])):
        with pytest.raises(ConfigError, match=r"^hyperparameters differ from .* in gamma;"):
            train(config, given, state=TrainingState.begin(config, own))
    same = HyperParameters.from_state_dict(own.state_dict())
    assert train(config, same, state=TrainingState.begin(config, own)).agents[0].updates == 3


def test_hyperparameters_are_of_as_many_agents_and_of_the_same_rules(small_config: Make) -> None:
    config = small_config()
    for count in (2, 4):
        configs = [dataclasses.replace(config, gamma=0.5 + 0.01 * k) for k in range(count)]
        with pytest.raises(ConfigError, match=rf"^hyperparameters\.gamma has the shape \[{count}\] for num_agents = 3"):
            train(config, HyperParameters.of(configs))
    polyak = dataclasses.replace(config, tau=0.1, target_update_interval=0)
    with pytest.raises(ConfigError, match=r"^hyperparameters\.tau .* must both be 0 or both above 0"):
        train(config, HyperParameters.of([polyak]))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"body": MLP(observation_shape=(4,), hidden_sizes=(8,))}, r"hidden_sizes=\(8,\)\), not MLP\(.*\(16,\)\)"),
        ({"body": MLP(observation_shape=(6,), hidden_sizes=(16,))}, r"observation_shape=\(6,\).*, not MLP"),
        ({"num_actions": 3}, "num_actions 3, not 2"),
        ({"dueling": True}, "dueling True, not False"),
        ({"head": Mean(num_outputs=2)}, r"head Mean\(num_outputs=2\), not Mean\(num_outputs=1\)"),
        ({"observation_scale": (2.0, 1.0, 1.0, 1.0)}, r"observation_scale \[2.0, 1.0, 1.0, 1.0\], not"),
    ],
    ids=str,
)
def test_a_network_to_start_from_fits(fields: dict[str, Any], message: str, small_config: Make) -> None:
    shape: dict[str, Any] = {"seeds": [0], "body": MLP(observation_shape=(4,), hidden_sizes=(16,)), "num_actions": 2}
    TrainingState.begin(small_config(), start=QNetworks.initialised(**shape))
    with pytest.raises(ConfigError, match=f"^start does not fit .*{message}"):
        TrainingState.begin(small_config(), start=QNetworks.initialised(**(shape | fields)))


def test_a_scale_of_other_observations_is_a_configuration_error(small_config: Make) -> None:
    with pytest.raises(ConfigError, match=r"^observation_scale has 2 entries and CartPole-v1 has observations of 4"):
        train(small_config(observation_scale=(1.0, 1.0)))
    with pytest.raises(ConfigError, match="observation_scale has 2 entries"):
        QNetworks.initialised(
            seeds=[0], body=MLP(observation_shape=(4,), hidden_sizes=()), num_actions=2, observation_scale=(1.0, 1.0)
        )


def test_every_network_of_a_result_comes_back_to_the_cpu(small_config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """As far as it goes without another device: what is moved is all that a result holds, and to where."""
    moved: dict[int, str] = {}
    own = QNetworks.on

    def on(self: QNetworks, device: torch.device) -> QNetworks:
        arrived = own(self, device).select(torch.arange(self.num_agents))
        moved[id(arrived)] = device.type
        kept.append(arrived)
        return arrived

    kept: list[QNetworks] = []
    state = TrainingState.begin(small_config(max_updates=20))
    monkeypatch.setattr(QNetworks, "on", on)
    result = loop.train(state.config, state=state)
    networks = [result.best, result.final, *(milestone.networks for milestone in result.milestones)]
    assert len(networks) > 5
    assert [moved.get(id(each)) for each in networks] == ["cpu"] * len(networks)
