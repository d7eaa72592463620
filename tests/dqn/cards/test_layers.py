"""What a card says, and what it does with a policy that it cannot play."""

import base64
import re
from io import BytesIO

import onnx
from PIL import Image, ImageSequence

from dqn.cards.card import card
from dqn.cards.layers import read_layers
from dqn.environments.world import World
from tests.dqn.cards.test_card import WORDS, exported
from tests.support.dqn.masked import ACTIONS, LENGTH, counted
from tests.support.serving import masked
from tests.support.serving.policies import BALANCES, PROPERTIES, linear_model


def test_layers_are_those_of_the_file() -> None:
    model = exported("CartPole-v1", hidden=(5, 3))
    layers = read_layers(model)
    assert layers is not None
    assert layers.sizes == [4, 5, 3, 2]
    assert len(layers.numbers) == 4 + 25 + 18 + 8
    assert layers.numbers[4:24].tolist() == layers.weights[0].ravel().tolist()
    other = onnx.load_model_from_string(model)
    other.graph.node[1].attribute[0].i = 0
    assert read_layers(other.SerializeToString()) is None


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


def test_another_graph_is_a_recorded_episode() -> None:
    model = linear_model(BALANCES)
    assert read_layers(model) is None
    page = card(model, **WORDS).decode()
    assert "this page does not compute it" in page
    assert "One recorded episode, seed 7: return 500 in 500 steps." in page
    picture = Image.open(BytesIO(base64.b64decode(page.partition("base64,")[2].partition('"')[0])))
    shown = [frame.info["duration"] for frame in ImageSequence.Iterator(picture) if frame.load() is not None]
    assert 20 < len(shown) <= 128
    assert sum(shown) == 10_000, "milliseconds: it is shown as fast as it was played"
    assert "its numbers and its world are in this one file" not in page
    assert "<script" not in page


def test_an_environment_that_does_not_exist_here_is_said() -> None:
    page = card(linear_model(properties=PROPERTIES | {"env_id": "Mine-v0"}), **WORDS).decode()
    assert "There are no pictures of Mine-v0 to show here." in page


def test_another_environment_is_a_recorded_episode() -> None:
    content = card(exported("LunarLander-v3", hidden=(8,)), **WORDS)
    assert len(content) < 60_000
    page = content.decode()
    assert "data:image/webp;base64," in page
    assert "One recorded episode, seed 7: return" in page
    assert "<script" not in page


def test_an_episode_under_action_masks_has_allowed_actions_only() -> None:
    layers = read_layers(masked.model())
    assert layers is not None
    assert layers.sizes == [LENGTH, 8, ACTIONS]
    with counted():
        page = card(masked.model(), **WORDS).decode()
    assert "One recorded episode" in page
    assert "<script" not in page
