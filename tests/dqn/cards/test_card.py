"""A card computes what the exported policy and Gymnasium compute, in a browser."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import pytest
import torch
from playwright.sync_api import Page

from dqn.cards.card import card
from dqn.environments.making import make
from dqn.environments.world import World
from dqn.networks.bodies.mlp import MLP
from dqn.networks.onnx import ModelProperties, action_meanings, by_reference, export_onnx
from dqn.networks.population import QNetworks
from serving.policy import OnnxPolicy
from tests.support.serving.browser import IN_A_BROWSER, until
from tests.support.serving.policies import BALANCES

pytestmark = IN_A_BROWSER

SIZES: Final = {"CartPole-v1": (4, 2), "Acrobot-v1": (6, 3), "MountainCar-v0": (2, 3), "LunarLander-v3": (8, 4)}
WORDS: Final = {"title": "A & <b>", "trained": "By <i>hand</i>.", "judged": "Not at all."}
EPISODE: Final = """([seed, changes, pushes]) => {
  const world = {...ENVIRONMENTS[card.environment].world, ...card.world}, states = [], actions = [];
  const now = episode(card.environment, seed, world, card.limit || undefined);
  states.push(now.state);
  while (!now.over) {
    Object.assign(world, changes[now.steps] ?? {});
    actions.push(greedy(qValues(policy, now.observation())));
    now.step(actions.at(-1), pushes[now.steps] ?? 0);
    states.push(now.state);
  }
  return [states, actions, now.total, now.over];
}"""


def exported(
    env_id: str,
    *,
    hidden: Sequence[int],
    gains: Sequence[float] = (),
    world: World | None = None,
    max_episode_steps: int = 0,
) -> bytes:
    """A policy with drawn weights, or without hidden layers and with the given ones."""
    obs, actions = SIZES[env_id]
    body = MLP(observation_shape=(obs,), hidden_sizes=tuple(hidden))
    networks = QNetworks.initialised(seeds=[5], body=body, num_actions=actions, observation_scale=(0.7,) * obs)
    if gains:
        row = torch.tensor(gains) * 0.7
        networks.weights[0][0] = torch.stack([-row, row])
        networks.biases[0][0] = 0
    properties = ModelProperties(
        env_id=env_id,
        action_meanings=action_meanings(env_id, actions),
        run_id="r",
        seed=3,
        agent=0,
        config_sha256="c",
        world=world or World(),
        max_episode_steps=max_episode_steps,
    )
    return export_onnx(networks, properties, load=by_reference)


def opened(page: Page, directory: Path, model: bytes) -> Page:
    path = directory / "card.html"
    path.write_bytes(card(model, **WORDS))
    page.goto(path.as_uri(), wait_until="domcontentloaded")
    return page


@pytest.mark.parametrize(("env_id", "hidden"), [("CartPole-v1", (32, 32)), ("Acrobot-v1", (128, 128))])
def test_q_values_are_onnxruntimes(lonely: Page, tmp_path: Path, env_id: str, hidden: Sequence[int]) -> None:
    model = exported(env_id, hidden=hidden)
    given = np.random.default_rng(1).uniform(-4, 4, (10_000, SIZES[env_id][0])).astype(np.float32)
    page = opened(lonely, tmp_path, model)
    found = np.array(page.evaluate("rows => rows.map(row => [...qValues(policy, row)])", given.tolist()))
    expected = OnnxPolicy.load(model).q_values(given)
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert page.evaluate("rows => rows.map(row => greedy(qValues(policy, row)))", given[:100].tolist()) == (
        expected[:100].argmax(1).tolist()
    )


@pytest.mark.parametrize("seed", [0, 7, 2**31 + 5])
@pytest.mark.parametrize(("env_id", "steps"), [("CartPole-v1", 500), ("MountainCar-v0", 200)])
def test_an_episode_is_gymnasiums_to_the_last_bit(
    lonely: Page, tmp_path: Path, env_id: str, steps: int, seed: int
) -> None:
    """Of float64: the sine and cosine of V8 are those of glibc, which Python and numpy use."""
    gains = BALANCES if env_id == "CartPole-v1" else ()
    model = exported(env_id, hidden=() if gains else (16,), gains=gains)
    states, actions, total, over = opened(lonely, tmp_path, model).evaluate(EPISODE, [seed, {}, {}])
    policy, env = OnnxPolicy.load(model), make(env_id)
    observation, _ = env.reset(seed=seed)
    expected, returned = [list(env.unwrapped.state)], 0.0  # type: ignore[attr-defined]
    for action in actions:
        assert int(policy.act(observation[np.newaxis])[0]) == action
        observation, reward, terminated, truncated, _ = env.step(action)
        expected.append(list(env.unwrapped.state))  # type: ignore[attr-defined]
        returned += float(reward)
    env.close()
    assert terminated or truncated
    assert len(actions) == steps
    assert over == f"{steps} steps"
    assert total == returned
    assert np.array(states).tolist() == np.array(expected).tolist()


def test_a_step_of_acrobot_is_gymnasiums_but_for_the_last_bits(lonely: Page, tmp_path: Path) -> None:
    """Numpy squares by the C library's pow, which rounds one product in a thousand to the neighbouring number.

    Acrobot's motion enlarges such a difference, so each step begins from Gymnasium's state.
    """
    env = make("Acrobot-v1")
    env.reset(seed=11)
    actions = np.random.default_rng(0).integers(0, 3, 500)
    expected = [np.array(env.unwrapped.state, dtype=np.float64).tolist()]  # type: ignore[attr-defined]
    for action in actions:
        env.step(int(action))
        expected.append(env.unwrapped.state.tolist())  # type: ignore[attr-defined]
    env.close()
    page = opened(lonely, tmp_path, exported("Acrobot-v1", hidden=(8,)))
    assert page.evaluate("episode('Acrobot-v1', 11, {}).state") == expected[0]
    step = "([states, actions]) => actions.map((a, i) => ENVIRONMENTS[card.environment].step(states[i], a, %s))"
    found = page.evaluate(step % "ENVIRONMENTS[card.environment].world", [expected[:-1], actions.tolist()])
    np.testing.assert_allclose(found, expected[1:], rtol=0, atol=1e-13)
    same = sum(mine == theirs for mine, theirs in zip(found, expected[1:], strict=True))
    assert same > 450


def test_pushes_and_a_changed_world_are_the_servers(lonely: Page, tmp_path: Path) -> None:
    born = World(wind=0.5, sensor_bias=(0.0, 0.0, 0.01, 0.0), masspole=0.2)
    changes = {120: World(gravity=12.0, length=0.8), 200: World(gravity=12.0, length=0.8, action_delay=1)}
    pushes = {60: 12.5, 150: -20.0}
    model = exported("CartPole-v1", hidden=(), gains=BALANCES, world=born)
    in_the_page = {step: change.to_dict() for step, change in changes.items()}
    given = [4, {str(k): v for k, v in in_the_page.items()}, {str(k): v for k, v in pushes.items()}]
    states, actions, _, _ = opened(lonely, tmp_path, model).evaluate(EPISODE, given)
    env = make("CartPole-v1", born)
    observation, _ = env.reset(seed=4)
    policy, found = OnnxPolicy.load(model), [list(env.unwrapped.state)]  # type: ignore[attr-defined]
    for step, action in enumerate(actions):
        if step in changes:
            env.change(born.altered(changes[step]))
        assert int(policy.act(observation[np.newaxis])[0]) == action, step
        observation, *_ = env.step(action, push=pushes.get(step, 0.0))
        found.append(list(env.unwrapped.state))  # type: ignore[attr-defined]
    env.close()
    assert len(actions) > 250
    assert np.array(states).tolist() == np.array(found).tolist()


def test_an_episode_has_the_policys_own_limit(lonely: Page, tmp_path: Path) -> None:
    model = exported("CartPole-v1", hidden=(), gains=BALANCES, max_episode_steps=40)
    page = opened(lonely, tmp_path, model)
    assert page.evaluate(EPISODE, [0, {}, {}])[2:] == [40, "40 steps"]
    until(page, "document.querySelector('.said').textContent === '40 steps. Return 40.'")


def test_it_can_be_pushed_and_broken_and_put_right(lonely: Page, tmp_path: Path) -> None:
    page = opened(lonely, tmp_path, exported("CartPole-v1", hidden=(), gains=BALANCES))
    until(page, "shown.episode().steps > 5")
    page.get_by_role("slider", name="Force of a push").fill("120")
    page.get_by_role("button", name="Push ▶").click()
    for _ in range(4):
        page.keyboard.press("ArrowRight")
        page.wait_for_timeout(60)
    until(page, "document.querySelector('.returns .touched') !== null")
    assert "Return" in page.locator(".said").inner_text()
    page.get_by_role("button", name="Reverse the motor").click()
    assert page.evaluate("shown.world.force_mag") == -10
    page.get_by_role("button", name="Put it right").click()
    assert page.evaluate("shown.world.force_mag") == 10
    page.get_by_role("spinbutton", name="Seed").fill("31")
    page.get_by_role("button", name="New episode").click()
    assert page.evaluate("shown.episode().seed") == 31
    assert page.locator("h1").inner_text() == WORDS["title"]
    assert "By <i>hand</i>." in page.locator(".about").inner_text()


def test_it_plays_in_a_frame_without_an_origin_as_mlflows_pages_show_it(lonely: Page, tmp_path: Path) -> None:
    content = card(exported("CartPole-v1", hidden=(), gains=BALANCES), **WORDS).decode()
    lonely.goto("about:blank")
    lonely.evaluate(
        """content => {
          const frame = document.createElement("iframe");
          frame.sandbox = "allow-scripts";
          frame.srcdoc = content;
          document.body.append(frame);
        }""",
        content,
    )
    inner = lonely.frame_locator("iframe").locator(".count")
    inner.wait_for()
    lonely.wait_for_timeout(400)
    assert int(inner.inner_text().removeprefix("step ")) > 3
