import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from dqn.presets import PRESETS
from flows.failures.errors import InputError
from flows.search.spaces import SPACES, Choice, Range, Space, check_space, read_space

CARTPOLE = PRESETS["cartpole"]


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("preset", ["cartpole", "acrobot", "mountaincar", "lunarlander"])
def test_every_end_of_a_shipped_space_can_be_trained(name: str, preset: Any) -> None:
    check_space(SPACES[name], PRESETS[preset])
    assert Space.from_dict(json.loads(json.dumps(SPACES[name].to_dict()))) == SPACES[name]
    assert read_space(name) is SPACES[name]


def test_the_shipped_spaces_are_those_of_the_measurements() -> None:
    def bounds(name: str) -> dict[str, Any]:
        dimensions = SPACES[name].dimensions
        return {field: d.values if isinstance(d, Choice) else (d.low, d.high) for field, d in dimensions.items()}

    assert bounds("small") == {
        "learning_rate": (3e-4, 3e-2),
        "gamma": (0.95, 0.999),
        "tau": (0.005, 0.5),
        "epsilon_end": (0.01, 0.4),
        "adam_eps": (1e-8, 1e-3),
        "average_rate": (1e-3, 5e-2),
        "n_step": (1, 3, 5),
    }
    assert bounds("arlbench") == {
        "learning_rate": (1e-6, 0.1),
        "batch_size": (64, 128, 256),
        "replay_capacity": (10_000, 40_000, 120_000),
        "priority_exponent": (0.0, 0.9),
        "epsilon_start": (0.5, 1.0),
        "epsilon_end": (0.001, 0.2),
        "target_update_interval": (1, 100),
    }
    ranges = [(f, d) for s in SPACES.values() for f, d in s.dimensions.items() if isinstance(d, Range)]
    assert {field for field, dimension in ranges if dimension.log} == {
        *("learning_rate", "tau", "adam_eps", "average_rate")
    }
    assert {field for field, dimension in ranges if dimension.whole} == {"target_update_interval"}


def test_what_the_preset_ties_together_stays_so() -> None:
    space = SPACES["small"]
    config = space.configuration(CARTPOLE, {"learning_rate": 7e-4, "gamma": 0.96})
    assert config.learning_rate_end == pytest.approx(2e-5)  # a 35th, as in the preset
    assert config.reward_scale == pytest.approx(0.04)
    assert space.configuration(CARTPOLE, {"gamma": 0.96, "reward_scale": 1.0}).reward_scale == 1.0
    assert space.configuration(CARTPOLE, {"learning_rate": 7e-4, "learning_rate_end": 0.0}).learning_rate_end == 0.0
    untied = dataclasses.replace(CARTPOLE, reward_scale=1.0)
    assert space.configuration(untied, {"gamma": 0.96}).reward_scale == 1.0
    assert space.configuration(CARTPOLE, {"tau": 0.01}) == dataclasses.replace(CARTPOLE, tau=0.01)
    copied = space.configuration(CARTPOLE, {"target_update_interval": 7})
    assert (copied.tau, copied.target_update_interval, copied.target_update_episodes) == (0, 7, 0)
    assert space.configuration(CARTPOLE, {"target_update_interval": 0}) == CARTPOLE
    assert space.configuration(CARTPOLE, {}) == CARTPOLE


def test_dimensions_are_what_optuna_samples() -> None:
    space = Space(
        dimensions={
            "learning_rate": Range(low=1e-3, high=1e-1, log=True),
            "epsilon_end": Range(low=0.0, high=0.5),
            "target_update_interval": Range(low=1, high=9, whole=True),
            "eval_interval": Range(low=1, high=99, whole=True, log=True),
            "loss": Choice(values=("squared", "huber")),
            "hidden_sizes": Choice(values=((8,), (16, 16))),
            "double_dqn": Choice(values=(True, False)),
        }
    )
    assert space.distributions == {
        "learning_rate": FloatDistribution(1e-3, 1e-1, log=True),
        "epsilon_end": FloatDistribution(0.0, 0.5),
        "target_update_interval": IntDistribution(1, 9),
        "eval_interval": IntDistribution(1, 99, log=True),
        "loss": CategoricalDistribution(["squared", "huber"]),
        "hidden_sizes": CategoricalDistribution(["[8]", "[16, 16]"]),
        "double_dqn": CategoricalDistribution([True, False]),
    }
    config = space.configuration(CARTPOLE, {"hidden_sizes": "[16, 16]", "loss": "huber"})
    assert (config.hidden_sizes, config.loss) == ((16, 16), "huber")
    check_space(space, CARTPOLE)
    written = json.loads(json.dumps(space.to_dict()))
    assert Space.from_dict(written) == space
    assert Space.from_dict({"epsilon_end": {"low": 0, "high": 0.5}}) == Space(
        dimensions={"epsilon_end": Range(low=0, high=0.5)}
    )


@pytest.mark.parametrize("outside", [0.9949, 0.996])
def test_a_value_is_inside_of_a_range_from_end_to_end(outside: float) -> None:
    """CartPole's gamma is 0.995."""
    for low, high in ((0.995, 0.999), (0.9, 0.995)):
        assert Space(dimensions={"gamma": Range(low=low, high=high)}).values(CARTPOLE) == {"gamma": 0.995}
    low, high = (0.9, outside) if outside < 0.995 else (outside, 0.999)
    assert Space(dimensions={"gamma": Range(low=low, high=high)}).values(CARTPOLE) is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "a space is an object of fields"),
        ({}, "a space is an object of fields"),
        ({"lr": {"low": 1e-3, "high": 1e-2}}, "'lr' cannot be searched; what can: acceptance_episodes"),
        ({"seed": [1, 2]}, "'seed' cannot be searched"),
        ({"gamma": {"low": 0.9, "high": 1.0}}, "the space of gamma holds 1.0, which cannot be trained"),
        ({"gamma": {"low": -0.5, "high": 0.9}}, "the space of gamma holds -0.5"),
        ({"gamma": {"low": 0.9, "high": 0.9}}, "must go from a number to a greater one, got 0.9 to 0.9"),
        ({"gamma": {"low": "a", "high": 0.9}}, "must go from a number to a greater one, got a to 0.9"),
        ({"gamma": {"low": False, "high": True}}, "must go from a number to a greater one"),
        ({"tau": {"low": 0, "high": 0.5, "log": True}}, "must begin above 0, got 0"),
        ({"gamma": {"min": 0.9, "max": 0.99}}, "gamma must be a list of choices or an object of low, high"),
        ({"gamma": {"low": 0.9, "high": 0.99, "step": 0.1}}, "gamma must be a list of choices or an object"),
        ({"gamma": 0.9}, "gamma must be a list of choices or an object"),
        ({"n_step": [3]}, "the choices of n_step must be two or more"),
        ({"n_step": [3, "five"]}, "the space of n_step holds 'five', which cannot be trained"),
        ({"n_step": {"low": 1, "high": 5}}, "the space of n_step holds 1.0, which cannot be trained"),
        ({"replay_capacity": [100, 10_000]}, "must be at least min_replay_batches x batch_size"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_bad_space_is_refused_in_a_sentence(tmp_path: Path, content: object, message: str) -> None:
    file = tmp_path / "space.json"
    file.write_text(json.dumps(content))
    with pytest.raises(InputError, match=message):
        check_space(read_space(str(file)), CARTPOLE)


def test_a_space_that_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="name one of small, arlbench, or a JSON file"):
        read_space("large")
    (tmp_path / "torn.json").write_text("{")
    with pytest.raises(InputError, match="holds no space"):
        read_space(str(tmp_path / "torn.json"))
