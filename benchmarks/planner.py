"""How well Acrobot-v1 can be played: a beam search over action sequences in the true dynamics.

    python -m benchmarks.planner [--episodes 100] [--width 3000]

It sees the start state and Gymnasium's equations, which no agent does. Every found sequence is played in Gymnasium, and
its return counts. What it finds is reachable; that nothing better exists is only suggested by wider beams.
"""

import argparse
import secrets
from typing import Final

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.envs.classic_control.acrobot import AcrobotEnv

from benchmarks.contestants import cpu_time
from benchmarks.harness import table, write

States = npt.NDArray[np.float64]
"""`[4, N]`: both angles, both angular velocities."""

_CELL: Final = np.array([[0.12], [0.12], [0.25], [0.35]])
"""Of states within one cell the beam keeps the one with the most energy."""


def main() -> None:
    """Plan, play, print one row and write it to `results/planner.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--width", type=int, default=3_000, help="states kept after each step")
    arguments = parser.parse_args()
    returns: list[float] = []

    def play() -> None:
        seed = secrets.randbits(28)
        returns.extend(planned_return(seed + episode, arguments.width) for episode in range(arguments.episodes))

    seconds = cpu_time(play)
    row = {
        "environment": "Acrobot-v1",
        "method": f"beam search, {arguments.width} states",
        "episodes": len(returns),
        "mean return": float(np.mean(returns)),
        "least": min(returns),
        "most": max(returns),
        "CPU-s": seconds,
    }
    print(table([row]))
    print(f"written to {write('planner', [row])}")


def planned_return(seed: int, width: int) -> float:
    """The return of the planned actions in Gymnasium's episode of this seed."""
    env = gym.make("Acrobot-v1")
    env.reset(seed=seed)
    acrobot = env.unwrapped
    assert isinstance(acrobot, AcrobotEnv)
    assert acrobot.state is not None
    rewards, terminated = 0.0, False
    for action in plan(np.asarray(acrobot.state, dtype=np.float64), width):
        _, reward, terminated, _, _ = env.step(int(action))
        rewards += float(reward)
    env.close()
    if not terminated:
        raise ValueError(f"the plan for seed {seed} does not end the episode in Gymnasium")
    return rewards


def plan(start: npt.NDArray[np.float64], width: int, *, most_steps: int = 200) -> list[int]:
    """The actions from a state `[4]` to the goal; the beam prefers states of high energy.

    Raises:
        ValueError: if no sequence of `most_steps` actions reaches the goal.
    """
    states = start[:, None]
    history: list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]] = []  # parents and actions of each step's states
    for _ in range(most_steps):
        count = states.shape[1]
        parents, actions = np.repeat(np.arange(count), 3), np.tile(np.arange(3), count)
        states = after(states[:, parents], actions.astype(np.float64) - 1)
        ended = -np.cos(states[0]) - np.cos(states[0] + states[1]) > 1
        if ended.any():
            row = int(ended.argmax())
            sequence = [int(actions[row])]
            row = int(parents[row])
            for before, taken in reversed(history):
                sequence.append(int(taken[row]))
                row = int(before[row])
            return sequence[::-1]
        by_energy = np.argsort(-energy(states), kind="stable")
        cells = np.floor(states[:, by_energy] / _CELL)
        _, first = np.unique(cells, axis=1, return_index=True)
        kept = by_energy[np.sort(first)[:width]]
        states = states[:, kept]
        history.append((parents[kept], actions[kept]))
    raise ValueError(f"no plan of {most_steps} actions or fewer was found")


def energy(states: States) -> npt.NDArray[np.float64]:
    """Kinetic and potential energy `[N]` in joules."""
    theta_1, theta_2, rate_1, rate_2 = states
    cos = np.cos(theta_2)
    kinetic = 0.5 * (3.5 + cos) * rate_1**2 + (1.25 + 0.5 * cos) * rate_1 * rate_2 + 0.625 * rate_2**2
    potential = -9.8 * (1.5 * np.cos(theta_1) + 0.5 * np.cos(theta_1 + theta_2))
    total: npt.NDArray[np.float64] = kinetic + potential
    return total


def after(states: States, torque: npt.NDArray[np.float64], step: float = 0.2) -> States:
    """Gymnasium's step of 0.2 s by Runge-Kutta: the states after torques `[N]` in Nm."""
    first = _rates(states, torque)
    second = _rates(states + step / 2 * first, torque)
    third = _rates(states + step / 2 * second, torque)
    fourth = _rates(states + step * third, torque)
    reached: States = states + step / 6 * (first + 2 * second + 2 * third + fourth)
    reached[:2] = (reached[:2] + np.pi) % (2 * np.pi) - np.pi
    limits = np.array([[4 * np.pi], [9 * np.pi]])
    reached[2:] = reached[2:].clip(-limits, limits)
    return reached


def _rates(states: States, torque: npt.NDArray[np.float64]) -> States:
    theta_1, theta_2, rate_1, rate_2 = states
    cos, sin = np.cos(theta_2), np.sin(theta_2)
    d1, d2 = 3.5 + cos, 1.25 + 0.5 * cos
    phi_2 = 4.9 * np.sin(theta_1 + theta_2)
    phi_1 = -0.5 * rate_2**2 * sin - rate_2 * rate_1 * sin + 14.7 * np.sin(theta_1) + phi_2
    second = (torque + d2 / d1 * phi_1 - 0.5 * rate_1**2 * sin - phi_2) / (1.25 - d2**2 / d1)
    return np.array((rate_1, rate_2, -(d2 * second + phi_1) / d1, second))


if __name__ == "__main__":
    main()
