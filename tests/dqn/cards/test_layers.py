"""What a card says, and what it does with a policy that it cannot play."""

import re

import numpy as np

from dqn.cards.card import card
from dqn.cards.layers import read_layers
from dqn.environments.world import World
from serving.policy import OnnxPolicy
from tests.dqn.cards.test_card import WORDS, exported
from tests.support.serving.policies import linear_model


def test_layers_are_those_of_the_file() -> None:
    model = exported("CartPole-v1", hidden=(5, 3))
    layers = read_layers(model)
    assert layers is not None
    assert layers.sizes == [4, 5, 3, 2]
    assert len(layers.numbers) == 4 + 25 + 18 + 8
    given = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    np.testing.assert_allclose(layers.q_values(given), OnnxPolicy.load(model).q_values(given), rtol=1e-5, atol=1e-6)


def test_a_card_is_small_and_escapes_what_it_is_told() -> None:
    content = card(exported("CartPole-v1", hidden=(32, 32)), **WORDS)
    assert len(content) < 60_000
    page = content.decode()
    assert "A &amp; &lt;b&gt;" in page
    assert "<i>hand" not in page
    assert "4 - 32 - 32 - 2 neurons" in page
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert "default-src 'none'" in page


def test_a_world_of_ranges_is_played_at_its_middle_and_the_card_says_so() -> None:
    page = card(exported("CartPole-v1", hidden=(8,), world=World(length=(0.5, 1.5), push_force=9.0)), **WORDS).decode()
    assert '"world": {"length": 1.0}' in page
    assert "leaves out push_force" in page
    assert "length 0.5 to 1.5" in page


def test_another_graph_is_not_played_and_the_card_says_so() -> None:
    assert read_layers(linear_model()) is None
    page = card(linear_model(), **WORDS).decode()
    assert "a card cannot play it" in page
    assert "<script>" not in page


def test_another_environment_is_a_recorded_episode() -> None:
    content = card(exported("LunarLander-v3", hidden=(8,)), **WORDS)
    assert len(content) < 60_000
    page = content.decode()
    assert "data:image/webp;base64," in page
    assert "One recorded episode, seed 7: return" in page
    assert "<script>" not in page
