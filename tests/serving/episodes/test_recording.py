import io
import re
from itertools import islice

import av
import msgspec
import numpy as np
import pytest
from PIL import Image

from dqn.environments.world import World
from serving.episodes.limits import Push
from serving.episodes.recording import frames, replay_csp, to_gif, to_html, to_video
from serving.episodes.replay import Replay, record
from serving.policy import OnnxPolicy
from tests.support.serving.policies import ACROBOT, FALLS, SWINGS, linear_model


@pytest.fixture(scope="module")
def replay() -> Replay:
    """A short one: it falls."""
    policy = OnnxPolicy.load(linear_model(FALLS))
    return record(policy, model="m", version="1", seed=2, pushes=[Push(step=3, force=20)], world=World(length=0.8))


def test_frames_show_every_step(replay: Replay) -> None:
    pictures = list(frames(replay))
    assert len(pictures) == len(replay.actions) + 1
    assert pictures[0].shape == (400, 600, 3)
    assert not np.array_equal(pictures[0], pictures[-1])


def test_a_push_is_shown_in_its_direction_for_half_a_second(replay: Replay) -> None:
    unpushed = msgspec.structs.replace(replay, pushes=(), actions=replay.actions)
    left = msgspec.structs.replace(replay, pushes=(Push(step=3, force=-20),))
    marked = [np.asarray(picture) for picture in frames(replay)]
    top = slice(0, 80)  # above the pole
    plain = next(frames(unpushed))[top]
    shown = [bool((picture[top] != plain).any()) for picture in marked]
    assert shown == [4 <= index < 29 for index in range(len(marked))]
    *_, towards_left = (picture[60] for picture in islice(frames(left), 5))
    for row, side in ((towards_left, -1), (marked[4][60], 1)):
        tip = np.flatnonzero((row != 255).any(1))
        assert np.sign(tip.mean() - 300) == side


def test_a_gif_plays_in_real_time(replay: Replay) -> None:
    with Image.open(io.BytesIO(to_gif(replay))) as picture:
        assert picture.size == (600, 400)
        frames_in_gif = getattr(picture, "n_frames", 1)
        assert frames_in_gif == (len(replay.actions) + 2) // 2
        assert picture.info["duration"] == 40


@pytest.mark.parametrize("container", ["mp4", "webm"])
def test_a_video_holds_fifty_frames_a_second(replay: Replay, container: str) -> None:
    with av.open(io.BytesIO(to_video(replay, container)), "r") as video:
        assert video.streams.video[0].average_rate == 50
        assert len(list(video.decode(video=0))) == len(replay.actions) + 1


def test_the_page_contains_all_it_needs(replay: Replay) -> None:
    page = to_html(replay)
    text = page.decode()
    assert "default-src 'none'; script-src 'sha256-" in replay_csp(page)
    assert "{{" not in text
    assert not re.search(r"^(import|export) ", text, re.MULTILINE)
    assert not re.search(r"""(src|href)=["']""", text)


@pytest.mark.slow
def test_another_environment_is_recorded_at_its_own_pace() -> None:
    """Acrobot-v1 has 15 steps a second, and the page holds pictures of what it cannot draw."""
    policy = OnnxPolicy.load(linear_model(SWINGS, properties=ACROBOT, actions=3))
    replay = record(policy, model="m", version="1", seed=0)
    assert len(replay.actions) > 50
    with Image.open(io.BytesIO(to_gif(replay))) as picture:
        assert picture.info["duration"] == 130
    with av.open(io.BytesIO(to_video(replay, "mp4")), "r") as video:
        assert video.streams.video[0].average_rate == 15
    pictures = to_html(replay).count(b"data:image/jpeg;base64,")
    assert 50 < pictures <= 250
