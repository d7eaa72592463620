"""The inner state of Gymnasium environments as plain data, where they consist of plain data."""

import json
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import SyncVectorEnv, VectorEnv

# What describes an environment and does not change while it is stepped.
_DESCRIPTION = (spaces.Space, EnvSpec, gym.Env, str, type(None))


class _UncapturableError(Exception):
    """An environment holds state that is no plain data, such as a physics engine's objects."""


def capture(envs: VectorEnv[Any, Any, Any]) -> dict[str, Any] | None:
    """State of all sub-environments as numbers, lists, strings and tensors; None where one holds anything else."""
    try:
        if isinstance(envs, SyncVectorEnv):
            return {
                "autoreset": torch.from_numpy(envs._autoreset_envs.copy()),
                "envs": [[_attributes(layer) for layer in _layers(env)] for env in envs.envs],
            }
        return _attributes(envs)
    except _UncapturableError:
        return None


def restore(envs: VectorEnv[Any, Any, Any], state: dict[str, Any]) -> None:
    """Put a captured state into as many sub-environments of the same kind."""
    if not isinstance(envs, SyncVectorEnv):
        _assign(envs, state)
        return
    envs._autoreset_envs = state["autoreset"].numpy().copy()
    for env, layers in zip(envs.envs, state["envs"], strict=True):
        for layer, attributes in zip(_layers(env), layers, strict=True):
            _assign(layer, attributes)


def _layers(env: gym.Env[Any, Any]) -> list[gym.Env[Any, Any]]:
    """An environment's wrappers from the outside in, and the environment itself."""
    layers = [env]
    while isinstance(layers[-1], gym.Wrapper):
        layers.append(layers[-1].env)
    return layers


def _attributes(env: object) -> dict[str, Any]:
    return {
        name: _encode(value)
        for name, value in vars(env).items()
        if not isinstance(value, _DESCRIPTION) and not callable(value)
    }


def _assign(env: object, attributes: dict[str, Any]) -> None:
    for name, value in attributes.items():
        setattr(env, name, _decode(value))


def _encode(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.random.Generator):
        return {"bit_generator": json.dumps(value.bit_generator.state)}
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return torch.from_numpy(value.copy())
    if isinstance(value, np.generic):  # keeps its width: float32 and float64 scalars calculate differently
        return {"scalar": torch.from_numpy(np.asarray(value))}
    if isinstance(value, tuple):
        return {"tuple": [_encode(item) for item in value]}
    if isinstance(value, list):
        return [_encode(item) for item in value]
    if isinstance(value, dict):
        return {"dict": {str(key): _encode(item) for key, item in value.items()}}
    raise _UncapturableError(type(value).__name__)


def _decode(value: Any) -> Any:
    match value:
        case {"bit_generator": state}:
            generator = np.random.Generator(np.random.PCG64())
            generator.bit_generator.state = json.loads(state)
            return generator
        case {"scalar": scalar}:
            return scalar.numpy()[()]
        case {"tuple": items}:
            return tuple(_decode(item) for item in items)
        case {"dict": items}:
            return {key: _decode(item) for key, item in items.items()}
        case list():
            return [_decode(item) for item in value]
        case torch.Tensor():
            return value.numpy().copy()
        case _:
            return value
