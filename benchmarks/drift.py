"""The drift detector: false alarms in nominal worlds, steps until a change is noticed, and the cost of a step.

    python -m benchmarks.drift                      # 24 simulated hours, each change 20 times; about five minutes
    python -m benchmarks.drift --hours 0.5
    python -m benchmarks.drift --model FILE.onnx    # an exported policy in place of the linear controller

The hours are simulated step by step, 50 steps a second, with serving's environment and detector: a third of them with
perfect sensors, two thirds with the noise of the stress test (0.05 on every entry). The cart is pushed every two
seconds on average, with up to 60 N. The results of at least 24 hours are written to results/drift.json.
"""

import argparse
import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.harness import write
from dqn.environments.making import make
from dqn.environments.world import NOMINAL, World
from dqn.environments.wrappers import WorldEnv
from serving.episodes.simulation import Step
from serving.loop.drift import TOLERATED_NOISE, EpisodeTest, StepTest
from serving.metrics.metrics import Metrics
from serving.models.follower import Models
from serving.models.source import FileSource
from serving.policy import OnnxPolicy
from serving.show.commands import Restart
from serving.show.stage import Stage
from serving.show.viewer import Viewer

STEPS_A_SECOND: Final = 50
MAX_PUSH: Final = 60.0
PUSHES_A_STEP: Final = 0.01
NOISY: Final = World(sensor_noise=(TOLERATED_NOISE,) * 4)
CHANGES: Final = {
    "reversed motor": World(force_mag=-10.0),
    "sensor bias 5 degrees": World(sensor_bias=(0.0, 0.0, np.radians(5.0).item(), 0.0)),
    "delay 3": World(action_delay=3),
    "short pole, strong motor": World(length=0.1, force_mag=30.0),
    "short pole, gravity 30": World(length=0.1, gravity=30.0),
    "wind 3 N": World(wind=3.0),
    "weak motor": World(force_mag=5.0),
}
Act = Callable[[np.ndarray], int]


@dataclass(frozen=True, kw_only=True)
class Played:
    """The alarms of some steps, and what the detector cost."""

    alarms: tuple[int, ...]
    """Numbers of the steps at which the step test raised an alarm."""
    episode_alarms: int
    episodes: int
    detector_seconds: float
    """CPU time in the step test."""


def balance(observation: np.ndarray) -> int:
    """A linear controller that balances CartPole-v1."""
    x, x_dot, theta, theta_dot = observation.tolist()
    return int(0.05 * x + 0.3 * x_dot + 6.0 * theta + 1.2 * theta_dot > 0)


def play(
    act: Act,
    own: World,
    *,
    steps: int,
    seed: int,
    real: World | None = None,
    change: tuple[int, World] | None = None,
    until_alarm: bool = False,
) -> Played:
    """Play a policy trained for `own` in the world `real`, with pushes, and give every step to both tests.

    Args:
        act: observation `[4]` to action.
        own: the world that the detector expects.
        steps: number of steps.
        seed: of episodes and pushes.
        real: the world to play in; None for `own`.
        change: number of the step at which the world changes, and the new world.
        until_alarm: stop at the first alarm after the change.
    """
    generator = np.random.default_rng(seed)
    env: WorldEnv = make("CartPole-v1", own if real is None else real)
    test, episodes = StepTest(own), EpisodeTest()
    alarms: list[int] = []
    ended = fallen = 0
    spent = 0.0
    over, index, pushed = True, 0, False
    observation = np.zeros(4)
    for number in range(steps):
        if over:
            observation, _ = env.reset(seed=seed + ended)
            index, pushed = 0, False
        if change and number == change[0]:
            env.change(change[1])
        push = 0.0
        if generator.random() < PUSHES_A_STEP:
            push, pushed = generator.uniform(-MAX_PUSH, MAX_PUSH), True
        action = act(observation)
        found, _, terminated, truncated, _ = env.step(action, push)
        step = Step(
            index=index,
            observation=tuple(observation.tolist()),
            q_values=(),
            action=action,
            reward=1.0,
            episodic_return=index + 1.0,
            push=push,
            terminated=bool(terminated),
            truncated=bool(truncated),
            next_observation=tuple(found.tolist()),
        )
        began = time.process_time()
        lasted = test.update(step)
        spent += time.process_time() - began
        if lasted:
            alarms.append(number)
            if until_alarm and change and number >= change[0]:
                break
        observation, over, index = found, bool(terminated or truncated), index + 1
        if over:
            ended += 1
            if not pushed:
                fallen += episodes.update(float(index))
    env.close()
    return Played(alarms=tuple(alarms), episode_alarms=fallen, episodes=ended, detector_seconds=spent)


def delay(act: Act, changed: World, *, real: World, seed: int, most: int = 500) -> int | None:
    """Steps from a change at step 200 to the alarm; None if there is none in `most` steps, or one before the change."""
    world = World(**{**real.to_dict(), **changed.to_dict()})
    played = play(act, NOMINAL, real=real, change=(200, world), steps=200 + most, seed=seed, until_alarm=True)
    if not played.alarms or played.alarms[0] < 200:
        return None
    return played.alarms[0] - 200 + 1


def in_show(models: Models, changed: World, *, seed: int) -> tuple[float, str]:
    """Seconds from a change until a show notices it, breaks between episodes included, and the finding.

    The change is made at a random step. The seconds are nan if nothing is noticed in 20 seconds.
    """
    stage = Stage(models, Metrics())
    show = stage.main
    show.command(Restart(1000 * seed))
    show.join(Viewer())
    for _ in range(int(np.random.default_rng(seed).integers(20, 800))):
        show._tick(1 / STEPS_A_SECOND)
    stage.change_world(changed.to_dict())
    ticks = 0
    while stage.loop.drift is None and ticks < 20 * STEPS_A_SECOND:
        show._tick(1 / STEPS_A_SECOND)
        ticks += 1
    noticed = ticks / STEPS_A_SECOND if stage.loop.drift else float("nan")
    for _ in range(8 * STEPS_A_SECOND):
        show._tick(1 / STEPS_A_SECOND)
    show.close()
    return noticed, stage.loop.latest.finding if stage.loop.latest else "nothing"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=24.0, help="of show to simulate (default: 24)")
    parser.add_argument("--times", type=int, default=20, help="how often each change is made (default: 20)")
    parser.add_argument("--model", type=Path, help="an exported policy; default: a linear controller")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    act: Act = balance
    if options.model:
        policy = OnnxPolicy.load(options.model)
        act = lambda observation: int(policy.act(observation[np.newaxis])[0])  # noqa: E731 -- one of two
    rows: list[dict[str, Any]] = []
    if options.model:
        models = Models(FileSource(options.model), alias=None, version="1")
        asyncio.run(models.poll())
        print("seconds of the show from a change to the alarm: median, most; and the finding 8 seconds later")
        for name, changed in CHANGES.items():
            told = [in_show(models, changed, seed=options.seed + k) for k in range(options.times)]
            said = Counter(sentence for _, sentence in told)
            seconds = [noticed for noticed, _ in told]
            rows.append({"change": name, "seconds": seconds, "said": dict(said)})
            print(f"  {name:26} {np.median(seconds):5.2f} {max(seconds):5.2f}  {dict(said)}", flush=True)
    print("steps from a change to the alarm: median, most; perfect sensors | noise of 0.05")
    for name, changed in CHANGES.items():
        cells = []
        for real in (NOMINAL, NOISY):
            delays = [delay(act, changed, real=real, seed=options.seed + 1000 * k) for k in range(options.times)]
            noticed = sorted(each for each in delays if each is not None)
            rows.append({"change": name, "noise": real is NOISY, "times": len(delays), "steps": noticed})
            missed = f", {len(delays) - len(noticed)} not in 500" if len(noticed) < len(delays) else ""
            cells.append(f"{np.median(noticed):5.0f} {noticed[-1]:5d}{missed}" if noticed else "never")
        print(f"  {name:26} {' | '.join(cells)}", flush=True)
    steps = round(options.hours * 3600 * STEPS_A_SECOND)
    for name, real, share in (("perfect sensors", NOMINAL, 1 / 3), ("noise of 0.05", NOISY, 2 / 3)):
        played = play(act, NOMINAL, real=real, steps=round(steps * share), seed=options.seed)
        row = {
            "hours": steps * share / 3600 / STEPS_A_SECOND,
            "noise": real is NOISY,
            "false_alarms_of_steps": len(played.alarms),
            "false_alarms_of_episodes": played.episode_alarms,
            "episodes": played.episodes,
            "microseconds_a_step": 1e6 * played.detector_seconds / round(steps * share),
        }
        rows.append(row)
        print(
            f"{row['hours']:.1f} hours, {name}: {len(played.alarms)} false alarms of steps, {played.episode_alarms} of "
            f"episodes ({played.episodes} played); {row['microseconds_a_step']:.1f} us of CPU a step",
            flush=True,
        )
    if options.hours >= 24:
        write("drift", rows)


if __name__ == "__main__":
    main()
