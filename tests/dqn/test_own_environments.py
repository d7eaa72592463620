"""Environments of one's own: keyword arguments, a time limit, and functions that make an environment."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dqn.config import ConfigError, DQNConfig
from dqn.environments.making import make, make_vec
from dqn.environments.spec import Environment, EnvironmentUnsupportedError, environment_spec
from dqn.experience.vector import describe
from dqn.training.checkpoint import load_checkpoint, save_checkpoint
from dqn.training.loop import train
from dqn.training.state import TrainingState
from tests.support.dqn.spaces import LENGTH, make_shown

Make = Callable[..., DQNConfig]

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats(-9, 9) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
KWARGS = st.dictionaries(st.from_regex(r"[a-z_]{1,8}", fullmatch=True), PLAIN, max_size=4)


@settings(deadline=None)
@given(kwargs=KWARGS)
def test_arguments_survive_json_pickle_and_copies(kwargs: dict[str, Any]) -> None:
    config = DQNConfig(env_kwargs=kwargs)
    for copy in (
        DQNConfig.from_dict(json.loads(json.dumps(config.to_dict()))),
        pickle.loads(pickle.dumps(config)),
        DQNConfig(env_kwargs=dict(reversed(kwargs.items()))),
    ):
        assert (copy, hash(copy), copy.sha256) == (config, hash(config), config.sha256)
    assert hash(config.environment) == hash(Environment(env_id="CartPole-v1", kwargs=config.environment.kwargs))
    assert json.loads(config.environment.kwargs) == config.env_kwargs == kwargs
    kwargs["more"] = 1
    assert "more" not in config.env_kwargs


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ([1], "an object of JSON values"),
        ("size=3", "an object of JSON values"),
        ({"a b": 1}, "an object of JSON values, with the names of arguments"),
        ({3: 1}, "an object of JSON values"),
        ({"a": print}, "an object of JSON values"),
        ({"a": float("nan")}, "an object of JSON values"),
        ({"a": {1, 2}}, "an object of JSON values"),
        ({"render_mode": "human"}, "must leave out render_mode"),
        ({"max_episode_steps": 3}, "must leave out render_mode, .* and max_episode_steps, which is a field"),
    ],
    ids=str,
)
def test_arguments_that_are_not_plain_are_refused(kwargs: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^env_kwargs .*{message}"):
        DQNConfig(env_kwargs=kwargs)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        (Environment(env_id="FrozenLake-v1", kwargs='{"is_slipery": false}'), "constructor .*'is_slipery'"),
        (Environment(env_id="FrozenLake-v1", kwargs='{"map_name": "9x9"}'), "constructor .*9x9"),
        (Environment(env_id="CartPole-v1", kwargs='{"size": 3}'), "constructor .*'size'"),
        (Environment(env_id="Endless-floats-v0"), "no time limit.*--max-episode-steps 1000 or DQNConfig"),
        (Environment(env_id="Mine!", factory=make_shown), "cannot be made: Malformed environment ID"),
        (Environment(env_id="Mine", factory=make_shown), "no time limit.*DQNConfig"),
        (Environment(env_id="Mine", factory=lambda: 3, max_episode_steps=3), "constructor .*gymnasium.Env"),  # type: ignore[arg-type,return-value]
        (Environment(env_id="Mine", factory=lambda: 1 / 0, max_episode_steps=3), "constructor .*ZeroDivision"),  # type: ignore[arg-type,return-value]
    ],
    ids=lambda each: each.env_id if isinstance(each, Environment) else each[:20],
)
def test_an_environment_that_cannot_be_made_is_refused_in_a_sentence(environment: Environment, message: str) -> None:
    for attempt in (make, describe, lambda each: make_vec(each, num_envs=2)):
        with pytest.raises(EnvironmentUnsupportedError, match=f"^environment '{environment.env_id}' .*{message}") as no:
            attempt(environment)
        assert "\n" not in str(no.value)


@pytest.mark.parametrize("limit", [0, 3, 700])
@pytest.mark.parametrize("env_id", ["CartPole-v1", "MountainCar-v0", "Shown-image-v0", "Endless-image-v0"])
def test_a_time_limit_is_that_of_every_kind_of_environment(env_id: str, limit: int) -> None:
    """A single one, a vector one of its own, one side by side, and one without a registered limit."""
    registered = gym.spec(env_id).max_episode_steps
    if not (limit or registered):
        return
    environment = Environment(env_id=env_id, max_episode_steps=limit)
    assert environment_spec(environment).max_episode_steps == (limit or registered)
    single, several = make(environment), make_vec(environment, num_envs=2)
    single.reset(seed=0)
    several.reset(seed=0)
    for _ in range(limit if limit == 3 else 0):
        truncated, both = single.step(0)[3], several.step(several.action_space.sample() * 0)[3]
    if limit == 3:
        assert truncated
        assert both.all()
    assert gym.spec(env_id).max_episode_steps == registered, "the registry is not changed"
    several.close()


def test_arguments_reach_every_sub_environment(small_config: Make) -> None:
    """Without them the lake is slippery, and a policy that goes right six times does not stay on its way."""
    for slippery in (False, True):
        environment = DQNConfig(env_id="FrozenLake-v1", env_kwargs={"is_slippery": slippery}).environment
        envs = make_vec(environment, num_envs=50)
        envs.reset(seed=0)
        observation = envs.step([2] * 50)[0]  # one field to the right
        assert (observation.argmax(1) == 1).all() == (not slippery)
        envs.close()


def test_an_environment_of_ones_own_is_trained_saved_and_tested(small_config: Make, tmp_path: Path) -> None:
    """By a function and by registration: the same arguments give the same networks."""
    fields: dict[str, Any] = {
        "env_kwargs": {"space": "image", "ends": False},
        "max_episode_steps": LENGTH,
        "max_updates": 60,
    }
    gym.register("Registered-v0", "tests.support.dqn.spaces:make_shown")
    known = train(small_config(env_id="Registered-v0", **fields))
    gym.registry.pop("Registered-v0")
    config, path = small_config(env_id="Mine-v0", **fields), tmp_path / "run.ckpt"
    result = train(config, env=make_shown)
    assert all((a == b).all() for a, b in zip(result.best.parameters(), known.best.parameters(), strict=True))
    assert result.test_returns(3).shape == (3, 3)

    state = TrainingState.begin(config, env=make_shown)
    save_checkpoint(path, state)
    state.environment.close()
    resumed, continues = load_checkpoint(path, config, env=make_shown)
    assert continues
    again = train(config, state=resumed, env=make_shown)
    assert all((a == b).all() for a, b in zip(again.best.parameters(), result.best.parameters(), strict=True))
    with pytest.raises(EnvironmentUnsupportedError, match="'Mine-v0' cannot be made"):
        load_checkpoint(path)


def test_a_function_is_refused_where_it_would_be_taken_for_something_else(small_config: Make) -> None:
    with pytest.raises(ConfigError, match=r"^env_id 'CartPole-v1' is a registered environment, which env= would"):
        train(small_config(), env=make_shown)
    config = small_config(env_id="Mine-v0", env_kwargs={"space": "image"}, max_episode_steps=9)
    state = TrainingState.begin(config, env=make_shown)
    with pytest.raises(ConfigError, match=r"^env differs from that of the state"):
        train(config, state=state, env=lambda **_: make_shown("image"))
    state.environment.close()
