import io

import gymnasium as gym
import numpy as np
import pytest
from PIL import Image, ImageChops

from flows.reporting.animations import PANELS, episode_gif, learning_gif, spread
from flows.training.milestones import PUSHES, SEED, Learned
from serving.episodes import milestones as served
from serving.policy import OnnxPolicy
from tests.support.dqn.probes import Probe
from tests.support.serving.policies import ACROBOT, BALANCES, FALLS, PROPERTIES, SWINGS, linear_model

FELL = OnnxPolicy.load(linear_model(FALLS))
HELD = OnnxPolicy.load(linear_model(BALANCES))


def learned(*returns: float) -> list[Learned]:
    return [Learned(label=str(k), mean_return=value, policy=FELL) for k, value in enumerate(returns)]


def pictures(gif: bytes) -> tuple[list[Image.Image], list[int]]:
    animation = Image.open(io.BytesIO(gif))
    frames, durations = [], []
    for index in range(getattr(animation, "n_frames", 1)):
        animation.seek(index)
        frames.append(animation.convert("RGB"))
        durations.append(int(animation.info["duration"]))
    return frames, durations


def panel(frame: Image.Image, column: int) -> Image.Image:
    return frame.crop((8 + 208 * column, 42, 208 + 208 * column, 175))


def redness(picture: Image.Image) -> int:
    red, green, _ = np.moveaxis(np.asarray(picture).astype(int), -1, 0)
    return int((red - green > 80).sum())


@pytest.mark.parametrize(
    ("returns", "chosen"),
    [
        ((9, 10, 9, 11, 25, 73, 167, 339, 385, 496, 500), [0, 5, 6, 7, 8, 10]),
        ((-500, -120, -100), [0, 1, 2]),
        ((9, 9, 9, 9, 9, 9, 9, 9), [0, 1, 2, 3, 4, 7]),
        ((9, 500), [0, 1]),
    ],
)
def test_what_is_shown_spreads_over_what_was_gained(returns: tuple[float, ...], chosen: list[int]) -> None:
    shown = spread(learned(*returns))
    assert [int(agent.label) for agent in shown] == chosen
    assert len(shown) <= PANELS


def test_the_run_shows_the_episode_that_the_server_shows() -> None:
    assert {push.step: push.force for push in served.PUSHES} == dict(PUSHES)
    assert served.SEED == SEED


def test_a_policy_that_fails_turns_pale_while_the_others_go_on() -> None:
    way = [Learned(label="untrained", mean_return=40, policy=FELL), Learned(label="", mean_return=500, policy=HELD)]
    gif = learning_gif(way)
    assert gif is not None
    frames, durations = pictures(gif)
    assert len(frames) == 101
    assert durations == [100] * 100 + [2_600]
    first, last = frames[0], frames[-1]
    assert ImageChops.difference(panel(first, 0), panel(first, 1)).getbbox() is None  # the same start
    assert np.asarray(panel(first, 0)).min() < 20
    assert np.asarray(panel(last, 0)).min() > 120
    assert np.asarray(panel(last, 1)).min() < 20
    pushed = [index for index, frame in enumerate(frames) if redness(panel(frame, 1)) > 50]
    assert pushed == [31, 32, 33, 34, 61, 62, 63, 64]  # a frame every fifth step
    assert not any(redness(panel(frame, 0)) > 50 for frame in frames)
    assert len(gif) < 150_000


@pytest.mark.slow
def test_other_environments_are_shown_without_pushes() -> None:
    policy = OnnxPolicy.load(linear_model(SWINGS, actions=3, properties=ACROBOT))
    gif = learning_gif([Learned(label=str(k), mean_return=k, policy=policy) for k in range(4)])
    assert gif is not None
    frames, durations = pictures(gif)
    assert frames[0].size == (632, 492)  # three beside each other, and one below
    assert durations[0] == 330  # five of fifteen steps a second
    assert max(map(redness, frames)) < 50


def test_an_episode_is_shown_to_its_end() -> None:
    gif = episode_gif(FELL, seed=0)
    assert gif is not None
    frames, durations = pictures(gif)
    assert set(durations) == {100}
    assert ImageChops.difference(frames[0], frames[-1]).getbbox() is not None


class Promised(Probe):
    """Its metadata promise pictures, and its constructor takes no render mode."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012 -- as Gymnasium declares it


gym.register(
    "PromisedPictures-v0",
    "tests.flows.reporting.test_animations:Promised",
    max_episode_steps=9,
    disable_env_checker=True,
)


@pytest.mark.parametrize("env_id", ["ProbeActionReward-v0", "PromisedPictures-v0"])
def test_what_has_no_pictures_has_no_animation(env_id: str) -> None:
    policy = OnnxPolicy.load(linear_model((1.0,), properties=PROPERTIES | {"env_id": env_id}))
    assert episode_gif(policy, seed=0) is None
    assert learning_gif([Learned(label="", mean_return=0, policy=policy)] * 2) is None
