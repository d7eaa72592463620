"""Episodes as they are played: a policy, an environment, and what a spectator does to both."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Final, Self, cast

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import orjson
from gymnasium.envs.classic_control.cartpole import CartPoleEnv

from serving.policy import OnnxPolicy

MAX_PUSH: Final = 200.0
MAX_PUSHES: Final = 1_000
MAX_SEED: Final = 2**31 - 1
MAX_STEPS: Final = 2_000
_RANGES: Final = {
    "length": (0.1, 2.0),
    "masspole": (0.01, 2.0),
    "gravity": (0.0, 30.0),
    "force_mag": (1.0, 50.0),
}


def _number(name: str, value: object) -> float:
    if type(value) not in (int, float) or not np.isfinite(cast("float", value)):
        raise ValueError(f"{name} must be a finite number, got {str(value)[:40]!r}")
    return float(cast("float", value))


def _kind(value: object) -> str:
    return {dict: "an object", list: "an array", str: "a string", type(None): "null"}.get(type(value), "a number")


@dataclass(frozen=True, kw_only=True)
class Physics:
    """What a spectator may change about CartPole, by Gymnasium's own names; the defaults are CartPole-v1's.

    Raises:
        ValueError: if a value is outside its range.
    """

    length: float = 0.5
    """Half the pole's length, in metres."""
    masspole: float = 0.1
    """Mass of the pole, in kilograms."""
    gravity: float = 9.8
    """Gravity, in metres per second squared."""
    force_mag: float = 10.0
    """Force of one action on the cart, in newtons."""

    def __post_init__(self) -> None:
        for name, (low, high) in _RANGES.items():
            value = _number(name, getattr(self, name))
            if not low <= value <= high:
                raise ValueError(f"{name} must be between {low:g} and {high:g}, got {value:g}")
            object.__setattr__(self, name, value)

    @classmethod
    def parse(cls, values: object) -> Self:
        """Physics from a JSON object; names left out keep their defaults."""
        names = [field.name for field in fields(cls)]
        if not isinstance(values, dict):
            raise ValueError(f"physics must be an object with any of {', '.join(names)}, got {_kind(values)}")
        if unknown := sorted(set(values) - set(names)):
            raise ValueError(f"unknown physics {', '.join(unknown)}; there are {', '.join(names)}")
        return cls(**values)


@dataclass(frozen=True, kw_only=True)
class Push:
    """An outside force on the cart during one environment step (0.02 s)."""

    step: int
    force: float
    """In newtons, positive to the right."""

    def __post_init__(self) -> None:
        if type(self.step) is not int or not 0 <= self.step < MAX_STEPS:
            raise ValueError(f"a push's step must be a whole number from 0 to {MAX_STEPS - 1}, got {self.step!r}")
        force = _number("a push's force", self.force)
        if not -MAX_PUSH <= force <= MAX_PUSH:
            raise ValueError(f"a push's force must be between -{MAX_PUSH:g} and {MAX_PUSH:g} newtons, got {force:g}")
        object.__setattr__(self, "force", force)

    @classmethod
    def parse(cls, values: object) -> Self:
        """A push from a JSON object with `step` and `force`."""
        if not isinstance(values, dict) or set(values) != {"step", "force"}:
            raise ValueError(f"a push must be an object with step and force, got {orjson.dumps(values)[:80].decode()}")
        return cls(**values)


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One environment step: what the policy saw, thought and did, and what came of it."""

    index: int
    observation: tuple[float, ...]
    """What the policy saw."""
    q_values: tuple[float, ...]
    action: int
    reward: float
    episodic_return: float
    """Undiscounted sum of rewards up to and including this step."""
    push: float
    """Outside force during this step, in newtons."""
    terminated: bool
    truncated: bool
    next_observation: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Replay:
    """A finished episode and the request it answers; the same request gives the same replay."""

    id: str
    model: str
    version: str
    env_id: str
    action_meanings: tuple[str, ...]
    run_id: str
    seed: int
    physics: Physics
    pushes: tuple[Push, ...]
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
        columns: dict[str, Any] = {
            name: getattr(self, name) for name in ("id", "model", "version", "env_id", "action_meanings", "run_id")
        }
        columns |= {"seed": self.seed, "physics": asdict(self.physics), "pushes": [asdict(p) for p in self.pushes]}
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


class Stage:
    """One environment under the spectators' hands. Not thread-safe.

    Raises:
        ValueError: for an environment that is unknown, or has other than flat observations and discrete actions.
    """

    def __init__(self, env_id: str, *, render_mode: str | None = None) -> None:
        os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
        if render_mode == "rgb_array":
            os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # pictures need no display
        try:
            self.env = gym.make(env_id, render_mode=render_mode)
        except gym.error.Error as error:
            raise ValueError(f"cannot make environment {env_id!r}: {error}") from error
        self.env_id = env_id
        self.physics = Physics()
        self.seed = 0
        self._observation: npt.NDArray[np.floating] = np.zeros(0)
        self._index = 0
        self._return = 0.0
        self.over = True

    @property
    def cartpole(self) -> CartPoleEnv | None:
        """The environment beneath all wrappers if it is CartPole, the one that can be pushed."""
        return self.env.unwrapped if isinstance(self.env.unwrapped, CartPoleEnv) else None

    @property
    def fps(self) -> int:
        """Environment steps in a second of real time."""
        return int(self.env.metadata.get("render_fps", 50))

    @property
    def observation(self) -> tuple[float, ...]:
        """The latest observation, `[obs]`."""
        return tuple(float(value) for value in self._observation)

    def set_physics(self, physics: Physics) -> None:
        """Change the world from the next step on."""
        cartpole = self.cartpole
        if cartpole is None:
            if physics != Physics():
                raise ValueError(f"physics can be changed in CartPole alone, not in {self.env_id}")
            return
        for field in fields(physics):
            setattr(cartpole, field.name, getattr(physics, field.name))
        cartpole.total_mass = cartpole.masspole + cartpole.masscart
        cartpole.polemass_length = cartpole.masspole * cartpole.length
        self.physics = physics

    def reset(self, seed: int) -> None:
        """Begin an episode."""
        self._observation, _ = self.env.reset(seed=seed)
        self.seed, self._index, self._return, self.over = seed, 0, 0.0, False

    def step(self, policy: OnnxPolicy, force: float = 0.0) -> Step:
        """Let the policy act once while an outside force, in newtons, acts on the cart."""
        observation = self.observation
        q_values = policy.q_values(self._observation[np.newaxis])[0]
        action = int(q_values.argmax())
        reward, terminated, truncated = self.apply(action, force)
        return Step(
            index=self._index - 1,
            observation=observation,
            q_values=tuple(float(value) for value in q_values),
            action=action,
            reward=reward,
            episodic_return=self._return,
            push=force,
            terminated=terminated,
            truncated=truncated,
            next_observation=self.observation,
        )

    def apply(self, action: int, force: float = 0.0) -> tuple[float, bool, bool]:
        """Take an action; returns the reward and whether the episode terminated or was truncated."""
        if self.over:
            raise RuntimeError("the episode is over: reset first")
        cartpole = self.cartpole
        if cartpole is not None:
            # CartPole applies +force_mag for action 1 and -force_mag for 0: the sum of both forces, by its own dynamics
            cartpole.force_mag = self.physics.force_mag + (force if action == 1 else -force)
        elif force:
            raise ValueError(f"only CartPole can be pushed, not {self.env_id}")
        self._observation, reward, terminated, truncated, _ = self.env.step(action)
        if cartpole is not None:
            cartpole.force_mag = self.physics.force_mag
        self._return += float(reward)
        self._index += 1
        self.over = bool(terminated or truncated)
        return float(reward), bool(terminated), bool(truncated)

    def render(self) -> npt.NDArray[np.uint8]:
        """Gymnasium's own picture of this moment, `[height, width, 3]`; needs render_mode "rgb_array"."""
        return np.asarray(cast("Any", self.env.render()), dtype=np.uint8)

    def close(self) -> None:
        """Release the window, if any."""
        self.env.close()


def play(
    policy: OnnxPolicy,
    *,
    seed: int,
    pushes: Sequence[Push] = (),
    physics: Physics = Physics(),
    stage: Stage | None = None,
) -> Iterator[Step]:
    """Steps of one episode, the same for the same arguments; pushes on one step add up."""
    owned = stage is None
    stage = stage or Stage(policy.metadata.env_id)
    forces: dict[int, float] = {}
    for push in pushes:
        forces[push.step] = forces.get(push.step, 0.0) + push.force
    try:
        stage.set_physics(physics)
        stage.reset(seed)
        for index in range(MAX_STEPS):
            yield stage.step(policy, forces.get(index, 0.0))
            if stage.over:
                return
    finally:
        if owned:
            stage.close()


def record(
    policy: OnnxPolicy, *, model: str, version: str, seed: int, pushes: Sequence[Push] = (), physics: Physics
) -> Replay:
    """Play an episode to its end and keep it."""
    steps = tuple(play(policy, seed=seed, pushes=pushes, physics=physics))
    metadata = policy.metadata
    request = [
        model,
        version,
        metadata.run_id,
        metadata.config_sha256,
        seed,
        asdict(physics),
        [asdict(p) for p in pushes],
    ]
    return Replay(
        id=hashlib.sha256(orjson.dumps(request)).hexdigest()[:16],
        model=model,
        version=version,
        env_id=metadata.env_id,
        action_meanings=metadata.action_meanings,
        run_id=metadata.run_id,
        seed=seed,
        physics=physics,
        pushes=tuple(pushes),
        steps=steps,
    )


def parse_seed(value: object) -> int:
    """A seed from JSON."""
    if type(value) is not int or not 0 <= value <= MAX_SEED:
        raise ValueError(f"seed must be a whole number from 0 to {MAX_SEED}, got {str(value)[:40]}")
    return value
