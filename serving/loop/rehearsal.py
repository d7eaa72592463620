"""Chooses what plays a changed world: candidates are rehearsed in it by the equations of motion."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from dqn.environments.world import World
from serving.loop.undoing import Floats, Observed, Plant, Undone, regulator, undone_of
from serving.policy import OnnxPolicy

EPISODES: Final = 6
STEPS: Final = 500
QUICK_STEPS: Final = 150
"""Steps of the first rehearsals after a change, when a pole may be falling."""
MEMBER_STEPS: Final = 250
"""Steps of the rehearsal that chooses among the members of a bank, and of the one that says whether any is needed."""
HOLDS: Final = 0.95
"""A candidate holds a world if it balances at least this part of the rehearsed steps."""
REGULATOR: Final = "a linear-quadratic regulator of the identified world"
"""Name of the candidate that is no version."""
_EQUAL: Final = 0.01
"""Difference below which two candidates balance equally long."""
_GAIN: Final = 1.5
"""Where none holds the world, a candidate replaces what plays if it balances this many times as long."""
_EDGE: Final = (2.4, 12 * 2 * np.pi / 360)
"""Where an episode of CartPole ends: distance of the cart (m), angle of the pole (rad)."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """Something that can play: what it is, for a person, and how to begin playing.

    `begin` takes the actions of the episode that plays, oldest first.
    """

    name: str
    begin: Callable[[Sequence[int]], Undone] | None
    """None for the policy as it is."""


def candidates(policy: Observed, world: World, own: World) -> list[Candidate]:
    """The policy as it is, the policy with the changes undone, a member of its bank, and a regulator.

    Of the members, with the changes undone, only the one is a candidate that balances longest in a short rehearsal of
    all of them side by side, and none if the policy balances that long without: a look stays as short as it was.

    Args:
        policy: an `OnnxPolicy`, or another policy, which has no members.
        world: the world to play in.
        own: the world that the policy was trained for.
    """
    plant, home = Plant.of(world), Plant.of(own)
    ideal = Plant(cartpole=plant.cartpole, wind=0.0, bias=(0.0,) * 4, noise=(0.0,) * 4, delay=0)
    steer = regulator(plant)
    found = [Candidate(name="", begin=None)]
    if undone := undone_of(world, own):
        found.append(Candidate(name=undone, begin=lambda actions: Undone(policy, plant, home, actions)))
    if isinstance(policy, OnnxPolicy) and policy.metadata.members:
        alone = rehearse(policy, found[-1:], world, steps=MEMBER_STEPS)[0]
        found += [_best_member(policy, world)] if alone < HOLDS else []
    found.append(Candidate(name=REGULATOR, begin=lambda actions: Undone(steer, plant, ideal, actions)))
    return found


def _best_member(policy: OnnxPolicy, world: World) -> Candidate:
    """The member of a bank that balances a world longest."""
    plant, members = Plant.of(world), policy.metadata.members
    numbers = range(1, len(members) + 1)
    together = Undone(partial(policy.member_q_values, numbers), plant, Plant.of(members[0]))
    shares = _balanced(
        lambda observed, _: together.q_values(observed),
        len(members),
        plant,
        steps=MEMBER_STEPS,
        episodes=EPISODES,
        seed=0,
    )
    best = int(shares.argmax())
    own, play = members[best], partial(policy.member_q_values, [best + 1])
    name = ", ".join(filter(None, (f"member {best + 1} of the bank ({own})", undone_of(world, own))))
    return Candidate(name=name, begin=lambda actions: Undone(play, plant, Plant.of(own), actions))


def rehearse(
    policy: Observed,
    tried: Sequence[Candidate],
    world: World,
    *,
    steps: int = STEPS,
    episodes: int = EPISODES,
    seed: int = 0,
) -> Floats:
    """The part `[C]` of the steps that each candidate balances in a world, from Gymnasium's initial states.

    Args:
        policy: the policy as it is, for the candidate without `begin`.
        tried: C candidates, which get the same initial states and the same noise.
        world: a range counts as its middle.
        steps: of an episode.
        episodes: of each candidate.
        seed: of the initial states and the noise.
    """
    players = [each.begin(()).q_values if each.begin else policy for each in tried]

    def play(observed: npt.NDArray[np.floating], stands: npt.NDArray[np.bool_]) -> npt.NDArray[np.floating]:
        q_values = np.zeros((len(tried), episodes, 2))
        mine = observed.reshape(len(tried), episodes, 4)
        for k in np.flatnonzero(stands.reshape(len(tried), episodes).any(axis=1)):
            q_values[k] = players[k](mine[k])
        return q_values.reshape(-1, 2)

    return _balanced(play, len(tried), Plant.of(world), steps=steps, episodes=episodes, seed=seed)


def _balanced(
    play: Callable[[npt.NDArray[np.floating], npt.NDArray[np.bool_]], npt.NDArray[np.floating]],
    players: int,
    plant: Plant,
    *,
    steps: int,
    episodes: int,
    seed: int,
) -> Floats:
    """The part `[C]` of the steps that each of C players balances.

    `play` gets the observations of all episodes of each player, and which of these episodes have not ended.
    """
    C = players
    generator = np.random.default_rng(seed)
    start = np.tile(generator.uniform(-0.05, 0.05, (4, episodes)), C)
    state: Any = tuple(start)
    bias, noise = np.array(plant.bias), np.array(plant.noise)
    sides: list[Floats] = []
    balanced, stands = np.zeros(C * episodes), np.ones(C * episodes, dtype=np.bool_)
    for step in range(steps):
        observed = np.stack(state, axis=1) + bias
        if noise.any():
            observed += np.tile(generator.normal(0.0, noise, (episodes, 4)), (C, 1))
        side = 2.0 * play(observed.astype(np.float32), stands).argmax(1) - 1.0
        sides.append(side)
        state = plant.step(state, sides[max(0, step - plant.delay)])
        stands &= (np.abs(state[0]) < _EDGE[0]) & (np.abs(state[2]) < _EDGE[1])
        balanced += stands
        if not stands.any():
            break
        state = tuple(np.where(stands, entry, 0.0) for entry in state)
    return np.asarray(balanced.reshape(C, episodes).mean(1) / steps)


def choose(shares: Floats, names: Sequence[str], playing: str) -> int:
    """The candidate to play.

    Of those that balance longest the policy as it is, or what plays, or the first one. Where none holds the world, the
    best one replaces what plays only if it balances considerably longer.

    Args:
        shares: `[C]`, parts of the rehearsed steps that the candidates balance; the first one is the policy as it is.
        names: of the candidates.
        playing: name of the one that plays.
    """
    now: int = list(names).index(playing) if playing in names else 0
    best: int = int(shares.argmax())
    if shares[best] < HOLDS and shares[best] < _GAIN * shares[now]:
        return now
    longest: list[int] = [k for k in (0, now, *range(len(names))) if shares[k] >= shares[best] - _EQUAL]
    return longest[0]
