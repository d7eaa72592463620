import dataclasses
from typing import Any

import pytest
from prefect.exceptions import ParameterTypeError
from pydantic import ValidationError

from dqn.config import ConfigError, DQNConfig
from dqn.environments.spec import EnvironmentUnsupportedError
from dqn.environments.world import World
from dqn.presets import PRESETS, PresetName
from flows.deployed import train_dqn
from flows.request.parameters import ConfigOverrides, check_trainable
from flows.train import check_request


def overrides(value: Any) -> ConfigOverrides:
    return ConfigOverrides.model_validate(value)


@pytest.mark.parametrize("preset", PRESETS)
def test_overrides_change_what_they_name_and_keep_the_rest_of_any_preset(preset: PresetName) -> None:
    assert overrides({"seed": 7}).applied_to(preset) == dataclasses.replace(PRESETS[preset], seed=7)
    assert overrides({}).applied_to(preset) == PRESETS[preset]


def test_a_whole_configuration_replaces_every_field() -> None:
    config = DQNConfig(num_agents=3, acceptance_return=None)
    assert overrides(config).applied_to("cartpole") == config


def test_json_arrays_become_the_tuples_of_the_configuration() -> None:
    assert overrides({"hidden_sizes": [8, 8]}).applied_to("article").hidden_sizes == (8, 8)


def test_none_is_a_value_only_where_the_field_has_it() -> None:
    assert overrides({"acceptance_return": None}).applied_to("cartpole").acceptance_return is None
    with pytest.raises(ValidationError, match="seed must be a whole number, got None"):
        overrides({"seed": None})


def test_unknown_keys_and_presets_are_refused_by_name() -> None:
    with pytest.raises(ValidationError, match=r"there is no hyper-parameter 'gama'; did you mean gamma\?"):
        overrides({"gama": 0.5})
    with pytest.raises(ConfigError, match=r"one of cartpole, robust, .*, got 'atari'"):
        overrides({}).applied_to("atari")  # type: ignore[arg-type] # what a person may type


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"seed": "x" * 99}, f"seed must be a whole number, got '{'x' * 39}"),
        ({"hidden_sizes": [8, "x"]}, "hidden_sizes must be whole numbers, got 'x'"),
        ({"loss": "l1"}, "loss must be one of squared, huber, got 'l1'"),
        ({"worlds": [{"wind": "x"}]}, "worlds must be worlds as JSON objects, such as '{\"length\": 1}', got 'x'"),
        ({"zzz": 1}, "there is no hyper-parameter 'zzz': leave it out"),
        ({"world": 3}, "world must be an object, got 3"),
        ({"world": {"length": "long"}}, "world.length must be a number or two numbers, from low to high, got 'long'"),
        ({"world": {"length": -1}}, "world.length must be a number above 0, or a range from low to high, got -1.0"),
        ({"world": {"lenght": 1}}, "there is no hyper-parameter 'world.lenght'; did you mean world.length?"),
        (3, "config must be an object, got 3"),
    ],
)
def test_a_flow_run_is_refused_in_a_sentence_and_in_no_words_of_pydantic(fields: Any, sentence: str) -> None:
    with pytest.raises(ParameterTypeError) as caught:
        train_dqn.validate_parameters({"config": fields})
    assert str(caught.value) == f"Flow run received invalid parameters:\n - config: {sentence}"


def test_out_of_range_is_refused_by_the_configuration_itself() -> None:
    with pytest.raises(ConfigError, match=r"gamma must be from 0 to 1, got 1\.5"):
        overrides({"gamma": 1.5}).applied_to("cartpole")


def test_the_schema_is_a_form_of_every_field_with_its_sentence_and_no_default() -> None:
    schema = ConfigOverrides.model_json_schema()
    fields = schema["properties"]
    names = [field.name for field in dataclasses.fields(DQNConfig)]
    assert [fields[name].pop("position") for name in names] == list(range(len(fields)))
    assert fields["gamma"] == {"title": "Gamma", "type": "number", "description": "Discount factor."}
    assert "required" not in schema
    assert schema["$defs"]["World"]["properties"]["wind"]["description"].startswith("Constant outside force")


def test_what_is_sent_on_is_what_was_given() -> None:
    assert overrides({"seed": 7}).model_dump(mode="json") == {"seed": 7}


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"env_id": "Nowhere-v0"}, Exception, "Nowhere-v0.*cannot be made"),
        ({"env_id": "Acrobot-v1"}, ConfigError, "observation_scale has 4 entries and Acrobot-v1 has observations of 6"),
        ({"num_quantiles": 5}, ConfigError, "num_quantiles is 5"),
        ({"replay_capacity": 10**12}, MemoryError, "lower replay_capacity or num_agents"),
    ],
)
def test_what_the_environment_and_the_machine_forbid_is_refused_before_the_start(
    fields: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        check_trainable(overrides(fields).applied_to("cartpole"))


def test_presets_are_trainable() -> None:
    for name, config in PRESETS.items():
        if name == "minatar":  # its package is not among the requirements
            with pytest.raises(EnvironmentUnsupportedError, match="No module named 'minatar'"):
                check_trainable(config)
        else:
            check_trainable(config)


def test_a_world_is_part_of_the_form_and_is_checked_against_the_environment() -> None:
    config = overrides({"world": {"length": [0.25, 0.75], "action_delay": 2}}).applied_to("cartpole")
    assert config.world == World(length=(0.25, 0.75), action_delay=2)
    again = overrides(overrides({"world": {"length": 1.0}}).model_dump(mode="json")).applied_to("cartpole")
    assert again.world == World(length=1.0)
    with pytest.raises(ValidationError, match=r"world\.length must be a number above 0"):
        overrides({"world": {"length": -1.0}})
    with pytest.raises(ValidationError, match=r"lenght[\s\S]*"):
        overrides({"world": {"lenght": 1.0}})
    with pytest.raises(EnvironmentUnsupportedError, match="Acrobot-v1 has no wind"):
        check_trainable(dataclasses.replace(PRESETS["acrobot"], world=World(wind=1.0)))
    with pytest.raises(EnvironmentUnsupportedError, match="has no wind"):
        check_trainable(dataclasses.replace(PRESETS["acrobot"], randomisation=World(wind=1.0)))
    right, wrong = World(sensor_noise=(0.1,) * 6), World(sensor_noise=(0.1,))
    with pytest.raises(EnvironmentUnsupportedError, match="sensor_noise has 1 entries"):  # played in, not trained in
        check_trainable(dataclasses.replace(PRESETS["acrobot"], world=wrong, randomisation=right))


@pytest.mark.parametrize(("hidden_sizes", "fits"), [((4096, 4000), True), ((4096, 4096), False), ((2**23,), False)])
def test_a_policy_that_serving_would_not_load_is_refused_before_training(
    hidden_sizes: tuple[int, ...], fits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.request.parameters.require_memory", lambda *_, **__: None)
    config = DQNConfig(num_agents=1, hidden_sizes=hidden_sizes)
    if fits:
        check_trainable(config)
        return
    with pytest.raises(ConfigError, match=r"make a policy of \d+ MiB, which serving would refuse: it loads 64 MiB"):
        check_trainable(config)


def test_a_training_that_would_register_the_best_of_several_worlds_is_refused() -> None:
    worlds = [{"wind": 1.0}, {"wind": 2.0}]
    with pytest.raises(ConfigError, match="2 different worlds, and returns do not rank agents of different worlds"):
        check_request(overrides({"num_agents": 2, "worlds": worlds}), "cartpole", None, None, "checkpoints")
    with pytest.raises(EnvironmentUnsupportedError, match="has no wind"):
        check_trainable(overrides({"num_agents": 2, "worlds": [{}, {"wind": 1.0}]}).applied_to("acrobot"))
    alike = overrides({"num_agents": 2, "worlds": [{"wind": 1.0}] * 2}).applied_to("cartpole")
    assert (alike.world, alike.worlds) == (World(wind=1.0), ())
