"""The body and the head that a configuration names."""

from dqn.config import DQNConfig
from dqn.networks.bodies.body import Body
from dqn.networks.bodies.mlp import MLP
from dqn.networks.heads import Head, Mean


def body_of(config: DQNConfig, observation_shape: tuple[int, ...]) -> Body:
    """The body of a configuration, for observations of a shape."""
    return MLP(observation_shape=observation_shape, hidden_sizes=config.hidden_sizes)


def head_of(config: DQNConfig) -> Head:
    """The head of a configuration."""
    return Mean(num_outputs=config.num_quantiles)
