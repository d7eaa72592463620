"""Changes of the world under the live show of `make serve`: how soon the pole stands again, and what is said.

    python -m benchmarks.healing --model FILE.onnx           # ten kinds 20 times, then 200 random worlds
    python -m benchmarks.healing --model FILE.onnx --noise 0.05

The show is stepped by hand, without a browser. Its time is simulated, 50 steps a second with the breaks after falls.
The CPU time of every look at a change is measured and passes in the show before the look takes effect. The time is from
a change to the beginning of the episode that then plays 500 steps or to its end; it is 0 if the pole does not fall.
"""

import argparse
import asyncio
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from dqn.environments.world import World
from serving.loop.healing import Look, Looked
from serving.metrics.metrics import Metrics
from serving.models.follower import Models
from serving.models.source import FileSource
from serving.show.commands import Restart
from serving.show.stage import Stage
from serving.show.viewer import Viewer

STEPS_A_SECOND: Final = 50
STANDS: Final = 500
GIVEN_UP: Final = 1500
KINDS: Final = {
    "reversed motor": World(force_mag=-10.0),
    "reversed, delay 2": World(force_mag=-10.0, action_delay=2),
    "short pole, strong motor": World(length=0.1, force_mag=30.0),
    "bias 5 degrees": World(sensor_bias=(0.0, 0.0, 0.0873, 0.0)),
    "delay 3": World(action_delay=3),
    "wind 5 N": World(wind=5.0),
    "triple gravity": World(gravity=29.4),
    "wind 3 N, half a motor": World(wind=3.0, force_mag=5.0),
    "heavy cart, delay 2": World(masscart=3.0, action_delay=2),
    "triple gravity, short pole": World(gravity=29.4, length=0.2),
}


@dataclass
class Slow:
    """Takes the place of the loop's thread: a look takes effect when its CPU time has passed in the show."""

    ticks: int = 0
    due: list[tuple[int, Callable[[], None]]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def aside(self, looking: Callable[[], Look], then: Callable[[Any], None]) -> Looked:
        """In place of `serving.loop.healing.aside`."""
        done: Future[Look] = Future()
        began = time.process_time()
        try:
            done.set_result(looking())
        except Exception as error:
            done.set_exception(error)
        self.seconds.append(time.process_time() - began)
        self.due.append((self.ticks + int(np.ceil(self.seconds[-1] * STEPS_A_SECOND)), partial(then, done)))
        return done

    def tick(self) -> None:
        """Pass the time of one step."""
        self.ticks += 1
        while self.due and self.due[0][0] <= self.ticks:
            self.due.pop(0)[1]()


class Watched:
    """A show under changes."""

    def __init__(self, models: Models, *, seed: int, home: dict[str, Any] | None = None) -> None:
        self.slow = Slow()
        self.stage = Stage(models, Metrics())
        self.loop, self.show = self.stage.loop, self.stage.main
        self.loop._clock = lambda: self.slow.ticks / STEPS_A_SECOND
        self.loop.aside = self.slow.aside
        self.show.command(Restart(1000 * seed))
        self.show.join(Viewer())
        self.home = home or {}
        self.tick()
        if self.home:
            self.stage.change_world(self.home)
        for _ in range(int(np.random.default_rng(seed).integers(20, 300))):
            self.tick()

    def tick(self) -> None:
        """Play one step."""
        self.show._tick(1 / STEPS_A_SECOND)
        self.slow.tick()

    def change(self, world: dict[str, Any]) -> tuple[float, int]:
        """Seconds from a change until the pole stands for good, nan if it does not, and the falls until then."""
        self.stage.change_world(self.home | world)
        began = stands = self.slow.ticks
        falls, lay = 0, False
        while self.slow.ticks - stands < STANDS:
            self.tick()
            last = self.show.players[0].last
            lies = self.show._break_left > 0
            if lies and not lay and last and last.terminated:
                falls += 1
            if lies and last and last.terminated:
                stands = self.slow.ticks
            lay = lies
            if self.slow.ticks - began > GIVEN_UP:
                return float("nan"), falls
        return (stands - began) / STEPS_A_SECOND, falls


def summary(kind: str, healed: list[tuple[float, int]], righted: list[tuple[float, int]]) -> dict[str, Any]:
    """One row of the table."""

    def at(each: list[tuple[float, int]], share: float) -> float:
        return round(float(np.quantile([np.inf if np.isnan(s) else s for s, _ in each], share, method="higher")), 2)

    return {
        "change": kind,
        "healed": f"{sum(not np.isnan(s) for s, _ in healed)} of {len(healed)}",
        "median s": at(healed, 0.5),
        "95% s": at(healed, 0.95),
        "no fall": f"{np.mean([not falls for _, falls in healed]):.0%}",
        "most falls": max(falls for _, falls in healed),
        "put right: 95% s": at(righted, 0.95),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="an exported CartPole policy")
    parser.add_argument("--times", type=int, default=20, help="how often each change is made (default: 20)")
    parser.add_argument("--noise", type=float, default=0.0, help="standard deviation of the sensors' noise")
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), help="of KINDS (default: all)")
    options = parser.parse_args()
    models = Models(FileSource(options.model), alias=None, version="1")
    asyncio.run(models.poll())
    home = {"sensor_noise": [options.noise] * 4} if options.noise else {}
    everything: list[list[tuple[float, int]]] = [[], []]
    looks: list[float] = []
    for kind in options.kinds:
        healed, righted, said, played = [], [], Counter[str](), Counter[str]()
        for k in range(options.times):
            watched = Watched(models, seed=k, home=home)
            healed.append(watched.change(KINDS[kind].to_dict()))
            said[watched.loop.latest.finding if watched.loop.latest else ""] += 1
            now = watched.loop.healing.playing
            played[now.name if now else "nothing"] += 1
            righted.append(watched.change({}))
            watched.show.close()
            looks += watched.slow.seconds
            if watched.loop.trouble:
                print(watched.loop.trouble)
        everything[0] += healed
        everything[1] += righted
        print(summary(kind, healed, righted), dict(said.most_common(3)), dict(played.most_common(3)), flush=True)
    print(summary("all", *everything), f"look {1e3 * np.median(looks):.0f} {1e3 * max(looks):.0f} ms")


if __name__ == "__main__":
    main()
