"""The world that the shows play in, changed by PUT /api/world. In process."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from gymnasium.envs.classic_control.cartpole import CartPoleEnv
from starlette.testclient import TestClient

from dqn.environments.world import NOMINAL, World
from serving.application import App
from serving.models.served import ServedModel
from serving.policy import PolicyMetadata
from serving.show.show import Show
from serving.show.viewer import Viewer
from serving.show.world import RealWorld
from tests.support.serving.clients import client_of
from tests.support.serving.policies import BALANCES, PROPERTIES, linear_model
from tests.support.serving.stepped import joined


def metadata(world: World = NOMINAL, env_id: str = "CartPole-v1") -> PolicyMetadata:
    return PolicyMetadata(
        env_id=env_id,
        action_meanings=("left", "right"),
        run_id="r",
        seed=0,
        config_sha256="",
        observation_shape=(4,),
        world=world,
    )


REVERSED = World(force_mag=-10.0)


def test_versions_play_in_their_own_worlds_until_it_is_changed() -> None:
    real = RealWorld()
    assert real.of(metadata(REVERSED)) == REVERSED
    assert real.of(metadata()) == NOMINAL


def test_a_version_that_takes_over_plays_in_the_changed_world_and_after_a_reset_in_the_first_one() -> None:
    real = RealWorld()
    real.change({"force_mag": -12}, metadata(World(wind=1.0)))
    healed = metadata(World(force_mag=(-12.5, -11.5), length=0.7))
    assert real.of(healed) == World(wind=1.0, force_mag=-12)
    assert real.changed == {"force_mag": -12}
    real.change({}, healed)
    assert real.of(healed) == World(wind=1.0), "not what the one that plays now was trained for"
    real.settle(healed)
    assert real.of(healed) == World(wind=1.0)
    real.settle(metadata(World(wind=1.0)))
    assert real.of(healed) == healed.world, "at home again, versions play in their own worlds"


def test_a_change_replaces_the_one_before_and_may_name_a_default() -> None:
    real = RealWorld()
    windy = metadata(World(wind=2.0, length=0.7))
    real.change({"wind": 0.0}, windy)
    assert real.of(windy) == World(length=0.7)
    assert real.preview({"gravity": 5.0}, windy) == World(wind=2.0, length=0.7, gravity=5.0)
    assert real.of(windy) == World(length=0.7), "a preview changes nothing"
    real.change({"gravity": 5.0}, windy)
    assert real.of(windy) == World(wind=2.0, length=0.7, gravity=5.0)


def test_the_time_of_a_change_is_recorded_and_a_moving_slider_is_one_change() -> None:
    now = [0.0]
    real = RealWorld(clock=lambda: now[0])
    for at, values in (
        (1.0, {"wind": 1.0}),
        (2.5, {"wind": 2.0}),
        (5.0, {"wind": 3.0}),
        (5.5, {}),
        (6.0, {"wind": 1.0}),
    ):
        now[0] = at
        real.change(values, metadata())
    assert list(real.history) == [(1.0, False), (5.0, False), (5.5, True), (6.0, False)]


def test_another_environment_is_left_alone() -> None:
    real = RealWorld()
    real.change({"gravity": 5.0}, metadata())
    assert real.of(metadata(env_id="Acrobot-v1")) == NOMINAL


def test_the_show_plays_in_the_world_that_was_put(app_and_client: tuple[App, TestClient]) -> None:
    app, client = app_and_client
    show = joined(app)
    assert client.put("/api/world", json={"force_mag": -10, "length": 0.1}).json() == {
        "force_mag": -10,
        "length": 0.1,
    }
    cartpole = show.players[0].simulation.env.unwrapped
    assert isinstance(cartpole, CartPoleEnv)
    assert (cartpole.force_mag, cartpole.length) == (-10, 0.1)
    status = show.status()
    assert status["world"] == status["changed"] == {"force_mag": -10, "length": 0.1}
    assert status["changes"] == [{"step": show._step, "world": {"force_mag": -10, "length": 0.1}}]
    assert client.put("/api/world", json={}).json() == {}
    assert (cartpole.force_mag, cartpole.length) == (10.0, 0.5)


def test_the_world_may_be_changed_before_the_first_viewer(app_and_client: tuple[App, TestClient]) -> None:
    app, client = app_and_client
    assert client.put("/api/world", json={"gravity": 20}).status_code == 200
    assert joined(app).players[0].simulation.world == World(gravity=20)


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({"gravity": 51}, "world.gravity must be between 0 and 50 here, got 51"),
        ({"colour": 1}, "a world has no colour"),
        ({"inertia": 1.0}, "CartPole-v1 has no inertia"),
        ({"sensor_bias": [0.1]}, "world.sensor_bias has 1 entries"),
        ([], "the request must be an object, got a list of length 0"),
    ],
)
def test_an_impossible_world_is_refused_and_changes_nothing(
    app_and_client: tuple[App, TestClient], body: object, sentence: str
) -> None:
    app, client = app_and_client
    show = joined(app)
    client.put("/api/world", json={"wind": 2.0})
    answer = client.put("/api/world", json=body)
    assert answer.status_code == 400
    assert sentence in answer.json()["error"]
    assert show.players[0].simulation.world == World(wind=2.0)
    assert show.real_world.changed == {"wind": 2.0}
    assert client.put("/api/world", content="{").status_code == 400


def test_a_token_protects_the_world(tmp_path: Path) -> None:
    _, client = client_of(tmp_path, token="t")
    assert client.put("/api/world", json={}).status_code == 401
    assert client.put("/api/world", json={}, headers={"Authorization": "Bearer t"}).status_code == 200


def test_the_world_cannot_be_changed_while_no_version_plays(tmp_path: Path) -> None:
    app, client = client_of(tmp_path)
    app.models.current = None
    assert client.put("/api/world", json={}).status_code == 503


def test_every_show_is_in_the_same_world(app_and_client: tuple[App, TestClient]) -> None:
    app, _ = app_and_client

    async def story() -> None:
        assert app.live
        stage = app.live.stage
        stage.start()
        async with stage.watching(("1", "1"), Viewer()) as pair:
            pair._tick(0.02)
            stage.change_world({"wind": 3.0})
            assert [player.simulation.world for player in pair.players] == [World(wind=3.0)] * 2
            async with stage.watching(("1",), Viewer()) as later:
                later._tick(0.02)
                assert later.players[0].simulation.world == World(wind=3.0)
        stage.close()

    asyncio.run(story())


Swap = Callable[[World], None]


@pytest.fixture
def show_and_swap(app_and_client: tuple[App, TestClient]) -> tuple[Show, Swap]:
    app, _ = app_and_client
    show = joined(app)

    def swap(world: World) -> None:
        assert app.models.current
        properties = PROPERTIES | {"world": json.dumps(world.to_dict())}
        model = linear_model(tuple(-gain for gain in BALANCES), properties=properties)
        app.models.current = ServedModel.load("p", app.models.current.version, model)
        show._tick(0.02)

    return show, swap


def test_a_version_that_is_swapped_in_plays_on_in_the_changed_world(show_and_swap: tuple[Show, Swap]) -> None:
    show, swap = show_and_swap
    assert show.episode == 1
    show.real_world.change({"force_mag": -10.0}, show.players[0].served.policy.metadata)
    show.enter_world()
    swap(World(force_mag=(-11.0, -9.0)))
    assert show.players[0].simulation.world == REVERSED
    assert show.episode == 1, "the episode goes on with another version"
    show.real_world.change({}, show.players[0].served.policy.metadata)
    show.enter_world()
    assert show.players[0].simulation.world == NOMINAL
    swap(NOMINAL)
    swap(REVERSED)
    assert show.players[0].simulation.world == REVERSED, "at home again, versions play in their own worlds"
    assert show.episode == 2


def test_a_frame_has_both_the_sensor_reading_and_the_state(app_and_client: tuple[App, TestClient]) -> None:
    app, _ = app_and_client
    show = joined(app)
    assert orjson.loads(show.frame)["b"] == [None]
    show.real_world.change({"sensor_bias": [0.0, 0.0, 0.1, 0.0]}, show.players[0].served.policy.metadata)
    show.enter_world()
    show._tick(0.02)
    frame: dict[str, Any] = orjson.loads(show.frame)
    assert frame["b"][0][2] == pytest.approx(frame["s"][0][2] + 0.1, abs=2e-4)
    assert frame["b"][0][0] == pytest.approx(frame["s"][0][0], abs=2e-4)
