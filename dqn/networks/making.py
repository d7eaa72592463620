"""The body and the head that a configuration names."""

from dqn.config import ConfigError, DQNConfig
from dqn.networks.bodies.body import Body
from dqn.networks.bodies.conv import KERNEL, Conv
from dqn.networks.bodies.mlp import MLP
from dqn.networks.bodies.module import MakeModule, module_body
from dqn.networks.heads import Categorical, Head, Mean


def body_of(config: DQNConfig, observation_shape: tuple[int, ...], own: MakeModule | None = None) -> Body:
    """The body of a configuration, or one's own, for observations of a shape.

    Raises:
        ConfigError: if it does not take such observations.
    """
    if own is not None:
        return module_body(own, observation_shape)
    if config.body == "mlp":
        return MLP(observation_shape=observation_shape, hidden_sizes=config.hidden_sizes)
    if len(observation_shape) != 3 or min(observation_shape[:2]) < KERNEL:
        raise ConfigError(
            f"body 'conv' takes images [height, width, channels] of at least {KERNEL} x {KERNEL}, and {config.env_id} "
            f"has observations {list(observation_shape)}; use body 'mlp'"
        )
    return Conv(observation_shape=observation_shape, hidden_sizes=config.hidden_sizes)


def head_of(config: DQNConfig) -> Head:
    """The head of a configuration."""
    if not config.num_atoms:
        return Mean(num_outputs=config.num_quantiles)
    low, high = config.value_range
    return Categorical(num_outputs=config.num_atoms, low=low, high=high)
