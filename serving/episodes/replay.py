"""A finished episode, kept with the request it answers."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import orjson

from dqn.world import World
from serving.episodes.environment import Step, frames_per_second, play
from serving.episodes.physics import CARTPOLE, Change, Physics, Push
from serving.policy import OnnxPolicy


@dataclass(frozen=True, kw_only=True)
class Replay:
    """A finished episode and the request it answers; the same request gives the same replay."""

    id: str
    model: str
    version: str
    env_id: str
    fps: int
    """Steps in a second of real time."""
    action_meanings: tuple[str, ...]
    run_id: str
    seed: int
    world: World
    """What the policy was trained for, and plays in where nothing was changed."""
    physics: Physics
    pushes: tuple[Push, ...]
    changes: tuple[Change, ...]
    steps: tuple[Step, ...]

    @property
    def episodic_return(self) -> float:
        """Undiscounted sum of rewards."""
        return self.steps[-1].episodic_return

    @property
    def observations(self) -> list[tuple[float, ...]]:
        """Every observation from the first to the one after the last step, `[steps + 1, obs]`."""
        return [step.observation for step in self.steps] + [self.steps[-1].next_observation]

    def to_json(self) -> bytes:
        """The whole replay, one column a quantity."""
        own = ("id", "model", "version", "env_id", "fps", "action_meanings", "run_id")
        columns: dict[str, Any] = {name: getattr(self, name) for name in own}
        columns |= {
            "seed": self.seed,
            "world": self.world.to_dict(),
            "physics": asdict(self.physics),
            "pushes": [asdict(p) for p in self.pushes],
        }
        columns["changes"] = [change.to_json() for change in self.changes]
        columns |= {
            "episodic_return": self.episodic_return,
            "terminated": self.steps[-1].terminated,
            "truncated": self.steps[-1].truncated,
            "observations": self.observations,
            "q_values": [step.q_values for step in self.steps],
            "actions": [step.action for step in self.steps],
            "rewards": [step.reward for step in self.steps],
        }
        return orjson.dumps(columns)


def record(
    policy: OnnxPolicy,
    *,
    model: str,
    version: str,
    seed: int,
    pushes: Sequence[Push] = (),
    physics: Physics = CARTPOLE,
    changes: Sequence[Change] = (),
) -> Replay:
    """Play an episode to its end and keep it; arguments as of `play`."""
    steps = tuple(play(policy, seed=seed, pushes=pushes, physics=physics, changes=changes))
    metadata = policy.metadata
    request = [model, version, metadata.run_id, metadata.config_sha256, seed, physics, pushes, changes]
    return Replay(
        id=hashlib.sha256(orjson.dumps(request)).hexdigest()[:16],
        model=model,
        version=version,
        env_id=metadata.env_id,
        fps=frames_per_second(metadata.env_id),
        action_meanings=metadata.action_meanings,
        run_id=metadata.run_id,
        seed=seed,
        world=metadata.world,
        physics=physics,
        pushes=tuple(pushes),
        changes=tuple(changes),
        steps=steps,
    )
