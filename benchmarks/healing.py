"""Changes of the world under the live show of `make serve`: how soon the pole stands again, and what is said.

    python -m benchmarks.healing --model FILE.onnx                         # ten kinds, 20 times each
    python -m benchmarks.healing --model FILE.onnx --noise 0.05 --times 5
    python -m benchmarks.healing --model FILE.onnx --worlds 200            # random worlds instead, each once
    python -m benchmarks.healing --model FILE.onnx --hours 1               # no change, pushes every two seconds

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

from benchmarks.harness import write
from dqn.environments.world import NOMINAL, World
from dqn.identification.at_once import same_motion
from serving.loop.healing import Look, Looked
from serving.loop.rehearsal import HOLDS, candidates, rehearse
from serving.loop.undoing import Observed
from serving.metrics.metrics import Metrics
from serving.models.follower import Models
from serving.models.source import FileSource
from serving.show.commands import PushCart, Restart
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


def random_world(generator: np.random.Generator) -> World:
    """One to three fields changed, within the limits of the page."""
    values = {
        "force_mag": generator.uniform(4, 30) * (1 if generator.random() < 0.5 else -1),
        "sensor_bias": (0.0, 0.0, float(np.radians(generator.uniform(-6, 6))), 0.0),
        "action_delay": int(generator.integers(1, 5)),
        "wind": generator.uniform(-6, 6),
        "length": float(np.exp(generator.uniform(np.log(0.1), np.log(2)))),
        "masspole": float(np.exp(generator.uniform(np.log(0.02), 0))),
        "masscart": float(np.exp(generator.uniform(np.log(0.3), np.log(4)))),
        "gravity": generator.uniform(3, 30),
        "tau": float(np.exp(generator.uniform(np.log(0.01), np.log(0.04)))),
    }
    names = generator.choice(list(values), int(generator.integers(1, 4)), replace=False)
    return World.from_dict({str(name): values[str(name)] for name in names})


def holdable(policy: Observed, world: World) -> bool:
    """Whether one of the candidates balances a world that is known exactly."""
    return bool(rehearse(policy, candidates(policy, world, NOMINAL), world).max() >= HOLDS)


@dataclass
class Slow:
    """Takes the place of the loop's thread: a look takes effect when its CPU time has passed in the show."""

    ticks: int = 0
    due: list[tuple[int, Callable[[], None]]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    looks: list[tuple[int, Look]] = field(default_factory=list)

    def aside(self, looking: Callable[[], Look], then: Callable[[Any], None]) -> Looked:
        """In place of `serving.loop.healing.aside`."""
        done: Future[Look] = Future()
        began = time.process_time()
        try:
            done.set_result(look := looking())
            self.looks.append((self.ticks, look))
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
        return self.until_stands()

    def until_stands(self) -> tuple[float, int]:
        """The same from now on, for a change that was made in another way."""
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


def changes(models: Models, worlds: dict[str, World], options: argparse.Namespace) -> list[dict[str, Any]]:
    """Make each change, and put it right again; a row each, and one for all."""
    home = {"sensor_noise": [options.noise] * 4} if options.noise else {}
    everything: tuple[list[tuple[float, int]], list[tuple[float, int]]] = ([], [])
    rows, seconds, sure = [], list[float](), Counter[bool]()
    for kind, world in worlds.items():
        healed, righted, played = [], [], Counter[str]()
        for k in range(1 if options.worlds else options.times):
            watched = Watched(models, seed=hash_of(kind) + k, home=home)
            healed.append(watched.change(world.to_dict()))
            looks = [look for _, look in watched.slow.looks]
            first = next((look for look in looks if look.finding.sure and look.world), None)
            if first and first.world:
                sure[same_motion(first.world, world)] += 1
            now = watched.loop.healing.playing
            played[now.name if now else "not noticed"] += 1
            righted.append(watched.change({}))
            watched.show.close()
            seconds += watched.slow.seconds
        everything[0].extend(healed)
        everything[1].extend(righted)
        rows.append(summary(kind, healed, righted))
        print(*rows[-1].values(), dict(played), sep=" | ", flush=True)
    rows.append(summary("all", *everything))
    print(*rows[-1].values(), sep=" | ")
    print(
        f"sure findings: {sure[True]} right, {sure[False]} wrong; a look {1e3 * np.median(seconds):.0f} ms of CPU, "
        f"{1e3 * max(seconds):.0f} at most"
    )
    return rows


def hash_of(kind: str) -> int:
    """A seed that differs between kinds."""
    return sum(map(ord, kind)) * 100


def calm(models: Models, options: argparse.Namespace) -> None:
    """Play without a change, with pushes of up to 60 N every two seconds on average."""
    watched = Watched(models, seed=1, home={"sensor_noise": [options.noise] * 4} if options.noise else {})
    generator = np.random.default_rng(1)
    began, spent = time.process_time(), round(options.hours * 3600 * STEPS_A_SECOND)
    for _ in range(spent):
        if generator.random() < 0.01:
            watched.show.command(PushCart(float(generator.uniform(-60, 60))))
        watched.tick()
    noticed = watched.loop.latest is not None
    print(
        f"{options.hours:g} hours: {'a drift' if noticed else 'no drift'} noticed, {len(watched.slow.looks)} looks; "
        f"{1e6 * (time.process_time() - began) / spent:.0f} us of CPU a step of the show"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="an exported CartPole policy")
    parser.add_argument("--times", type=int, default=20, help="how often each change is made (default: 20)")
    parser.add_argument("--noise", type=float, default=0.0, help="standard deviation of the sensors' noise")
    parser.add_argument("--worlds", type=int, default=0, help="random worlds instead of the ten kinds")
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), help="some of the ten kinds")
    parser.add_argument("--hours", type=float, default=0.0, help="of show without a change, instead")
    options = parser.parse_args()
    models = Models(FileSource(options.model), alias=None, version="1")
    asyncio.run(models.poll())
    assert models.current
    if options.hours:
        calm(models, options)
        return
    worlds = {kind: KINDS[kind] for kind in options.kinds}
    if options.worlds:
        generator = np.random.default_rng(0)
        drawn = [random_world(generator) for _ in range(options.worlds)]
        worlds = {str(world): world for world in drawn if holdable(models.current.policy, world)}
        print(f"{len(worlds)} of {len(drawn)} worlds are balanced by a candidate")
    rows = changes(models, worlds, options)
    if not options.noise and not options.worlds and options.times >= 20:
        print(f"written to {write('healing', rows)}")


if __name__ == "__main__":
    main()
