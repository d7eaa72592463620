"""A finished episode with the request that it answers."""

import hashlib
from collections.abc import Sequence

import msgspec
from msgspec import Struct

from dqn.environments.spec import Environment
from dqn.environments.world import World
from serving.episodes.limits import Change, Push, WorldValues
from serving.episodes.simulation import frames_per_second, play
from serving.policy import OnnxPolicy


class Replay(Struct, frozen=True, kw_only=True):
    """A finished episode in columns, and the request that it answers. The same request gives the same replay."""

    id: str
    model: str
    version: str
    env_id: str
    env_kwargs: str
    """Keyword arguments of the environment, as a JSON object."""
    max_episode_steps: int
    """Time limit in steps; 0 for the registered one."""
    fps: int
    """Steps in a second of real time."""
    action_meanings: tuple[str, ...]
    run_id: str
    seed: int
    world: WorldValues
    """The world in which it began."""
    pushes: tuple[Push, ...]
    changes: tuple[Change, ...]
    episodic_return: float
    """Undiscounted sum of rewards."""
    terminated: bool
    truncated: bool
    observations: list[tuple[float, ...]]
    """`[steps + 1, obs]`, including the observation after the last step; rows of a large image are empty."""
    q_values: list[tuple[float, ...]]
    actions: list[int]
    rewards: list[float]

    @property
    def environment(self) -> Environment:
        """The environment with its arguments."""
        return Environment(env_id=self.env_id, kwargs=self.env_kwargs, max_episode_steps=self.max_episode_steps)

    def to_json(self) -> bytes:
        """The replay as JSON."""
        return msgspec.json.encode(self)


def record(
    policy: OnnxPolicy,
    *,
    model: str,
    version: str,
    seed: int,
    pushes: Sequence[Push] = (),
    world: World | None = None,
    changes: Sequence[Change] = (),
) -> Replay:
    """Play an episode to its end. The arguments are those of `play`."""
    steps = list(play(policy, seed=seed, pushes=pushes, world=world, changes=changes))
    metadata = policy.metadata
    began = (metadata.world if world is None else world).to_dict()
    request = [model, version, metadata.run_id, metadata.config_sha256, seed, began, pushes, changes]
    return Replay(
        id=hashlib.sha256(msgspec.json.encode(request)).hexdigest()[:16],
        model=model,
        version=version,
        env_id=metadata.env_id,
        env_kwargs=metadata.env_kwargs,
        max_episode_steps=metadata.max_episode_steps,
        fps=frames_per_second(metadata.environment),
        action_meanings=metadata.action_meanings,
        run_id=metadata.run_id,
        seed=seed,
        world=began,
        pushes=tuple(pushes),
        changes=tuple(changes),
        episodic_return=steps[-1].episodic_return,
        terminated=steps[-1].terminated,
        truncated=steps[-1].truncated,
        observations=[step.observation for step in steps] + [steps[-1].next_observation],
        q_values=[step.q_values for step in steps],
        actions=[step.action for step in steps],
        rewards=[step.reward for step in steps],
    )
