"""A model of an environment with images, or with arguments: loaded, checked, asked and played as any other."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dqn.environments.making import make
from serving.__main__ import require_environments
from serving.arguments import UsageError
from serving.episodes.grid import grid
from serving.episodes.recording import frames, to_gif
from serving.episodes.replay import record
from serving.episodes.simulation import Simulation, why_no_pictures
from serving.errors import PolicyError, RequestError
from serving.inference.protocol import model_config, model_metadata, parse_infer
from serving.loop.experience import Experience
from serving.metrics.inputs import Inputs
from serving.models.served import ServedModel
from serving.models.source import Version
from serving.policy import OnnxPolicy
from tests.support.dqn.spaces import LENGTH, SPACES
from tests.support.serving.policies import PROPERTIES, linear_model

NAMES = ["image", "bits", "film", "dict", "discrete", "floats"]
ENVIRONMENTS = frozenset(f"{kind}-{name}-v0" for kind in ("Shown", "Endless") for name in SPACES)


def shape_of(name: str) -> tuple[int, ...]:
    env = make(f"Shown-{name}-v0")
    return tuple(env.observation_space.shape or ())


def model_of(name: str, kind: str = "Shown", **properties: str) -> bytes:
    shape = shape_of(name)
    gains = np.resize([1.0, -1.0], int(np.prod(shape)))
    own = PROPERTIES | {"env_id": f"{kind}-{name}-v0"} | properties
    return linear_model(gains.tolist(), shape=shape, properties=own)


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def served(model: bytes) -> ServedModel:
    return ServedModel.load("m", Version(number="1", source=""), model, environments=ENVIRONMENTS)


def test_it_is_checked_and_plays(name: str) -> None:
    policy = served(model_of(name)).policy
    assert policy.metadata.observation_shape == shape_of(name)
    replay = record(policy, model="m", version="1", seed=3)
    assert len(replay.actions) == LENGTH
    assert np.array(replay.observations).shape == (LENGTH + 1, policy.metadata.observation_size)
    assert replay.actions == record(policy, model="m", version="1", seed=3).actions


def test_a_model_of_another_shape_is_refused() -> None:
    flat = linear_model([1.0] * 18, properties=PROPERTIES | {"env_id": "Shown-image-v0"})
    with pytest.raises(PolicyError, match=r"takes observations of the shape \(18,\), .* has the shape \(3, 2, 3\)"):
        served(flat)
    policy = served(model_of("image")).policy
    for given in (np.zeros((2, 18)), np.zeros((3, 2, 3)), np.zeros(())):
        with pytest.raises(ValueError, match=r"expected observations of shape \[batch, 3, 2, 3\]"):
            policy.q_values(given)


def request(observations: Any, shape: list[int]) -> bytes:
    tensor = {"name": "observation", "shape": shape, "datatype": "FP32", "data": observations}
    return json.dumps({"inputs": [tensor]}).encode()


def test_the_protocol_states_and_takes_its_shape(name: str) -> None:
    policy = served(model_of(name)).policy
    shape = list(policy.metadata.observation_shape)
    assert model_metadata("m", ["1"], policy.metadata).inputs[0].shape == (-1, *shape)
    assert model_config("m", policy.metadata).input[0].dims == tuple(shape)
    given = np.random.default_rng(0).normal(size=(5, *shape)).astype(np.float32)
    rows = given.reshape(5, -1)
    binary = {"name": "observation", "shape": [5, *shape], "datatype": "FP32"}
    header = json.dumps({"inputs": [binary | {"parameters": {"binary_data_size": given.nbytes}}]}).encode()
    for parsed in (
        parse_infer(request(rows.tolist(), [5, *shape]), None, shape),
        parse_infer(request(rows.ravel().tolist(), [5, *shape]), None, shape),
        parse_infer(header + given.tobytes(), str(len(header)), shape),
    ):
        assert np.array_equal(parsed.observation, given)
        assert policy.q_values(parsed.observation).shape == (5, 2)
    for wrong in ([5, rows.shape[1] + 1], [5], [0, *shape], [5, *shape, 1], []):
        with pytest.raises(RequestError, match=r"must have shape \[batch, .*\] with a batch of 1 or more"):
            parse_infer(request([0.0], wrong), None, shape)


def test_an_environment_is_played_with_its_arguments_and_its_time_limit() -> None:
    """Three steps of one without a limit, with more actions than by default."""
    properties = {"env_kwargs": '{"actions": 3}', "max_episode_steps": "3", "action_meanings": "a,b,c"}
    gains = np.resize([1.0, -1.0], 18).tolist()
    own = PROPERTIES | {"env_id": "Endless-image-v0"} | properties
    policy = served(linear_model(gains, shape=(3, 2, 3), actions=3, properties=own)).policy
    replay = record(policy, model="m", version="1", seed=0)
    assert (len(replay.actions), replay.truncated) == (3, True)
    assert (json.loads(replay.env_kwargs), replay.max_episode_steps) == ({"actions": 3}, 3)
    assert replay.environment == policy.metadata.environment
    simulation = Simulation(replay.environment)
    assert simulation.environment.max_episode_steps == 3
    assert why_no_pictures(replay.environment)
    with pytest.raises(PolicyError, match=r"cannot be played here: .* no time limit"):
        served(linear_model(gains, shape=(3, 2, 3), properties=PROPERTIES | {"env_id": "Endless-image-v0"}))
    wrong = own | {"env_kwargs": '{"sice": 3}'}
    with pytest.raises(PolicyError, match=r"cannot be played here: .* constructor .*'sice'"):
        served(linear_model(gains, shape=(3, 2, 3), actions=3, properties=wrong))


def test_bits_are_seen_as_a_grid_of_coloured_cells_where_nothing_else_is_drawn() -> None:
    assert {name for name in NAMES if not why_no_pictures(f"Shown-{name}-v0")} == {"bits"}
    bits = np.zeros((2, 3, 2), np.bool_)
    bits[0, 1], bits[1, 2] = (True, False), (True, True)
    picture = grid(bits)
    side = len(picture) // 2
    assert picture.shape == (2 * side, 3 * side, 3)
    cells = picture[::side, ::side]
    assert np.array_equal(picture, cells.repeat(side, 0).repeat(side, 1))
    assert np.array_equal(cells.any(2), bits.any(2))
    assert not np.array_equal(cells[0, 1], cells[1, 2]), "the last channel that is set is seen"
    replay = record(served(model_of("bits")).policy, model="m", version="1", seed=3)
    seen = [picture[:: len(picture) // 3, :: len(picture) // 3].any(2) for picture in frames(replay)]
    assert np.array_equal(seen, np.reshape(replay.observations, (LENGTH + 1, 3, 3, 2)).any(3))
    assert to_gif(replay).startswith(b"GIF89a")


def test_what_is_kept_of_a_large_image_has_a_bound(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("serving.episodes.simulation._MOST_ENTRIES", 17)
    policy = OnnxPolicy.load(model_of("image"))
    simulation = Simulation("Shown-image-v0")
    simulation.reset(0)
    step = simulation.step(policy)
    assert (step.observation, step.next_observation, simulation.state) == ((), (), ())
    experience = Experience()
    experience.add(version=1, episode=1, step=step)
    assert experience.columns(0)["observation"].shape == (1, 0)
    inputs = Inputs(policy.metadata)
    inputs.add(np.zeros((4, 3, 2, 3), np.float32), np.array([[0.0, 1.0]] * 4, np.float32))
    inputs.add(np.array([step.observation], np.float32), np.array([[0.0, 1.0]], np.float32))
    inputs.count()
    assert (inputs.rows, inputs.actions.tolist()) == (5, [0, 5])


def test_an_environment_without_a_registered_time_limit_may_be_admitted() -> None:
    require_environments(["Endless-image-v0"])  # the model has the limit
    with pytest.raises(UsageError, match=r"^--allow-env: environment 'NoSuch-v0' cannot be made"):
        require_environments(["NoSuch-v0"])
