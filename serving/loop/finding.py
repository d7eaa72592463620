"""Says what has changed about CartPole's world, in a sentence for a person."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from dqn.environments.world import World
from dqn.identification.at_once import Explanation
from serving.loop.cartpole import CartPole, middle
from serving.loop.drift import TOLERATED_NOISE
from serving.loop.undoing import bias_of

_EVIDENCE: Final = {"force_mag": "force_ratio", "bias 2": "bias_rad", "action_delay": "delay"}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One sentence and its numbers."""

    sentence: str
    evidence: dict[str, float]
    sure: bool
    """Whether every other explanation that predicts as well agrees on the motion."""


def say(found: Sequence[Explanation], known: World, *, sure: bool, transitions: int) -> Finding:
    """The likeliest explanation as a finding.

    Args:
        found: explanations, the likeliest first; may be empty.
        known: the world that was expected.
        sure: as `dqn.identification.at_once.explain` returns it.
        transitions: number of transitions after the change.
    """
    evidence: dict[str, float] = {"transitions": float(transitions)}
    if not found or not found[0].explained:
        return Finding(
            sentence="the cart moves unlike predicted; no single cause explains it", evidence=evidence, sure=False
        )
    best = found[0]
    own = CartPole.of(known)
    for name, value in best.changed.items():
        evidence[_EVIDENCE.get(name, name)] = _rounded(value / own.force_mag if name == "force_mag" else value)
    usual = max((middle(value) for value in known.sensor_noise), default=0.0)
    parts = described(best.changed, known)
    if best.noise > 1.5 * max(TOLERATED_NOISE, usual):
        evidence["sensor_noise"] = _rounded(best.noise)
        parts.append(f"the sensors are noisier than the policy knows: about {best.noise:.2g}")
    sentence = ", and ".join(parts) or "nothing that the motion shows has changed"
    others = [other for other in found[1:] if other.weight > 0.2 * best.weight]
    if not sure:
        rival = next((text for other in others if (text := ", and ".join(described(other.changed, known)))), "")
        sentence = f"not sure yet: {sentence}{f', or {rival}' if rival else ''}"
    return Finding(sentence=sentence, evidence=evidence, sure=sure)


def say_returns(lately: Sequence[float], usual: float) -> Finding:
    """Fallen returns as a finding: the latest ones beside what is usual."""
    returns = ", ".join(f"{value:g}" for value in lately)
    sentence = f"returns have fallen: {returns} lately, {usual:.4g} is usual"
    return Finding(sentence=sentence, evidence={"usual_return": usual}, sure=False)


def described(changed: Mapping[str, float], known: World) -> list[str]:
    """Each change as a clause, by the names of `dqn.identification.at_once.Explanation.changed`."""
    return [_clause(name, value, known) for name, value in changed.items()]


def _clause(name: str, value: float, known: World) -> str:
    own = CartPole.of(known)
    match name:
        case "force_mag":
            return _motor(value / own.force_mag)
        case "wind":
            more = value - middle(known.wind)
            return f"a wind of {abs(more):.1f} N blows to the {'right' if more > 0 else 'left'}"
        case "gravity":
            return f"gravity is {value:.1f} m/s² instead of {own.gravity:.1f}"
        case "action_delay":
            late = int(value) - int(middle(known.action_delay))
            return f"actions arrive {abs(late)} step{'s' * (abs(late) > 1)} {'late' if late > 0 else 'early'}"
        case "bias 2":
            return f"the pole's angle reads {abs(math.degrees(value - bias_of(known, 2))):.0f}° off"
        case "bias 1" | "bias 3":
            what, unit = ("cart's speed", "m/s") if name == "bias 1" else ("pole's turning", "rad/s")
            return f"the {what} reads {abs(value - bias_of(known, int(name[-1]))):.2g} {unit} off"
    return _size(name, value, own)


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")


def _motor(ratio: float) -> str:
    if abs(ratio) < 0.1:
        return "the motor does nothing"
    strength = "" if abs(abs(ratio) - 1) < 0.1 else f"{abs(ratio):.1f} times its force"
    if ratio < 0:
        return "the motor answers the other way" + (f", with {strength}" if strength else "")
    return f"the motor pushes with {strength or 'its own force'}"


def _size(name: str, value: float, own: CartPole) -> str:
    if name == "length":
        than = "shorter" if value < own.length else "longer"
        return f"the pole swings like a {than} one ({2 * value:.2g} m instead of {2 * own.length:.2g} m)"
    if name == "tau":
        return f"a step takes {1000 * value:.0f} ms instead of {1000 * own.tau:.0f} ms"
    what = "pole" if name == "masspole" else "cart"
    than = "lighter" if value < getattr(own, name) else "heavier"
    return f"the {what} moves like a {than} one ({value:.2g} kg instead of {getattr(own, name):.2g} kg)"
