"""Environments of one's own on the command line: arguments and a time limit."""

import json
from typing import Any

import pytest
from hypothesis import given, settings

from dqn.config import ConfigError
from dqn.environments.spec import EnvironmentUnsupportedError
from flows.cli import train
from flows.cli.keywords import read_keywords
from flows.request.general import GENERAL
from flows.request.parameters import ConfigOverrides, check_trainable
from tests.dqn.test_own_environments import KWARGS

OWN = ("--env-id", "Endless-image-v0", "--max-episode-steps", "8")


@settings(deadline=None, max_examples=30)
@given(kwargs=KWARGS)
def test_what_is_written_is_read(kwargs: dict[str, Any]) -> None:
    assert read_keywords([json.dumps(kwargs)]) == kwargs
    assert read_keywords([f"{name}={json.dumps(value)}" for name, value in kwargs.items()]) == kwargs


@pytest.mark.parametrize(
    ("words", "read"),
    [
        ([], {}),
        (["{}"], {}),
        (["is_slippery=false", "map_name=8x8"], {"is_slippery": False, "map_name": "8x8"}),
        (["a=False", "b=True", "c=None", "d=null"], {"a": False, "b": True, "c": None, "d": None}),
        (["a=1", "b=1.5", "c=x=y", "d=", 'e="1"'], {"a": 1, "b": 1.5, "c": "x=y", "d": "", "e": "1"}),
        (["a=[1, 2]", 'b={"c": 1}'], {"a": [1, 2], "b": {"c": 1}}),
    ],
)
def test_a_value_is_json_or_a_string(words: list[str], read: dict[str, Any]) -> None:
    assert read_keywords(words) == read


@pytest.mark.parametrize("words", [["a"], ["=1"], ["a=1", "a=2"], ["{"], ["{} x"], ["a=1", "b"]])
def test_what_is_no_pair_is_refused(words: list[str]) -> None:
    with pytest.raises(ValueError, match=r"NAME=VALUE|Expecting|Extra"):
        read_keywords(words)
    with pytest.raises(ConfigError, match=r"^--env-kwargs takes NAME=VALUE pairs or one JSON object, got "):
        train.parse(["--env-kwargs", *words])


@settings(deadline=None, max_examples=30)
@given(kwargs=KWARGS)
def test_options_reach_the_flow(kwargs: dict[str, Any]) -> None:
    """Through arguments and overrides, with general values and with a preset's: the same environment."""
    ours = {name: value for name, value in kwargs.items() if name not in ("space", "ends", "actions")}
    pairs = [f"{name}={json.dumps(value)}" for name, value in ours.items()]
    arguments = train.parse(["--preset", "article", "--max-episode-steps", "9", "--env-kwargs", *pairs])
    assert arguments.config.env_kwargs == ours
    request = ConfigOverrides.model_validate(train._overrides(arguments))
    again = ConfigOverrides.model_validate(json.loads(json.dumps(request.model_dump(mode="json"))))
    assert again.applied_to("article") == request.applied_to("article") == arguments.config


def test_an_environment_without_a_time_limit_takes_one() -> None:
    with pytest.raises(EnvironmentUnsupportedError, match=r"no time limit, .*--max-episode-steps 1000"):
        train.parse(OWN[:2])
    arguments = train.parse([*OWN, "--env-kwargs", "actions=3"])
    assert arguments.preset == GENERAL
    config = ConfigOverrides.model_validate(train._overrides(arguments)).applied_to(GENERAL)
    assert config == arguments.config
    assert (config.max_episode_steps, config.env_kwargs) == (8, {"actions": 3})
    assert config.observation_scale == (), "bytes are divided in the graph"
    check_trainable(config)
    assert train.check(arguments) is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--env-id", "FrozenLake-v1", "--env-kwargs", "is_slipery=false"], "constructor .*'is_slipery'"),
        (["--env-id", "FrozenLake-v1", "--env-kwargs", "render_mode=human"], "must leave out render_mode"),
        (["--env-id", "FrozenLake-v1", "--env-kwargs", "a b=1"], "with the names of arguments"),
        (["--env-id", "FrozenLake-v1", "--max-episode-steps", "x"], "takes a whole number, got x"),
        (["--env-id", "FrozenLake-v1", "--max-episode-steps", "-1"], "must be 0 or above"),
        (["--env-id", "nomodule:Env-v0"], "No module named 'nomodule'"),
        (["--env-id", "Endless-floats-v0", "--preset", "general"], "no time limit"),
    ],
    ids=lambda each: " ".join(each[2:]) if isinstance(each, list) else "",
)
def test_a_wrong_environment_is_refused_in_a_sentence(options: list[str], message: str) -> None:
    with pytest.raises((ConfigError, EnvironmentUnsupportedError), match=message) as refused:
        train.parse(options)
    assert "\n" not in str(refused.value)


def test_help_shows_how_arguments_are_given(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        train.parse(["--help"])
    shown = capsys.readouterr().out
    assert "--env-kwargs" in shown
    assert "NAME=VALUE" in shown
    assert "--max-episode-steps" in shown
