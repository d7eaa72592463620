"""An application with a show that a test steps by hand."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from dqn.environments.world import World
from serving.application import App
from serving.loop.finding import Finding
from serving.loop.healing import Look
from serving.models.served import ServedModel
from serving.show.show import Show
from serving.show.viewer import Viewer
from tests.support.serving.clients import client_of
from tests.support.serving.policies import PROPERTIES, linear_model


def joined(app: App) -> Show:
    assert app.live
    show = app.live.stage.main
    show._seed = 0  # it draws one, and each run of a test would play other episodes
    show.join(Viewer())
    show._tick(0.02)
    return show


class Stepped:
    """An app with a show that a test steps by hand."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.app, self.client = client_of(folder, **options)
        assert self.app.live
        self.loop = self.app.live.stage.loop
        self.now = 1000.0
        self.loop._clock = lambda: self.now
        self.show: Show = joined(self.app)

    def play(self, steps: int) -> None:
        """Take some steps; the breaks between episodes are left out."""
        until = self.loop.experience.newest + steps
        while self.loop.experience.newest < until:
            self.show._tick(0.02)
            self.now += 0.02

    def swap(
        self, gains: tuple[float, ...], world: World, properties: dict[str, str] = PROPERTIES, actions: int = 2
    ) -> None:
        assert self.app.models.current
        version = self.app.models.current.version
        trained = properties | {"world": json.dumps(world.to_dict())}
        content = linear_model(gains, properties=trained, actions=actions)
        newer = dataclasses.replace(version, number=str(int(version.number) + 1))
        self.app.models.current = ServedModel.load("p", newer, content)

    def get(self, path: str) -> Any:
        return self.client.get(path).json()


def reversed_motor(stepped: Stepped) -> str:
    """Break the world; returns the id of the drift that is noticed."""
    stepped.client.put("/api/world", json={"force_mag": -10.0})
    stepped.play(100)
    assert stepped.loop.drift
    return stepped.loop.drift.id


def told(sentence: str, *, sure: bool = False) -> Look:
    """A look that finds the world it expects in other words, and lets nothing else play."""
    finding = Finding(sentence=sentence, evidence={}, sure=sure)
    return Look(finding=finding, world=World(gravity=9.8), unchanged=False, chosen=None, share=0.0)
