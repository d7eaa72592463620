"""Plays episodes: a policy in an environment that can be pushed and changed."""

import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Protocol, cast

import numpy as np
import numpy.typing as npt

from dqn.environments.making import make
from dqn.environments.masks import ACTION_MASK, Mask, action_masks
from dqn.environments.spec import Environment
from dqn.environments.world import NOMINAL, World
from dqn.environments.wrappers import WorldEnv
from serving.episodes.grid import grid, is_grid
from serving.episodes.limits import MAX_STEPS, Change, Push
from serving.errors import NoPicturesError
from serving.policy import OnnxPolicy


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One environment step: observation, Q-values, action and outcome."""

    index: int
    observation: tuple[float, ...]
    """The policy's input, `[obs]`; empty for a large image."""
    q_values: tuple[float, ...]
    """`[actions]`; -3.4e38 for an action that the environment's action mask forbids."""
    action: int
    reward: float
    episodic_return: float
    """Undiscounted sum of rewards up to and including this step."""
    push: float
    """Outside force during this step, in newtons."""
    terminated: bool
    truncated: bool
    next_observation: tuple[float, ...]


class Policy(Protocol):
    """Whatever gives Q-values; the greedy action is taken."""

    def q_values(self, observation: npt.NDArray[np.floating], mask: Mask | None = None) -> npt.NDArray[np.floating]:
        """Q-values `[batch, actions]` of observations `[batch, obs]`, the least ones of actions that `mask` forbids."""


_MODES: Final = {"rgb_array": {"rgb_array"}, "human": {"human", "rgb_array"}}
"""Render modes, one of which an environment must declare: Gymnasium also shows arrays in a window."""
_PLAYED: Final = "it is played without pictures"
_USUAL_FPS: Final = 50
_MOST_FPS: Final = 1000
_MOST_ENTRIES: Final = 1_024
"""A replay or a viewer that kept every pixel of every step would take gigabytes."""
_SURFARRAY_LOCK = threading.Lock()


def _load_surfarray() -> None:
    """Load the module that pygame loads lazily.

    importlib's lazy loader fails if two threads use a module for the first time at once (CPython issue 114763), as two
    streams that begin together do.
    """
    with _SURFARRAY_LOCK:
        from pygame import surfarray  # episodes without pictures need no pygame

        surfarray.__dict__  # noqa: B018 # a lazy module loads at the first access to an attribute


class Simulation:
    """One environment that can be pushed and changed while a policy plays. Not thread-safe.

    Raises:
        ValueError: for an unknown environment, or one that does not support the world.
        NoPicturesError: for one that does not support `render_mode`.
    """

    def __init__(
        self, environment: str | Environment, world: World = NOMINAL, *, render_mode: str | None = None
    ) -> None:
        os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
        if render_mode == "rgb_array":
            os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # pictures need no display
        self._draws = self._renders = render_mode is not None
        try:
            self.env = _drawn(environment, world, render_mode) if render_mode else make(environment, world)
        except NoPicturesError:
            self.env, self._renders = make(environment, world), False
            if render_mode != "rgb_array" or not is_grid(self.env.observation_space):
                self.env.close()
                raise
        self.environment = Environment.of(environment)
        self.seed = 0
        self._observation: npt.NDArray[np.floating] = np.zeros(0)
        self._mask: Mask | None = None
        self._index = 0
        self._return = 0.0
        self.over = True

    @property
    def can_be_pushed(self) -> bool:
        """Whether there is a cart to push."""
        return self.env.can_be_pushed

    @property
    def fps(self) -> int:
        """Environment steps in a second of real time."""
        fps = self.env.metadata.get("render_fps")
        return int(fps) if isinstance(fps, int | float) and 1 <= fps <= _MOST_FPS else _USUAL_FPS

    @property
    def observation(self) -> tuple[float, ...]:
        """The latest observation, `[obs]`, row by row; empty for one of more than 1,024 entries, which is not kept."""
        return tuple(map(float, self._observation.flat)) if self._observation.size <= _MOST_ENTRIES else ()

    @property
    def world(self) -> World:
        """The present world."""
        return self.env.world

    @property
    def state(self) -> tuple[float, ...]:
        """CartPole's true state, without sensor errors; for other environments the latest observation."""
        if not self.can_be_pushed:
            return self.observation
        return tuple(float(value) for value in cast("Any", self.env.unwrapped).state)

    def change(self, world: World) -> None:
        """Use another world from the next step on.

        Raises:
            ValueError: if the environment does not support the world; it is then unchanged.
        """
        self.env.change(world)

    def reset(self, seed: int) -> None:
        """Begin an episode.

        Raises:
            ValueError: if the environment's action mask is invalid, or the world delays actions in spite of it.
        """
        self._observation, info = self.env.reset(seed=seed)
        self._mask = self._allowed(info, step=0)
        self.seed, self._index, self._return, self.over = seed, 0, 0.0, False

    def step(self, policy: Policy, force: float = 0.0) -> Step:
        """Let the policy act once while an outside force, in newtons, acts on the cart."""
        observation = self.observation
        q_values = policy.q_values(self._observation[np.newaxis], self._mask)[0]
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
        if force and not self.can_be_pushed:
            raise ValueError(f"only CartPole can be pushed, not {self.environment.env_id}")
        self._observation, reward, terminated, truncated, info = self.env.step(action, force)
        self._return += float(reward)
        self._index += 1
        self.over = bool(terminated or truncated)
        if self._mask is not None:
            self._mask = self._allowed(info, step=self._index)
        return float(reward), bool(terminated), bool(truncated)

    def _allowed(self, info: dict[str, Any], *, step: int) -> Mask | None:
        """The mask `[1, actions]` of the next action; None without masks. After the last step it is not read."""
        rows = {ACTION_MASK: np.asarray(info[ACTION_MASK])[np.newaxis]} if ACTION_MASK in info else {}
        return action_masks(
            rows,
            self.environment.env_id,
            num_actions=int(cast("Any", self.env.action_space).n),
            terminated=np.array([step > 0 and self.over]),
            step=step,
            masked=bool(step) or None,
        )

    def render(self) -> npt.NDArray[np.uint8]:
        """Gymnasium's own picture of the present state, `[height, width, 3]`; needs render_mode "rgb_array".

        An environment that cannot draw is seen as its observations, if these are bits.

        Raises:
            NoPicturesError: if the environment cannot draw.
        """
        if not self._draws:
            raise NoPicturesError(why_no_pictures(self.environment))
        try:
            if self._renders:
                return self._rendered()
        except NoPicturesError:
            if not is_grid(self.env.observation_space):
                raise
            self._renders = False
        return grid(self._observation)

    def _rendered(self) -> npt.NDArray[np.uint8]:
        _load_surfarray()
        env_id = self.environment.env_id
        try:
            picture = np.asarray(cast("Any", self.env.render()))
        except Exception as error:  # from the environment's code
            said = f"{type(error).__name__}: {error}"
            raise NoPicturesError(f"environment {env_id!r} failed in its render ({said}); {_PLAYED}") from error
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
            raise NoPicturesError(
                f"the render of environment {env_id!r} returns no picture of bytes [height, width, 3] but "
                f"{picture.dtype} {list(picture.shape)}; {_PLAYED}"
            )
        return picture

    def close(self) -> None:
        """Release the window, if any."""
        self.env.close()


@lru_cache(maxsize=64)
def why_no_pictures(environment: str | Environment) -> str:
    """Why an environment cannot be drawn, as a sentence; empty if it can be."""
    try:
        Simulation(environment, render_mode="rgb_array").close()
    except NoPicturesError as error:
        return str(error)
    return ""


def _drawn(environment: str | Environment, world: World, mode: str) -> WorldEnv:
    undrawn, env_id = make(environment, world), Environment.of(environment).env_id
    undrawn.close()
    if not _MODES[mode] & set(undrawn.metadata.get("render_modes") or ()):
        raise NoPicturesError(f"environment {env_id!r} names no render mode {mode!r} in its metadata; {_PLAYED}")
    try:
        return make(environment, world, render_mode=mode)
    except ValueError as error:
        said = f"{type(error.__cause__ or error).__name__}: {error.__cause__ or error}"
        raise NoPicturesError(
            f"the constructor of environment {env_id!r} does not take render_mode={mode!r} ({said}); {_PLAYED}"
        ) from error


def frames_per_second(environment: str | Environment) -> int:
    """Environment steps in a second of real time, from the environment's metadata."""
    simulation = Simulation(environment)
    simulation.close()
    return simulation.fps


def by_step(pushes: Sequence[Push], changes: Sequence[Change]) -> tuple[dict[int, World], dict[int, float]]:
    """The world from each changed step on (the last of several changes), and the total push during each step."""
    forces: dict[int, float] = {}
    for push in pushes:
        forces[push.step] = forces.get(push.step, 0.0) + push.force
    return {change.step: World.from_dict(change.world) for change in changes}, forces


def play(
    policy: OnnxPolicy,
    *,
    seed: int,
    pushes: Sequence[Push] = (),
    world: World | None = None,
    changes: Sequence[Change] = (),
) -> Iterator[Step]:
    """Steps of one episode, the same for the same arguments.

    The default world is the one that the policy was trained for. Pushes on one step add up; of several changes on one
    step the last one is used.
    """
    changed, forces = by_step(pushes, changes)
    simulation = Simulation(policy.metadata.environment, policy.metadata.world if world is None else world)
    try:
        simulation.reset(seed)
        for index in range(MAX_STEPS):
            if index in changed:
                simulation.change(changed[index])
            yield simulation.step(policy, forces.get(index, 0.0))
            if simulation.over:
                return
    finally:
        simulation.close()
