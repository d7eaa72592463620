"""Whether the champion balances the identified world with the changes undone, so that no training is needed.

The server does the same within a second of a change, from some ten transitions. Nothing that it says about that is read
here: the champion's file from the registry is rehearsed in the world that the run has identified.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import numpy as np

from dqn.environments.world import World
from dqn.identification.trajectories import values_of
from flows.adaptation.timeline import Adaptation
from flows.adaptation.watch import champion_of, is_over, judged
from flows.orchestration.step import step
from flows.registry import versions
from flows.tracking.attempt import Attempt, FencedClient
from flows.tracking.store import connect
from serving.loop.cartpole import middle
from serving.loop.rehearsal import HOLDS, REGULATOR, STEPS, Candidate, candidates, choose, rehearse
from serving.loop.undoing import Observed, bias_of

EPISODES: Final = 30
LOST: Final = 0.1
"""A policy is less robust than at home if it balances so much less of the rehearsals' steps in the worlds around."""
_SCALED: Final = ("length", "gravity", "force_mag", "tau")
_FACTORS: Final = (0.8, 1.25)
_BIAS: Final = 0.03
"""Of the angle's sensor, in rad, as in the stress test."""
_NOISE: Final = 0.05
"""As in the stress test."""


@dataclass(frozen=True, kw_only=True)
class Rehearsed:
    """A policy in a changed world. Parts of the rehearsed steps that it balances, from 0 to 1."""

    name: str
    """What is undone; empty for the policy as it is."""
    balanced: float
    """In the changed world."""
    around: float
    """In the worlds around the changed one, with the same undone."""
    home: float
    """As it is in the worlds around its own."""

    @property
    def gain(self) -> str:
        """What a training in the changed world would gain; empty for nothing."""
        if not self.balanced >= HOLDS:
            return "returns"
        return "" if self.around >= self.home - LOST else "robustness"

    def __str__(self) -> str:
        """A clause, without the policy."""
        return (
            f"with {self.name or 'nothing undone'}: rehearsed return {STEPS * self.balanced:.0f} of {STEPS}, "
            f"{self.around:.0%} of the steps in worlds around this one balanced (at home {self.home:.0%})"
        )


def rehearsal(policy: Observed, world: World, own: World) -> Rehearsed:
    """The policy as it is, with the changes undone or a member of its bank, whichever balances a world longer.

    A regulator of the world is not among them: it is no version.

    Args:
        policy: an `OnnxPolicy`, or Q-values of CartPole's observations, which have no members.
        world: the changed world.
        own: the world that the policy was trained for.
    """
    tried = [each for each in candidates(policy, world, own) if each.name != REGULATOR]
    balanced = rehearse(policy, tried, world, episodes=EPISODES)
    best = choose(balanced, [each.name for each in tried], "")

    def in_all(played: Candidate, worlds: list[World]) -> float:
        return float(np.mean([rehearse(policy, [played], each, episodes=EPISODES) for each in worlds]))

    return Rehearsed(
        name=tried[best].name,
        balanced=float(balanced[best]),
        around=in_all(tried[best], around(world)),
        home=in_all(tried[0], around(own)),
    )


def around(world: World) -> list[World]:
    """Worlds that differ a little from one: a size, the delay, a bias or noise."""
    value, bias = values_of(world), [bias_of(world, entry) for entry in range(4)]
    leans = [(*bias[:2], bias[2] + more, bias[3]) for more in (-_BIAS, _BIAS)]
    return [
        *(world.altered(World.from_dict({name: factor * value[name]})) for name in _SCALED for factor in _FACTORS),
        *(replace(world, sensor_bias=lean) for lean in leans),
        replace(world, action_delay=int(middle(world.action_delay)) + 1),
        replace(world, sensor_noise=(_NOISE,) * 4),
    ]


def confirmed(adaptation: Adaptation, model: str, world: dict[str, Any]) -> bool:
    """Whether a training would gain nothing and the server's show balances. The adaptation has then ended."""
    champion = champion_of(model, adaptation.attempt)
    if champion is None:
        return False
    played = Rehearsed(**rehearsed(model, champion, world, adaptation.attempt))
    gain = f"; a training would gain in {played.gain}" if played.gain else ""
    adaptation.tell("rehearsed", f"version {champion} {played}{gain}")
    if gain:
        return False
    outcome, _, _ = judged(adaptation, champion)
    if is_over(adaptation):
        adaptation.end("recovered", f"the world is as version {champion} expects it again: nothing is trained")
    elif outcome == "recovered":
        undone = played.name or "nothing undone"
        adaptation.end("confirmed", f"no training needed: version {champion} balances with {undone}", world=world)
    else:
        adaptation.tell("rehearsed", f"version {champion} does not balance in the show as it does when rehearsed")
        return False
    return True


@step("rehearse")
def rehearsed(model: str, version: int, world: dict[str, Any], attempt: Attempt) -> dict[str, Any]:
    """Rehearse a version in the identified world. Returns the fields of `Rehearsed`."""
    policy = versions.download(model, version).policy
    played = rehearsal(policy, World.from_dict(world), policy.metadata.world)
    fenced = FencedClient(client=connect(), attempt=attempt)
    fenced.checked().log_dict(attempt.run_id, asdict(played) | {"gain": played.gain}, "rehearsal.json")
    return asdict(played)
