"""Environments that cannot be drawn: they are played, and whatever needs a picture is refused in one sentence."""

import asyncio
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from starlette.testclient import TestClient

from serving.__main__ import main
from serving.application import App
from serving.episodes.simulation import Simulation, why_no_pictures
from serving.errors import NoPicturesError
from serving.metrics.metrics import Metrics
from serving.show.show import Show
from tests.support.dqn.probes import Probe, Step
from tests.support.serving.clients import models_of
from tests.support.serving.policies import PROPERTIES, linear_model


class Undrawn(Probe):
    """Its constructor takes nothing, and its metadata are Gymnasium's own."""

    def step(self, action: np.int64) -> Step:
        return self._observe(0.0), 1.0, False, False, {}


class Promised(Undrawn):
    metadata = {"render_modes": ["human", "rgb_array"]}  # noqa: RUF012 -- as Gymnasium declares it


class Strict(Undrawn):
    """Takes a render mode, and none but text."""

    metadata = {"render_modes": ["ansi"], "render_fps": None}  # noqa: RUF012 -- as Gymnasium declares it

    def __init__(self, render_mode: str | None = None) -> None:
        assert render_mode in (None, "ansi")
        self.render_mode = render_mode


class Drawn(Undrawn):
    """Returns what it is told to for a picture."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 0}  # noqa: RUF012 -- as Gymnasium declares it

    def __init__(self, picture: Any, render_mode: str | None = None) -> None:
        self.picture = picture

    def render(self) -> Any:
        if isinstance(self.picture, Exception):
            raise self.picture
        return self.picture


NEVER = {
    "Undrawn": "environment 'Undrawn-v0' names no render mode 'rgb_array' in its metadata",
    "Strict": "environment 'Strict-v0' names no render mode 'rgb_array' in its metadata",
    "Promised": "the constructor of environment 'Promised-v0' does not take render_mode='rgb_array'",
}
FAULTY: dict[str, tuple[Any, str]] = {
    "DrawingNone": (None, "returns no picture of bytes [height, width, 3] but object []"),
    "DrawingText": ("no", "returns no picture of bytes [height, width, 3] but <U2 []"),
    "DrawingFloats": (np.zeros((4, 4, 3)), "but float64 [4, 4, 3]"),
    "DrawingGrey": (np.zeros((4, 4), np.uint8), "but uint8 [4, 4]"),
    "DrawingError": (RuntimeError("no driver"), "failed in its render (RuntimeError: no driver)"),
}
for name in NEVER:
    gym.register(
        f"{name}-v0", f"tests.serving.episodes.test_pictures:{name}", max_episode_steps=9, disable_env_checker=True
    )
for name, (picture, _) in FAULTY.items():
    gym.register(
        f"{name}-v0",
        "tests.serving.episodes.test_pictures:Drawn",
        max_episode_steps=9,
        kwargs={"picture": picture},
        disable_env_checker=True,
    )


def model_of(name: str, folder: Path) -> str:
    path = folder / "p.onnx"
    path.write_bytes(linear_model((1.0,), properties=PROPERTIES | {"env_id": f"{name}-v0"}))
    return str(path)


def app_of(name: str, folder: Path) -> tuple[App, TestClient]:
    models = models_of(folder, (1.0,), properties=PROPERTIES | {"env_id": f"{name}-v0"})
    models.loader._environments = frozenset([f"{name}-v0"])
    asyncio.run(models.poll())
    assert models.current, models.notice
    app = App(models)
    return app, TestClient(app.asgi, base_url="http://localhost")


@pytest.mark.parametrize(("name", "why"), NEVER.items())
def test_an_environment_without_pictures_is_played_and_requests_for_pictures_are_refused(
    name: str, why: str, tmp_path: Path
) -> None:
    _, client = app_of(name, tmp_path)
    played = client.post("/api/episodes", json={})
    assert played.status_code == 201
    files = played.json()["files"]
    assert client.get(files["json"]).json()["rewards"] == [1.0] * 9
    for path in (files["gif"], files["mp4"], files["html"], "/api/live.mjpeg", "/api/live.mjpeg?seed=1"):
        answer = client.get(path)
        assert answer.status_code == 501, path
        assert answer.json()["error"].startswith(why)
        assert answer.json()["error"].endswith("; it is played without pictures")


@pytest.mark.parametrize(("name", "why"), NEVER.items())
def test_the_show_plays_an_environment_without_pictures_and_says_why(name: str, why: str, tmp_path: Path) -> None:
    app, _ = app_of(name, tmp_path)
    show = Show(app.models, Metrics())
    show._tick(0.02)
    show._tick(0.02)
    assert [player.last is not None for player in show.players] == [True]
    assert show.status()["no_pictures"].startswith(why)
    with pytest.raises(NoPicturesError, match="it is played without pictures"):
        show.players[0].simulation.render()


@pytest.mark.parametrize("verb", ["record", "watch"])
@pytest.mark.parametrize("name", NEVER)
def test_record_and_watch_refuse_an_environment_without_pictures_in_one_sentence(
    verb: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([verb, "--model", model_of(name, tmp_path), "--allow-env", f"{name}-v0"]) == 1
    mode = "human" if verb == "watch" else "rgb_array"
    said = capsys.readouterr().err
    assert said.startswith(f"error: {NEVER[name].replace('rgb_array', mode)}")
    assert said.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["p.onnx"]


@pytest.mark.parametrize(("name", "why"), [(name, why) for name, (_, why) in FAULTY.items()])
def test_a_render_result_that_is_no_picture_is_refused_in_one_sentence(
    name: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["record", "--model", model_of(name, tmp_path), "--allow-env", f"{name}-v0"]) == 1
    said = capsys.readouterr().err
    assert why in said
    assert said.count("\n") == 1
    _, client = app_of(name, tmp_path)
    played = client.post("/api/episodes", json={}).json()
    assert client.get(played["files"]["gif"]).status_code == 501


@pytest.mark.parametrize(("name", "fps"), [("Undrawn", 50), ("Strict", 50), ("DrawingNone", 50), ("CartPole", 50)])
def test_an_invalid_frame_rate_is_replaced_by_the_default(name: str, fps: int) -> None:
    env_id = "CartPole-v1" if name == "CartPole" else f"{name}-v0"
    assert Simulation(env_id).fps == fps


def test_gymnasiums_environments_are_drawn() -> None:
    assert why_no_pictures("CartPole-v1") == why_no_pictures("Acrobot-v1") == ""


def test_a_stream_ends_where_pictures_do(tmp_path: Path) -> None:
    app, _ = app_of("Undrawn", tmp_path)

    async def story() -> None:
        assert app.live
        app.live.stage.start()
        async with asyncio.timeout(30):
            assert [part async for part in app.live.feed.shared()] == []
        app.close()

    asyncio.run(story())
