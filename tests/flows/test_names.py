import gymnasium as gym
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlflow import MlflowClient

from flows.names import environment_of, model_name
from flows.registry import versions

IDS = st.text(st.sampled_from("aZ0/:~-_.") | st.characters(codec="utf-8"), min_size=1, max_size=12)


@settings(max_examples=500)
@given(IDS, IDS)
def test_no_two_environments_share_a_model(first: str, second: str) -> None:
    assert (model_name(first) == model_name(second)) == (first == second)
    assert environment_of(model_name(first)) == first
    assert not set(model_name(first)) & set("/:")


@settings(max_examples=300)
@given(st.text("ab~012/:-", max_size=8))
def test_the_environment_of_a_model_is_the_one_it_is_named_for(env_id: str) -> None:
    assert environment_of(model_name(env_id)) == env_id


@pytest.mark.parametrize(
    ("env_id", "name"),
    [
        ("CartPole-v1", "dqn-CartPole-v1"),
        ("CartPole/v1", "dqn-CartPole~1v1"),
        ("ALE/Pong-v5", "dqn-ALE~1Pong-v5"),
        ("boing_gym:Boing-v0", "dqn-boing_gym~2Boing-v0"),
        ("my.module:space/Name-v0", "dqn-my.module~2space~1Name-v0"),
        ("CartPole~1v1", "dqn-CartPole~01v1"),
    ],
)
def test_a_name_says_which_environment_it_is(env_id: str, name: str) -> None:
    assert model_name(env_id) == name


def test_what_has_no_namespace_keeps_its_name() -> None:
    plain = [env_id for env_id in gym.registry if not set(env_id) & set("/:~")]
    assert len(plain) > 10
    assert [model_name(env_id) for env_id in plain] == [f"dqn-{env_id}" for env_id in plain]


def test_a_registry_takes_an_escaped_name(store: MlflowClient) -> None:
    name = model_name("my.module:space/Escaped-v0")
    store.create_registered_model(name, description=versions._about(name))
    found = store.get_registered_model(name)
    assert found.name == name
    assert "my.module:space/Escaped-v0" in str(found.description)
