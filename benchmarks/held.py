"""What is balanced over length and force, by one champion, with the change undone, and by a regulator: a picture.

    python -m benchmarks.held                       # trains a population first
    python -m benchmarks.held --model FILE.onnx

Each world is rehearsed as the server does it, with the world known: six episodes of 500 steps by the equations of
motion. The picture is written to `images/held.png`, and the shares to `results/held.json`.
"""

import argparse
import itertools
import time
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from benchmarks.figures import held
from benchmarks.harness import table, write
from dqn.environments.world import NOMINAL, World
from dqn.presets import PRESETS
from dqn.stress.finalists import stressed
from dqn.training.loop import train
from serving.loop.rehearsal import HOLDS, candidates, rehearse
from serving.policy import OnnxPolicy

LENGTHS: Final = np.geomspace(0.0625, 4.0, 19)
"""Half lengths of the pole, in metres."""
FORCES: Final = np.concatenate([-np.geomspace(1.25, 40.0, 11)[::-1], np.geomspace(1.25, 40.0, 11)])
"""In newtons; a negative one is of a reversed motor."""
DELAYS: Final = (0, 3)
CONTESTANTS: Final = ("champion as it is", "change undone", "LQR of the world")
Floats = npt.NDArray[np.float64]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="an exported CartPole policy; default: one is trained")
    options = parser.parse_args()
    began = time.process_time()
    policy = OnnxPolicy.load(options.model or stressed(train(PRESETS["cartpole"])).policy().model)
    shares = {delay: balanced(policy, delay, LENGTHS, FORCES) for delay in DELAYS}
    rows: list[dict[str, Any]] = [
        {"delay": delay, "contestant": name, "worlds": each.size, "held": float((each >= HOLDS).mean())}
        for delay, maps in shares.items()
        for name, each in zip(CONTESTANTS, maps, strict=True)
    ]
    print(table(rows))
    picture = held(LENGTHS, FORCES, shares, CONTESTANTS, HOLDS)
    spent = time.process_time() - began
    rows.append({"CPU-s": round(spent, 1)})
    print(f"{spent:.0f} CPU-s; written to {write('held', rows)} and {picture}")


def balanced(policy: OnnxPolicy, delay: int, lengths: Floats, forces: Floats) -> Floats:
    """The part `[contestants, lengths, forces]` of the steps that each contestant balances."""
    parts = []
    for length, force in itertools.product(lengths.tolist(), forces.tolist()):
        world = World(length=length, force_mag=force, action_delay=delay)
        found = candidates(policy.q_values, world, NOMINAL)
        share = rehearse(policy.q_values, found, world)
        parts.append((share[0], share[-2], share[-1]))  # the second is the first where there is nothing to undo
    return np.array(parts).T.reshape(len(CONTESTANTS), len(lengths), len(forces))


if __name__ == "__main__":
    main()
