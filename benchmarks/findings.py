"""How often a finding that is said to be sure is right: twenty kinds of change of CartPole's world.

    python -m benchmarks.findings --model FILE.onnx

The policy plays on as it is. Its transitions are explained as in the show, until a finding is sure or 60 transitions
have been seen. A finding is right if the world that it names moves as the real one does, to a tenth: by delay, biases,
and ratios of masses and forces.
"""

import argparse
import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.harness import write
from benchmarks.healing import KINDS, hash_of
from dqn.environments.world import World
from dqn.identification.at_once import explain, same_motion
from dqn.identification.record import Experience as Record
from serving.episodes.simulation import Simulation
from serving.loop.closed_loop import EXPLAINED_AT
from serving.loop.experience import Experience
from serving.policy import OnnxPolicy

SURE_AT: Final = tuple(count for count in EXPLAINED_AT if count <= 60)
FURTHER: Final = {
    "weak motor": World(force_mag=5.0),
    "reversed, weak": World(force_mag=-5.0),
    "long pole": World(length=1.5),
    "heavy pole": World(masspole=1.0),
    "light cart": World(masscart=0.4),
    "bias -3 degrees": World(sensor_bias=(0.0, 0.0, -0.0524, 0.0)),
    "bias of a velocity": World(sensor_bias=(0.0, 0.0, 0.0, 0.3)),
    "wind -3 N, delay 1": World(wind=-3.0, action_delay=1),
    "slow steps": World(tau=0.03),
    "reversed, bias 4 degrees": World(force_mag=-10.0, sensor_bias=(0.0, 0.0, 0.07, 0.0)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="an exported CartPole policy")
    parser.add_argument("--times", type=int, default=20, help="how often each change is made (default: 20)")
    parser.add_argument("--noise", type=float, default=0.0, help="standard deviation of the sensors' noise")
    options = parser.parse_args()
    rows = table(OnnxPolicy.load(options.model), times=options.times, noise=options.noise)
    if not options.noise and options.times >= 20:
        print(f"written to {write('findings', rows)}")


def table(policy: OnnxPolicy, *, times: int, noise: float) -> list[dict[str, Any]]:
    """The first sure finding after each of twenty kinds of change, with the policy as it is, beside the truth."""
    rows, total = [], Counter[str]()
    known = World(sensor_noise=(noise,) * 4 if noise else ())
    for kind, change in (KINDS | FURTHER).items():
        found, at, world = Counter[str](), list[int](), known.altered(change)
        for k in range(times):
            simulation, experience = Simulation(policy.metadata.environment, known), Experience()
            generator = np.random.default_rng(hash_of(kind) + k)
            simulation.reset(int(generator.integers(10**6)))
            onset, episode = int(generator.integers(20, 300)), 0
            while experience.newest < onset + max(SURE_AT):
                if experience.newest == onset:
                    simulation.change(world)
                step = simulation.step(policy, 0.0)
                count = experience.add(version=1, episode=episode, step=step) - onset
                if count in SURE_AT:
                    columns = experience.columns(max(0, onset - 32))
                    record = Record(**{each.name: columns[each.name] for each in dataclasses.fields(Record)})
                    explained, sure = explain(record, known, int((columns["id"] <= onset).sum()))
                    if sure and explained[0].explained:
                        found["right" if same_motion(explained[0].world, world) else "wrong"] += 1
                        at.append(count)
                        break
                if simulation.over:
                    episode += 1
                    simulation.reset(int(generator.integers(10**6)))
            simulation.close()
        row = {"change": kind, "sure": f"{len(at)} of {times}", "right": f"{found['right']} of {len(at)}"}
        rows.append(row | {"transitions": float(np.median(at)) if at else None})
        total += found
        print(*rows[-1].values(), sep=" | ", flush=True)
    print(f"all: {total['right']} of {total.total()} sure findings are right, of {times * len(rows)} changes")
    return rows


if __name__ == "__main__":
    main()
