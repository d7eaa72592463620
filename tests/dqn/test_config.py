import json
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dqn.config import ConfigError, DQNConfig, _annotations
from dqn.environments.world import World
from dqn.presets import PRESETS
from dqn.training.state import TrainingState
from dqn.training.steps import advance


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_agents": 0}, "num_agents must be above 0, got 0"),
        ({"learning_rate": -1.0}, "learning_rate must be above 0, got -1.0"),
        ({"learning_rate": float("nan")}, "learning_rate must be a finite number, got nan"),
        ({"gamma": 1.0}, "gamma must be below 1"),
        ({"gamma": 1.5}, "gamma must be from 0 to 1"),
        ({"epsilon_start": 2.0}, "epsilon_start must be from 0 to 1, got 2.0"),
        ({"hidden_sizes": (64, 0)}, "hidden_sizes must be positive"),
        ({"body": "rnn"}, "body must be 'mlp' or 'conv', got 'rnn'"),
        ({"num_atoms": 1}, "num_atoms must be 0 or at least 2"),
        ({"num_atoms": 2, "num_quantiles": 2}, "num_quantiles must be 1 where num_atoms is above 0"),
        ({"num_atoms": 2, "initial_q": 1}, "initial_q must be 0.0 where num_atoms is above 0"),
        ({"value_range": (1, 1)}, "value_range must be two numbers from -1e9 to 1e9, the first well below the second"),
        ({"value_range": (1e6, 1e6 + 1)}, "value_range must be two numbers"),
        ({"value_range": (0, 2e9)}, "value_range must be two numbers"),
        ({"observation_scale": (1.0, 0.0)}, "observation_scale must be positive"),
        ({"loss": "l1"}, "loss must be 'squared' or 'huber', got 'l1'"),
        ({"replay_capacity": 100}, "min_replay_batches x batch_size = 1280"),
        ({"tau": 0.1}, "exactly one of target_update_interval, target_update_episodes and tau"),
        ({"target_update_interval": 0}, "exactly one of"),
        ({"seed": -1}, "seed must be 0 or above"),
        ({"num_agents": 2.5}, r"num_agents must be a whole number below 2\^63, got 2\.5"),
        ({"num_agents": 2.0}, "num_agents must be a whole number"),
        ({"num_agents": True}, "num_agents must be a whole number .*, got True"),
        ({"num_agents": "1"}, "num_agents must be a whole number .*, got '1'"),
        ({"num_agents": None}, "num_agents must be a whole number .*, got None"),
        ({"seed": 2**63}, "seed must be a whole number below"),
        ({"double_dqn": "no"}, "double_dqn must be true or false, got 'no'"),
        ({"double_dqn": 1}, "double_dqn must be true or false, got 1"),
        ({"reward_scale": float("inf")}, "reward_scale must be a finite number, got inf"),
        ({"reward_scale": 10**400}, "reward_scale must be a finite number, got 1000"),
        ({"reward_scale": True}, "reward_scale must be a finite number, got True"),
        ({"tau": "0.1"}, r"tau must be a finite number, got '0\.1'"),
        ({"initial_q": float("-inf")}, "initial_q must be a finite number, got -inf"),
        ({"acceptance_return": float("nan")}, "acceptance_return must be a finite number or none, got nan"),
        ({"env_id": None}, "env_id must be a string, got None"),
        ({"device": 0}, "device must be a string, got 0"),
        ({"hidden_sizes": "64"}, "hidden_sizes must be a tuple, each entry a whole number .*, got '64'"),
        ({"hidden_sizes": [64]}, r"hidden_sizes must be a tuple, .*, got \[64\]"),
        ({"hidden_sizes": (64.0,)}, "hidden_sizes must be a tuple, each entry a whole number"),
        ({"hidden_sizes": ((64, 64),)}, "hidden_sizes must be a tuple, each entry a whole number"),
        ({"observation_scale": (1.0, float("inf"))}, "observation_scale must be a tuple, each entry a finite number"),
        ({"observation_scale": 2.0}, "observation_scale must be a tuple, each entry a finite number, got 2"),
        ({"adam_betas": (0.9, 0.99, 0.999)}, "adam_betas must be a tuple of 2, each entry a finite number"),
        ({"adam_betas": (0.9,)}, "adam_betas must be a tuple of 2"),
        ({"adam_betas": (0.9, 1.0)}, "adam_betas must be from 0 to below 1"),
        ({"adam_betas": (-0.1, 0.9)}, "adam_betas must be from 0 to below 1"),
        ({"epsilon_end": -0.1}, "epsilon_end must be from 0 to 1"),
        ({"replay_capacity": 1_279}, "min_replay_batches x batch_size = 1280"),
        ({"num_envs": 100_001}, "replay_capacity must be at least num_envs = 100001, got 100000"),
        ({"adam_betas": (0.9, "0.99")}, "adam_betas must be a tuple of 2"),
        (
            {"gamma": 1},
            "gamma must be below 1 in float32: at 1 the value of an unending episode is unbounded; use 0",
        ),
        ({"gamma": 1 - 1e-9}, "gamma must be below 1 in float32"),
        ({"adam_betas": (0.9, 1 - 1e-9)}, "adam_betas must be from 0 to below 1"),
        ({"adam_eps": 1e-300}, "adam_eps must be from 1e-19 to 3.4.*, because its square must be a float32"),
        (
            {"weight_decay": 1e-300},
            "weight_decay must be 0 or have a size from 1.2e-38 to 3.4e.38, the range of float32",
        ),
        ({"max_gradient_norm": 1e300}, "max_gradient_norm must be 0 or have a size"),
        ({"tau": 1e-39, "target_update_interval": 0}, "tau must be 0 or have a size"),
        ({"observation_scale": (1.0, 1e300)}, "observation_scale must be 0 or have a size"),
        ({"observation_scale": (1.0, 1e-9)}, "observation_scale must be 1e-06 or above"),
        ({"weight_decay": 2e3}, "weight_decay times the learning rate must be at most 1"),
        ({"learning_rate": 1.5}, "learning_rate must be from 0 to 1, because a step"),
        ({"reward_scale": 1e30}, "reward_scale must be from 0 to 1e.09, so that its square"),
        ({"num_threads": 10**6}, "num_threads must be from 1 to 256, .* got 1000000"),
        ({"learning_rate_end": 1e-5}, "learning_rate_end needs learning_rate_decay_updates above 0"),
        ({"acceptance_epsilon": 0.1}, "acceptance_epsilon needs an acceptance_return"),
    ],
)
def test_what_cannot_be_trained_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DQNConfig(**fields)
    if not any(isinstance(value, list) for value in fields.values()):  # JSON has no tuples: lists are read as such
        with pytest.raises(ConfigError, match=message):
            DQNConfig.from_dict(fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"reward_scale": 1, "initial_q": -3, "seed": 2**63 - 1},
        {"acceptance_return": None, "hidden_sizes": (), "observation_scale": ()},
        {"acceptance_return": 3, "observation_scale": (1, 2.5), "loss": "huber"},
        {"initial_q": 1e9, "weight_decay": np.float64(0.5)},
        {"replay_capacity": 1_280, "gamma": 0, "epsilon_start": 1, "adam_betas": (0.0, 0.0), "max_gradient_norm": 0},
        {"num_envs": 100_000},
    ],
)
def test_what_a_type_covers_is_taken(fields: dict[str, Any]) -> None:
    config = DQNConfig(**fields)
    assert {name: getattr(config, name) for name in fields} == fields


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS.keys())
def test_configurations_survive_json(preset: DQNConfig) -> None:
    restored = DQNConfig.from_dict(json.loads(json.dumps(preset.to_dict())))
    assert restored == preset
    assert restored.sha256 == preset.sha256


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"learning_rate": 1, "weight_decay": 0}, {"learning_rate": 1.0, "weight_decay": 0.0}),
        ({"learning_rate_end": 0, "learning_rate_decay_updates": 9},) * 2,
        (
            {"observation_scale": (1, 2), "adam_betas": (0, 0)},
            {"observation_scale": (1.0, 2.0), "adam_betas": (0.0, 0.0)},
        ),
        ({"acceptance_return": 500, "initial_q": -3}, {"acceptance_return": 500.0, "initial_q": -3.0}),
        ({"world": World(length=1, wind=(-2, 0))}, {"world": World(length=1.0, wind=(-2.0, -0.0))}),
        ({"randomisation": World(sensor_bias=(0, (0, 1)))}, {"randomisation": World(sensor_bias=(0.0, (0.0, 1.0)))}),
        ({"initial_q": -0.0, "reward_scale": np.float64(0.5)}, {"initial_q": 0.0, "reward_scale": 0.5}),
    ],
)
def test_equal_numbers_have_one_digest(first: dict[str, Any], second: dict[str, Any]) -> None:
    assert DQNConfig(**first) == DQNConfig(**second)
    assert DQNConfig(**first).sha256 == DQNConfig(**second).sha256
    assert DQNConfig.from_dict(json.loads(json.dumps(DQNConfig(**first).to_dict()))).sha256 == DQNConfig(**first).sha256


FLOATS = [name for name, annotation in _annotations().items() if "float" in str(annotation)]
EXTREMES = [
    *(0.0, 5e-324, 1e-39, 2.0**-126, 1e-30, 1e-19, 1e-6, 1 - 1e-7, 1 - 1e-9, 1.0, 2.0, 1e6, 1e9, 1e18, 3.4e38, 1e300),
    *(-1e-39, -1.0, -1e9, -3.4e38, -1e300),
]
RULES: list[dict[str, Any]] = [
    {},
    {"priority_exponent": 0.5, "loss": "huber", "max_gradient_norm": 1.0},
    {"tau": 0.1, "target_update_interval": 0, "average_rate": 0.1, "learning_rate_decay_updates": 2, "dueling": True},
]


@pytest.mark.parametrize("name", FLOATS)
@settings(max_examples=15, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=st.sampled_from(EXTREMES) | st.floats(allow_nan=True, allow_infinity=True), rules=st.sampled_from(RULES))
def test_a_number_however_extreme_trains_to_finite_weights_or_is_refused_by_its_name(
    name: str, value: float, rules: dict[str, Any], small_config: Any
) -> None:
    entries: Any = {"observation_scale": (value, 1.0, 1.0, value), "adam_betas": (value, value)}.get(name, value)
    small = {"num_agents": 2, "hidden_sizes": (8, 8), "batch_size": 8, "min_replay_batches": 1, "max_updates": 3}
    accepted = {"acceptance_return": 9.0} if name == "acceptance_epsilon" else {}
    try:
        config = small_config(**(small | accepted | rules | {name: entries}))
    except ConfigError as error:
        assert name in str(error)  # noqa: PT017 # either is right
        return
    state = TrainingState.begin(config)
    advance(state, 3)
    assert all(bool(parameter.isfinite().all()) for parameter in state.learner.evaluated.parameters())
    for metric in ("train/td_loss", "train/q_value"):
        assert bool(state.metrics.series(metric, 0)[1].isfinite().all())


def test_unknown_fields_are_named() -> None:
    with pytest.raises(ConfigError, match="unknown field learning_rte"):
        DQNConfig.from_dict({"learning_rte": 0.1})


def test_the_digest_tells_configurations_apart() -> None:
    assert DQNConfig(seed=0).sha256 != DQNConfig(seed=1).sha256
    assert {DQNConfig(seed=0), DQNConfig(seed=0), DQNConfig(seed=1)} == {DQNConfig(seed=1), DQNConfig(seed=0)}


def test_what_was_measured_is_what_is_configured() -> None:
    """The documents' figures are of these values: a change of one needs new measurements, and its digest here."""
    configurations: dict[str, DQNConfig] = {"default": DQNConfig()}
    configurations.update({str(name): config for name, config in PRESETS.items()})
    assert {name: config.sha256[:12] for name, config in configurations.items()} == {
        "default": "78bc4a61a8ac",
        "cartpole": "86f6c049bad4",
        "robust": "9863c00bbcb5",
        "frugal": "197c8d753a36",
        "article": "db03822027bf",
        "acrobot": "3a5d0e107ff4",
        "mountaincar": "6d3301ae6de3",
        "minatar": "9bad0035bce1",
        "lunarlander": "63c7c6204166",
    }


def test_a_world_is_written_as_what_differs_and_read_again() -> None:
    config = DQNConfig(world=World(wind=(1.0, 2.0)))
    assert config.to_dict()["world"] == {"wind": (1.0, 2.0)}
    assert DQNConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert DQNConfig.from_dict({}).world == World()
    assert config.sha256 != DQNConfig().sha256
    assert DQNConfig.from_dict({"randomisation": {"wind": [1.0, 2.0]}}).randomisation == World(wind=(1.0, 2.0))
    assert DQNConfig(randomisation=World(wind=1.0)).to_dict()["randomisation"] == {"wind": 1.0}
    with pytest.raises(ConfigError, match=r"randomisation\.length must be a number above 0"):
        DQNConfig.from_dict({"randomisation": {"length": -1.0}})
    with pytest.raises(ConfigError, match="a world has no lenght"):
        DQNConfig.from_dict({"world": {"lenght": 1.0}})
    with pytest.raises(ConfigError, match="world must be a World, got"):
        DQNConfig(world={"length": 1.0})  # type: ignore[arg-type]


def test_what_is_randomised_takes_the_place_of_the_worlds_own() -> None:
    config = DQNConfig(world=World(length=1.0, wind=2.0), randomisation=World(length=(0.5, 1.5), action_delay=1))
    assert config.training_worlds([0]) == (World(length=(0.5, 1.5), wind=2.0, action_delay=1),)
    assert DQNConfig(world=World(wind=2.0)).training_worlds([0]) == (World(wind=2.0),)
