import pytest

from flows.request.suggestions import did_you_mean, nearest

OPTIONS = ("learning-rate", "learning-rate-end", "loss", "num-agents", "num-envs", "gamma", "world.length")
ENVIRONMENTS = ("CartPole-v0", "CartPole-v1", "Acrobot-v1", "LunarLander-v3", "LunarLanderContinuous-v3")


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("lr", ["learning-rate"]),
        ("learning-rat", ["learning-rate"]),
        ("agents", ["num-agents"]),
        ("gama", ["gamma"]),
        ("GAMMA", ["gamma"]),
        ("world.lenght", ["world.length"]),
        ("num", ["num-agents", "num-envs"]),
        ("epochs", []),
        ("en", []),
    ],
)
def test_an_option_is_known_by_its_spelling_its_initials_or_a_part(given: str, meant: list[str]) -> None:
    assert nearest(given, OPTIONS) == meant


def test_no_more_than_three_and_the_likeliest_first() -> None:
    assert nearest("CartPol-v1", ENVIRONMENTS) == ["CartPole-v1", "CartPole-v0"]
    assert nearest("lunarlander-v3", ENVIRONMENTS) == ["LunarLander-v3"]
    assert nearest("abc1", ("abc2", "abc3", "abc4", "abc5")) == ["abc2", "abc3", "abc4"]
    assert nearest("anything", ()) == []


def test_it_ends_a_sentence() -> None:
    assert did_you_mean("lr", OPTIONS, prefix="--") == "; did you mean --learning-rate?"
    assert did_you_mean("abc1", ("abc2", "abc3", "abc4")) == "; did you mean abc2, abc3 or abc4?"
    assert did_you_mean("epochs", OPTIONS) == ""
