"""The card of a policy: one HTML file that plays it, without a server and without a request to anywhere."""

import base64
import hashlib
import html
import io
import json
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import numpy as np

from dqn.cards.layers import read_layers
from dqn.environments.making import make
from dqn.environments.masks import ACTION_MASK
from dqn.environments.spec import EnvironmentUnsupportedError
from dqn.environments.world import ENTRYWISE, World
from dqn.policy import Policy

STATIC: Final = Path(__file__).parent / "static"
SCRIPTS: Final = tuple(STATIC / name for name in ("play.js", "others.js", "stage.js", "card.js"))
PLAYED: Final = {
    "CartPole-v1": (
        "length", "masspole", "masscart", "gravity", "force_mag", "tau", "wind", "action_delay", "sensor_bias",
    ),
    "Acrobot-v1": ("length", "masspole", "inertia", "tau", "action_delay", "sensor_bias"),
    "MountainCar-v0": ("gravity", "force_mag", "action_delay", "sensor_bias"),
}  # fmt: skip
"""Fields of a world that the page has equations for, by environment; other environments are recorded."""
_INVITATION: Final = dict.fromkeys(PLAYED, "break its world.") | {"CartPole-v1": "push it, and break its world."}
FOOTER: Final = "This page is the policy: its numbers and its world are in this one file. It asks no server."
_SEED: Final = 7
_WIDTH: Final = 360
_FRAMES: Final = 128
_BYTES: Final = 32_000
_QUALITIES: Final = (60, 40, 25, 12, 5)


def card(model: bytes, *, title: str, trained: str, judged: str) -> bytes:
    """The card of an exported policy.

    CartPole, Acrobot and MountainCar are computed in the page. Of any other environment, it shows an episode as
    Gymnasium renders it, if that is possible.

    Args:
        model: ONNX file of `dqn.networks.onnx.export_onnx`.
        title: headline of the page.
        trained: how the policy was trained, in sentences.
        judged: how good it is and how that was found, in sentences.

    Raises:
        ValueError: if `model` is not the exported policy of an agent.
    """
    policy, layers = Policy(model), read_layers(model)
    name, actions = policy.environment.env_id.rpartition(":")[2], policy.action_meanings
    network = "a network"
    if layers:
        network = f"a network of {' - '.join(map(str, layers.sizes))} neurons with "
        network += f"{layers.numbers.size - layers.sizes[0]:,} weights and biases"
    what = {
        "What it is": f"The greedy policy of a DQN agent on {name}: {network}. In each step it computes a value for "
        f"each action ({', '.join(actions)}) and takes the greatest. The seed of its population was {policy.seed}."
    }
    if name not in PLAYED or policy.environment.kwargs != "{}" or layers is None:
        return page(
            STATIC / "card.html",
            title=title,
            subtitle=f"A policy for {name}, as recorded: this page does not compute it.",
            picture=_recorded(policy),
            footer="This page is one file. It asks no server.",
            about=_about(trained, judged, what),
        )
    values, left_out = _played(policy.world, PLAYED[name])
    if policy.world.to_dict():
        what["Its world"] = f"It was trained for a changed world: {policy.world}." + (
            f" This page takes the middle of each range and leaves out {', '.join(left_out)}." if left_out else ""
        )
    data = {
        "environment": name,
        "limit": policy.environment.max_episode_steps,
        "actions": actions,
        "sizes": layers.sizes,
        "world": values,
        "numbers": base64.b64encode(layers.numbers.tobytes()).decode(),
    }
    return page(
        STATIC / "card.html",
        title=title,
        subtitle=f"A policy that plays {name} here, in your browser: " + _INVITATION[name],
        footer=FOOTER,
        about=_about(trained, judged, what),
        data=data,
        scripts=SCRIPTS,
    )


def page(
    template: Path,
    *,
    title: str,
    subtitle: str = "",
    footer: str = "",
    picture: str = "",
    about: str = "",
    data: Mapping[str, Any] | str | None = None,
    styles: Sequence[Path] = (),
    scripts: Sequence[Path] = (),
) -> bytes:
    """A page with everything in it. Its content security policy allows its own style and scripts and no request.

    Args:
        template: HTML with the names of the other arguments in double braces.
        title: headline.
        subtitle: sentence below it.
        footer: sentence at the end.
        picture: HTML that stands where the policy plays.
        about: HTML below it.
        data: what the scripts read, as JSON in the element `data`.
        styles: further style sheets.
        scripts: the scripts, in order; the id of `name.js` is `script-name`.
    """
    style = "".join(path.read_text() for path in (STATIC / "look.css", *styles))
    sources = {path.stem: path.read_text() for path in scripts}
    allowed = " ".join(f"'{_digest(source)}'" for source in sources.values()) or "'none'"
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_digest(style)}'; script-src {allowed}; worker-src blob:; "
        "base-uri 'none'; form-action 'none'"
    )
    written = [f'<script id="script-{name}">{source}</script>' for name, source in sources.items()]
    if data is not None:
        text = json.dumps(data).replace("<", "\\u003c")
        written.insert(0, f'<script type="application/json" id="data">{text}</script>')
    values = {"policy": policy, "title": html.escape(title), "subtitle": html.escape(subtitle), "style": style}
    values |= {"footer": html.escape(footer), "picture": picture, "about": about, "scripts": "\n".join(written)}
    return re.sub(r"\{\{(\w+)\}\}", lambda match: values[match[1]], template.read_text()).encode()


def _about(trained: str, judged: str, what: Mapping[str, str] | None = None) -> str:
    rows = {**(what or {}), "How it was trained": trained, "How it was judged": judged}
    return "".join(f"<div><h2>{html.escape(name)}</h2><p>{html.escape(text)}</p></div>" for name, text in rows.items())


def _played(world: World, names: tuple[str, ...]) -> tuple[dict[str, Any], list[str]]:
    """Values of a world that the page plays, with the middle of each range, and the names of the other fields."""

    def middle(value: Any) -> Any:
        return (value[0] + value[1]) / 2 if isinstance(value, tuple) else value

    given = world.to_dict()
    values: dict[str, Any] = {
        name: [middle(entry) for entry in value] if name in ENTRYWISE else middle(value)
        for name, value in given.items()
        if name in names
    }
    if "action_delay" in values:
        values["action_delay"] = round(values["action_delay"])
    return values, [name for name in given if name not in names]


def _recorded(policy: Policy) -> str:
    """An episode as an animated picture, or a sentence where that is impossible."""
    from PIL import Image

    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # pygame draws without a screen
    try:
        env = make(policy.environment, policy.world, render_mode="rgb_array")
    except EnvironmentUnsupportedError:
        return f"<p class='panel'>There are no pictures of {html.escape(policy.environment.env_id)} to show here.</p>"
    small: list[Image.Image] = []
    steps, stride, total, over = 0, 1, 0.0, False
    with closing(env):
        fps = env.metadata.get("render_fps") or 30
        observation, info = env.reset(seed=_SEED)
        while not over:
            if steps % stride == 0:
                picture = Image.fromarray(np.asarray(env.render()))
                size = (_WIDTH, round(_WIDTH * picture.height / picture.width))
                small.append(picture.resize(size, Image.Resampling.LANCZOS))
                if len(small) > _FRAMES:
                    small, stride = small[::2], 2 * stride
            action = policy.predict(observation, info.get(ACTION_MASK))
            observation, reward, terminated, truncated, info = env.step(action)
            total += float(reward)
            steps += 1
            over = terminated or truncated
    for quality in _QUALITIES:
        buffer = io.BytesIO()
        options: dict[str, Any] = {"save_all": True, "append_images": small[1:], "duration": round(1000 * stride / fps)}
        small[0].save(buffer, "WEBP", loop=0, quality=quality, method=4, **options)
        if buffer.tell() <= _BYTES:
            break
    caption = f"One recorded episode, seed {_SEED}: return {total:.4g} in {steps} steps."
    image = f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return f'<figure class="panel"><img src="{image}" alt="{caption}"><figcaption>{caption}</figcaption></figure>'


def _digest(source: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
