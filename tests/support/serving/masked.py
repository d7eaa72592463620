"""A policy for an environment with action masks."""

from dqn.networks.bodies.mlp import MLP
from dqn.networks.onnx import ModelProperties, to_onnx
from dqn.networks.population import QNetworks
from tests.support.dqn.masked import ACTIONS, CORRIDOR, LENGTH


def model(*, masked: bool = True) -> bytes:
    """An untrained policy for the corridor, which prefers an action that is not allowed at its start."""
    networks = QNetworks.initialised(
        seeds=[1], body=MLP(observation_shape=(LENGTH,), hidden_sizes=(8,)), num_actions=ACTIONS
    )
    properties = ModelProperties(
        env_id=CORRIDOR,
        action_meanings=("a", "b", "c", "d", "e", "f"),
        run_id="0" * 32,
        seed=0,
        agent=0,
        config_sha256="0" * 64,
        masked=masked,
    )
    return to_onnx(networks.agent(0), properties, observation_shape=(LENGTH,))
