import dataclasses

from dqn.environments.world import World
from dqn.presets import PRESETS
from flows.request.general import general
from flows.tracking.labels import params, run_name

CARTPOLE = PRESETS["cartpole"]


def test_a_run_is_named_by_what_makes_it_different() -> None:
    assert run_name(CARTPOLE, "cartpole") == "CartPole-v1 cartpole, seed 0"
    other = dataclasses.replace(CARTPOLE, seed=7, gamma=0.9, num_agents=4, world=World(length=1.0))
    assert run_name(other, "cartpole") == "CartPole-v1 cartpole, num_agents=4, gamma=0.9, world length 1, seed 7"
    assert run_name(PRESETS["acrobot"], "acrobot") == "Acrobot-v1 acrobot, seed 0"
    untuned = dataclasses.replace(general("FrozenLake-v1"), gamma=0.5)
    assert run_name(untuned, "general") == "FrozenLake-v1 general, gamma=0.5, seed 0"


def test_a_name_is_no_longer_than_mlflow_takes_and_keeps_its_seed() -> None:
    name = run_name(dataclasses.replace(PRESETS["lunarlander"], seed=12), "article")
    assert len(name) == 250
    assert name.startswith("LunarLander-v3 article, num_agents=16, num_envs=8")
    assert name.endswith(", seed 12")


def test_parameters_are_those_of_the_configuration_and_of_its_world() -> None:
    values = {param.key: param.value for param in params(dataclasses.replace(CARTPOLE, world=World(length=1.0)))}
    assert values["gamma"] == "0.995"
    assert values["max_episodes"] == "0"
    assert (values["world"], values["world.length"]) == ("length 1", "1.0")
    acrobot = {param.key: param.value for param in params(PRESETS["acrobot"])}
    assert acrobot["acceptance_return"] == "none"


def test_the_parameters_of_an_agent_name_its_world_and_the_population_counts_them() -> None:
    worlds = (World(length=1.0), World(force_mag=-10.0))
    config = dataclasses.replace(CARTPOLE, num_agents=2, worlds=worlds)
    assert run_name(config, "cartpole") == "CartPole-v1 cartpole, num_agents=2, 2 worlds, seed 0"
    whole, second = ({each.key: each.value for each in params(config, *agent)} for agent in ((), (1,)))
    assert (whole["worlds"], whole["world"], "world.force_mag" in whole) == ("2 worlds", "nominal", False)
    assert (second["worlds"], second["world"], second["world.force_mag"]) == ("2 worlds", "force_mag -10", "-10.0")
