"""Shows that a test steps by hand."""

import asyncio
from pathlib import Path

from serving.metrics.metrics import Metrics
from serving.show.show import Show
from serving.show.viewer import Viewer
from tests.support.serving.clients import models_of
from tests.support.serving.policies import FALLS


def play_to_the_end(show: Show) -> None:
    show._tick(0.02)
    while not show._break_left:
        show._tick(0.02)


def show_of(folder: Path, gains: tuple[float, ...] = FALLS) -> tuple[Show, Viewer[str]]:
    models = models_of(folder, gains)
    asyncio.run(models.poll())
    show = Show(models, Metrics())
    viewer: Viewer[str] = Viewer()
    show.join(viewer)
    return show, viewer
