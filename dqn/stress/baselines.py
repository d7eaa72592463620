"""Baselines for the stress test: linear policies `weights . observation > 0`, by LQR or by search. Torch-free.

A trained network should be more robust than these.
"""

import functools
from typing import Final

import numpy as np
import numpy.typing as npt

from dqn.environments.world import NOMINAL, World
from dqn.evaluation.returns import Act, episodic_returns
from dqn.stress.robustness import ENVIRONMENT, StressTest, stress_tests

Floats = npt.NDArray[np.float64]

SEARCHED_IN: Final = World(
    push_force=(40.0, 70.0),
    push_interval=(50, 150),
    length=(0.5, 2.0),
    gravity=(9.8, 20.0),
    sensor_bias=(0.0, 0.0, (-0.03, 0.03), 0.0),
)
"""Domain randomisation of the search for a linear policy; contains some of the stress test's changes."""

_STATE_COST: Final = np.diag([10.0, 1.0, 1.0, 1.0])
_FORCE_COST: Final = 0.01
_ITERATIONS: Final = 10_000
_NOMINAL: Final = {"length": 0.5, "masspole": 0.1, "masscart": 1.0, "gravity": 9.8, "force_mag": 10.0, "tau": 0.02}

_SEED: Final = 0
_CANDIDATES: Final = 64
_EPISODES: Final = 8
_ELITES: Final = 10
_GENERATIONS: Final = 12
_LEAST_DEVIATION: Final = 0.02
_FOUND: Final = (0.013277983342035038, 0.17747055381475182, 0.6969948492821952, 0.6946409704020803)
"""`search_linear(SEARCHED_IN, seed=_SEED)`: every training in the nominal world reports it, and a search takes longer
than the tests of the version."""


def linear_policy(weights: Floats) -> Act:
    """A policy that pushes to the right if `weights . observation > 0`.

    Args:
        weights: `[4]`, or `[N, 4]` for N episodes; the number of rows of observations may be a multiple of N.
    """

    def act(observation: npt.NDArray[np.float32]) -> npt.NDArray[np.integer]:
        products = observation.reshape(-1, *weights.shape) * weights
        return np.asarray(products.sum(-1) > 0, dtype=np.int64).ravel()

    return act


def lqr(world: World = NOMINAL) -> Floats:
    """Weights `[4]` of the policy that pushes to the side of the optimal linear force (LQR).

    Minimises 10 x^2 + x'^2 + theta^2 + theta'^2 + 0.01 force^2 per step for the linearised cart and pole (Barto, Sutton
    and Anderson, 1983, appendix, without friction) in Gymnasium's Euler steps, by iterating the discrete Riccati
    equation to its fixed point. A range in `world` counts as its middle; wind, pushes, delay and sensors are ignored.
    """
    given = world.to_dict()
    length, masspole, masscart, gravity, force_mag, tau = (
        float(np.mean(given.get(name, nominal))) for name, nominal in _NOMINAL.items()
    )
    mass = masspole + masscart
    inertia = length * (4 / 3 - masspole / mass)
    coupling = masspole * length / mass
    A = np.eye(4)
    A[0, 1] = A[2, 3] = tau
    A[1, 2] = -tau * coupling * gravity / inertia
    A[3, 2] = tau * gravity / inertia
    B = tau * np.array([[0.0], [(1 + coupling / inertia) / mass], [0.0], [-1 / (mass * inertia)]])
    P = _STATE_COST
    for _ in range(_ITERATIONS):  # 223 iterations in the nominal world
        previous = P
        gain = np.linalg.solve(_FORCE_COST + B.T @ P @ B, B.T @ P @ A)
        P = _STATE_COST + A.T @ P @ (A - B @ gain)
        if np.allclose(P, previous, rtol=1e-9, atol=0.0):
            break
    return np.asarray(-gain[0] * np.sign(force_mag))


def search_linear(
    world: World = NOMINAL, *, seed: int, max_episode_steps: int | None = None, environment: str = ENVIRONMENT
) -> Floats:
    """Weights `[4]`, of length 1, of a linear policy, found by the cross-entropy method.

    12 generations of 64 policies that play 8 episodes each (Mannor, Rubinstein and Gat, 2003).

    Args:
        world: the world of the episodes.
        seed: of the search and of its episodes; equal seeds give equal weights.
        max_episode_steps: replaces the environment's time limit.
        environment: of the episodes, with CartPole's observations.
    """
    generator = np.random.default_rng(seed)
    mean, deviation = np.zeros(4), np.ones(4)
    for generation in range(_GENERATIONS):
        candidates = mean + deviation * generator.standard_normal((_CANDIDATES, 4))
        returns = episodic_returns(
            linear_policy(np.repeat(candidates, _EPISODES, axis=0)),
            environment,
            world,
            num_episodes=_CANDIDATES * _EPISODES,
            seed=seed + generation * _CANDIDATES * _EPISODES,
            max_episode_steps=max_episode_steps,
        )
        ranked = np.argsort(-returns.reshape(_CANDIDATES, _EPISODES).mean(1), kind="stable")
        elites = candidates[ranked[:_ELITES]]
        length = np.linalg.norm(elites.mean(0))
        mean, deviation = elites.mean(0) / length, elites.std(0) / length + _LEAST_DEVIATION
    return np.asarray(mean)


@functools.cache
def stressed_baselines(world: World, *, episodes: int) -> dict[str, StressTest]:
    """Stress tests of the LQR and the searched linear policy around a world, by name; deterministic and cached."""
    around = world.altered(SEARCHED_IN)
    searched = np.array(_FOUND) if around == SEARCHED_IN else search_linear(around, seed=_SEED)
    policies = {"LQR": lqr(world), "linear, searched": searched}
    act = linear_policy(np.repeat([*policies.values()], episodes, axis=0))
    tests = stress_tests(act, world, policies=len(policies), episodes=episodes, seed=_SEED)
    return dict(zip(policies, tests, strict=True))
