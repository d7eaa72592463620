"""Animations: one episode, or the same episode at several milestones of training side by side."""

import dataclasses
import io
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dqn.environments.making import make
from dqn.environments.masks import ACTION_MASK
from dqn.environments.spec import EnvironmentUnsupportedError
from dqn.environments.wrappers import WorldEnv
from flows.training.milestones import PUSHES, SEED, Learned
from serving.policy import OnnxPolicy

PANELS: Final = 6
_COLUMNS: Final = 3
_WIDTH: Final = 300
_PANEL_WIDTH: Final = 200
_CAPTION: Final = 34
_MARGIN: Final = 8
_COLOURS: Final = 32
_FRAMES_PER_SECOND: Final = 10
_MOST_FRAMES: Final = 120
_PUSH_SHOWN: Final = 20
"""Steps that a push is shown for; it lasts one step, which is too short to notice."""
_HOLD_MS: Final = 2_500
_FONT_SIZE: Final = 12
_INK, _MUTED, _FRAME, _PUSH, _PAPER = "#222222", "#777777", "#dddddd", "#c0392b", "#ffffff"


@dataclass(frozen=True, kw_only=True)
class Moment:
    """One picture of an episode."""

    step: int
    picture: Image.Image
    episodic_return: float
    over: bool


def episode_gif(policy: OnnxPolicy, *, seed: int) -> bytes | None:
    """A policy's episode of a seed as an animation; None if the environment does not render."""
    env = _drawn(policy)
    if env is None:
        return None
    pictures = [moment.picture for moment in _moments(env, policy, seed=seed, width=_WIDTH)]
    return _gif([picture.quantize(_COLOURS, dither=Image.Dither.NONE) for picture in pictures], env)


def learning_gif(way: Sequence[Learned]) -> bytes | None:
    """The same episode, with pushes, at up to `PANELS` milestones side by side; None without a rendered environment.

    All episodes begin together. An episode that is over turns pale.
    """
    chosen = spread(way)
    env = _drawn(chosen[0].policy)
    if env is None:
        return None
    pushes = PUSHES if env.can_be_pushed else {}
    played = [list(_moments(env, agent.policy, seed=SEED, width=_PANEL_WIDTH, pushes=pushes)) for agent in chosen]
    longest = max(map(len, played))
    pale = Image.new("RGB", played[0][0].picture.size, _PAPER)
    for moments in played:
        over = dataclasses.replace(moments[-1], picture=Image.blend(moments[-1].picture, pale, 0.65))
        moments += [over] * (longest - len(moments))
    frames = [_side_by_side(chosen, moments, pushes) for moments in zip(*played, strict=True)]
    palette = _palette(frames)
    return _gif([frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames], env, hold=_HOLD_MS)


def spread(way: Sequence[Learned]) -> list[Learned]:
    """The first and the last milestone, and between them those with mean returns closest to evenly spaced values."""
    first, *between, last = way
    chosen: set[int] = set()
    for target in np.linspace(first.mean_return, last.mean_return, PANELS)[1:-1]:
        others = [index for index in range(len(between)) if index not in chosen]
        chosen |= set(sorted(others, key=lambda index: abs(between[index].mean_return - target))[:1])
    return [first, *(between[index] for index in sorted(chosen)), last]


def _drawn(policy: OnnxPolicy) -> WorldEnv | None:
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # pygame draws without a screen
    undrawn = make(policy.metadata.environment, policy.metadata.world)
    undrawn.close()
    if "rgb_array" not in undrawn.metadata.get("render_modes", ()):
        return None
    try:
        return make(policy.metadata.environment, policy.metadata.world, render_mode="rgb_array")
    except EnvironmentUnsupportedError:  # its constructor refuses a mode that its metadata list
        return None


def _moments(
    env: WorldEnv, policy: OnnxPolicy, *, seed: int, width: int, pushes: Mapping[int, float] | None = None
) -> Iterator[Moment]:
    """Pictures of an episode, every few steps and at its end."""
    stride = _stride(env)
    observation, info = env.reset(seed=seed)
    step, episodic_return, over = 0, 0.0, False
    while True:
        if over or step % stride == 0:
            picture = _picture(env.render(), width)
            yield Moment(step=step, picture=picture, episodic_return=episodic_return, over=over)
        if over:
            return
        mask = np.asarray(info[ACTION_MASK], dtype=np.bool_)[None] if ACTION_MASK in info else None
        action = int(policy.act(np.asarray(observation, dtype=np.float32)[None], mask)[0])
        observation, reward, terminated, truncated, info = env.step(action, (pushes or {}).get(step, 0.0))
        step, episodic_return, over = step + 1, episodic_return + float(reward), bool(terminated or truncated)


def _picture(pixels: Any, width: int) -> Image.Image:
    image = Image.fromarray(np.asarray(pixels))
    return image.resize((width, round(image.height * width / image.width)), Image.Resampling.BOX, reducing_gap=1.0)


def _side_by_side(agents: Sequence[Learned], moments: Sequence[Moment], pushes: Mapping[int, float]) -> Image.Image:
    """Panels in rows, each below the length of the training and the return so far."""
    width, height = moments[0].picture.size
    columns, rows = min(_COLUMNS, len(agents)), math.ceil(len(agents) / _COLUMNS)
    across, down = width + _MARGIN, _CAPTION + height + _MARGIN
    canvas = Image.new("RGB", (_MARGIN + columns * across, _MARGIN + rows * down), _PAPER)
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(_FONT_SIZE)
    for index, (agent, moment) in enumerate(zip(agents, moments, strict=True)):
        x, y = _MARGIN + index % _COLUMNS * across, _MARGIN + index // _COLUMNS * down
        draw.text((x, y), agent.label, fill=_INK, font=font)
        draw.text((x, y + _CAPTION // 2), f"return {moment.episodic_return:,.0f}", fill=_MUTED, font=font)
        canvas.paste(moment.picture, (x, y + _CAPTION))
        draw.rectangle((x, y + _CAPTION, x + width, y + _CAPTION + height), outline=_FRAME)
        force = sum(force for step, force in pushes.items() if step < moment.step <= step + _PUSH_SHOWN)
        if force and not moment.over:
            _arrow(draw, x + width // 2, y + _CAPTION + 20, force, font)
    return canvas


def _arrow(draw: ImageDraw.ImageDraw, x: int, y: int, force: float, font: Any) -> None:
    direction = 1 if force > 0 else -1
    draw.line((x - 40, y, x + 40, y), fill=_PUSH, width=3)
    tip = x + 50 * direction
    draw.polygon([(tip, y), (tip - 12 * direction, y - 6), (tip - 12 * direction, y + 6)], fill=_PUSH)
    draw.text((x, y - 4), f"{abs(force):g} N", fill=_PUSH, font=font, anchor="ms")


def _palette(frames: Sequence[Image.Image]) -> Image.Image:
    """One palette for all frames, with the arrows' red. With a palette for each, still pixels would be stored again."""
    width, height = frames[-1].size
    sample = Image.new("RGB", (width, 2 * height), _PUSH)
    sample.paste(frames[-1], (0, 0))
    sample.paste(frames[0].resize((width, height - _MARGIN)), (0, height))
    return sample.quantize(_COLOURS)


def _stride(env: WorldEnv) -> int:
    """Steps between two pictures, for real time and at most `_MOST_FRAMES` pictures."""
    longest = env.spec.max_episode_steps if env.spec else None
    return max(1, round(_fps(env) / _FRAMES_PER_SECOND), math.ceil((longest or 0) / _MOST_FRAMES))


def _fps(env: WorldEnv) -> float:
    return float(env.metadata.get("render_fps", 30))


def _gif(frames: list[Image.Image], env: WorldEnv, *, hold: float = 0.0) -> bytes:
    interval = 1000 * _stride(env) / _fps(env)
    env.close()
    buffer = io.BytesIO()
    durations = [interval] * (len(frames) - 1) + [interval + hold]
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0)
    return buffer.getvalue()
