"""Replays as files: mp4 and webm (PyAV), gif (Pillow), and one self-contained html page."""

import base64
import hashlib
import html
import io
import re
from collections.abc import Iterator
from typing import Final, cast

import msgspec
import numpy as np
import numpy.typing as npt

from dqn.environments.world import World
from serving.episodes.replay import Replay
from serving.episodes.simulation import Simulation, by_step
from serving.errors import RecordingError
from serving.page import STATIC

_PUSH_STEPS: Final = 25
"""A push lasts one step and is drawn for so many."""
_PUSH_COLOUR: Final = (200, 60, 30)
_CODECS: Final = {
    "mp4": ("libx264", {"crf": "23", "preset": "veryfast"}),
    "webm": ("libvpx-vp9", {"crf": "35", "b": "0", "deadline": "realtime", "cpu-used": "8"}),
}


def frames(replay: Replay, *, stride: int = 1) -> Iterator[npt.NDArray[np.uint8]]:
    """Gymnasium's pictures `[height, width, 3]` of every `stride`-th step of the replay, with pushes marked."""
    changed, forces = by_step(replay.pushes, replay.changes)
    simulation = Simulation(replay.environment, World.from_dict(replay.world), render_mode="rgb_array")
    shown = {
        step: (pushed, forces[pushed]) for pushed in sorted(forces) for step in range(pushed, pushed + _PUSH_STEPS)
    }
    try:
        simulation.reset(replay.seed)
        yield simulation.render()
        for index, action in enumerate(replay.actions):
            if index in changed:
                simulation.change(changed[index])
            simulation.apply(action, forces.get(index, 0.0))
            if (index + 1) % stride == 0:
                picture = simulation.render()
                yield _with_push(picture, *shown[index]) if index in shown else picture
    finally:
        simulation.close()


def _with_push(picture: npt.NDArray[np.uint8], step: int, force: float) -> npt.NDArray[np.uint8]:
    """A picture with an arrow in the direction of a push, its force and its step."""
    from PIL import Image, ImageDraw, ImageFont  # as in `encode`

    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image)
    middle, towards = picture.shape[1] // 2, 1 if force > 0 else -1
    draw.line([(middle - 40 * towards, 60), (middle + 40 * towards, 60)], fill=_PUSH_COLOUR, width=6)
    head = [(middle + 60 * towards, 60), (middle + 40 * towards, 48), (middle + 40 * towards, 72)]
    draw.polygon(head, fill=_PUSH_COLOUR)
    words = f"step {step}: pushed with {abs(force):g} N"
    draw.text((middle, 24), words, fill=_PUSH_COLOUR, anchor="mm", font=ImageFont.load_default(18))
    return np.asarray(image)


def encode(picture: npt.NDArray[np.uint8], kind: str) -> bytes:
    """A picture `[height, width, 3]` as "JPEG" or "PNG"."""
    from PIL import Image  # takes 2 MB, which a server without pictures saves

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format=kind, quality=75)
    return buffer.getvalue()


def to_gif(replay: Replay, *, stride: int = 2) -> bytes:
    """An animation of every `stride`-th step, in real time (GIF counts in hundredths of a second)."""
    from PIL import Image  # as in `encode`

    palette = None
    pictures: list[Image.Image] = []
    for frame in frames(replay, stride=stride):
        picture = Image.fromarray(frame)
        palette = palette or picture.quantize(16)
        pictures.append(picture.quantize(palette=palette, dither=Image.Dither.NONE))
    duration = 10 * round(100 / replay.fps * stride)
    buffer = io.BytesIO()
    pictures[0].save(
        buffer, format="GIF", save_all=True, append_images=pictures[1:], duration=duration, loop=0, disposal=1
    )
    return buffer.getvalue()


def to_video(replay: Replay, container: str) -> bytes:
    """A video in real time, with every step: "mp4" (H.264) or "webm" (VP9).

    Raises:
        RecordingError: if PyAV is not installed or lacks the codec.
    """
    try:
        import av  # an optional dependency
    except ImportError as error:
        raise RecordingError(f"{container} needs PyAV: pip install 'dqn-pipeline[record]', or take .gif") from error
    codec, options = _CODECS[container]
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as output:
        try:
            stream = cast("av.VideoStream", output.add_stream(codec, rate=replay.fps, options=options))
        except (av.FFmpegError, ValueError) as error:
            raise RecordingError(f"this PyAV cannot write {codec}: {error}; take .gif") from error
        stream.pix_fmt = "yuv420p"
        for index, frame in enumerate(frames(replay)):
            if index == 0:
                stream.height, stream.width = frame.shape[:2]
            output.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        output.mux(stream.encode(None))
    return buffer.getvalue()


def to_html(replay: Replay) -> bytes:
    """One page with everything in it, which plays from a file without a network.

    CartPole is drawn from its states; for other environments the page has up to 250 pictures by Gymnasium.
    Its content security policy allows its own script and style, by their hashes, and nothing else.
    """
    script = "\n".join(
        _without_modules((STATIC / name).read_text()) for name in ("draw/cartpole.js", "draw/charts.js", "replay.js")
    )
    style = (STATIC / "page.css").read_text()
    page = (STATIC / "replay.html").read_text()
    data = replay.to_json().decode().replace("<", "\\u003c")
    pictures = msgspec.json.encode([] if replay.env_id.startswith("CartPole") else _pictures(replay)).decode()
    policy = f"default-src 'none'; script-src '{_digest(script)}'; style-src '{_digest(style)}'; img-src data:"
    title = f"{replay.model} version {replay.version}, seed {replay.seed}: return {replay.episodic_return:g}"
    values = {"policy": policy, "title": html.escape(title), "style": style}
    values |= {"data": data, "pictures": pictures, "script": script}
    return re.sub(r"\{\{(\w+)\}\}", lambda match: values[match[1]], page).encode()


def _pictures(replay: Replay, most: int = 250) -> list[str]:
    stride = -(-len(replay.observations) // most)
    jpegs = (encode(frame, "JPEG") for frame in frames(replay, stride=stride))
    return ["data:image/jpeg;base64," + base64.b64encode(jpeg).decode() for jpeg in jpegs]


def replay_csp(page: bytes) -> str:
    """The content security policy in a page of `to_html`, for sending it as a header too."""
    match = re.search(rb'http-equiv="Content-Security-Policy" content="([^"]+)"', page)
    if match is None:
        raise RecordingError("the replay page has no content security policy")
    return match[1].decode()


def _without_modules(source: str) -> str:
    source = re.sub(r"^import .*?;\n", "", source, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"^export (?=const|function|class)", "", source, flags=re.MULTILINE)


def _digest(source: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
