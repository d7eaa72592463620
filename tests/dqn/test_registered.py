"""Environments as they were registered: the same in training and where they are played, made seldom and closed."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.envs.classic_control.cartpole import CartPoleEnv, CartPoleVectorEnv
from hypothesis import given, settings
from hypothesis import strategies as st

from dqn.config import DQNConfig
from dqn.environments.making import make, make_vec
from dqn.environments.spaces import Spaces
from dqn.environments.spec import EnvironmentUnsupportedError
from dqn.environments.world import NOMINAL, World
from dqn.evaluation.greedy import greedy_returns
from dqn.evaluation.returns import episodic_returns
from dqn.experience.vector import VectorEnvironment, describe
from dqn.training.checkpoint import load_checkpoint, save_checkpoint
from dqn.training.loop import train
from dqn.training.state import TrainingState
from serving.episodes.simulation import Simulation
from tests.support.dqn.probes import Probe, Step

Make = Callable[..., DQNConfig]
SINGLE = "gymnasium.envs.classic_control.cartpole:CartPoleEnv"
VECTOR = "gymnasium.envs.classic_control.cartpole:CartPoleVectorEnv"


class Generous(CartPoleEnv):
    """Pays more, and has no vector implementation that knows."""

    def step(self, action: Any) -> Any:
        step: Any = super().step  # untyped in Gymnasium
        observation, reward, *rest = step(action)
        return observation, 2.0 * float(reward), *rest


class Discounted(gym.RewardWrapper[Any, Any]):
    def reward(self, reward: Any) -> float:
        return float(reward) / 2


WRAPPER = gym.envs.registration.WrapperSpec("Discounted", "tests.dqn.test_registered:Discounted", {})


@pytest.fixture
def registered() -> Iterator[Callable[..., str]]:
    ids: list[str] = []

    def register(entry_point: Any, **options: Any) -> str:
        ids.append(f"Registered{len(ids)}-v0")
        gym.register(ids[-1], entry_point, **({"max_episode_steps": 30, "disable_env_checker": True} | options))
        return ids[-1]

    yield register
    for env_id in ids:
        gym.registry.pop(env_id, None)


def falling(observation: Any) -> np.ndarray:
    return np.zeros(len(observation), dtype=np.int64)


def pay(env_id: str, world: World) -> tuple[list[float], list[float]]:
    """What an episode pays step by step, in a single environment and side by side with others."""
    single, several = make(env_id, world), make_vec(env_id, world, num_envs=3)
    single.reset(seed=0)
    several.reset(seed=0)
    alone: list[float] = []
    beside: list[float] = []
    for rewards, take in ((alone, lambda: single.step(0)), (beside, lambda: several.step(np.zeros(3, dtype=np.int64)))):
        for _ in range(30):
            _, reward, terminated, truncated, _ = take()
            rewards.append(float(np.ravel(reward)[0]))
            if np.ravel(terminated)[0] or np.ravel(truncated)[0]:
                break
    single.close()
    several.close()
    return alone, beside


REGISTERED: dict[str, Any] = {
    "sutton_barto_reward": st.booleans(),
    "render_mode": st.just("rgb_array"),
    "max_episode_steps": st.just(7),
    "num_envs": st.just(5),
    "vectorization_mode": st.just("sync"),
    "wrappers": st.just([Discounted]),
    "disable_env_checker": st.just(True),
    "no_such_keyword": st.integers(),
}


@settings(max_examples=60, deadline=None)
@given(
    kwargs=st.fixed_dictionaries({}, optional=REGISTERED),
    entry_point=st.sampled_from([SINGLE, CartPoleEnv, Generous]),
    vector=st.sampled_from([None, VECTOR, CartPoleVectorEnv]),
    wrapped=st.booleans(),
    world=st.sampled_from([NOMINAL, World(wind=1.0)]),
)
def test_whatever_was_registered_pays_alone_what_it_pays_side_by_side_or_is_refused(
    kwargs: dict[str, Any], entry_point: Any, vector: Any, wrapped: bool, world: World
) -> None:
    possible: list[bool] = []
    gym.register(
        "Anyhow-v0",
        entry_point,
        vector_entry_point=vector,
        max_episode_steps=30,
        kwargs=kwargs,
        additional_wrappers=(WRAPPER,) * wrapped,
        disable_env_checker=True,
    )
    try:
        alone, beside = pay("Anyhow-v0", world)
        # Which initial state is drawn may differ, and so how long it lasts: what is paid by a step and at the end not.
        assert {*alone[:-1]} == {*beside[:-1]}
        assert alone[-1] == beside[-1]
    except EnvironmentUnsupportedError:
        possible.append(not kwargs)
        for attempt in (lambda: make("Anyhow-v0", world), lambda: make_vec("Anyhow-v0", world, num_envs=1)):
            with pytest.raises(
                EnvironmentUnsupportedError, match=r"'Anyhow-v0' (cannot be made: |failed in its constructor \()"
            ):
                attempt()
    finally:
        gym.registry.pop("Anyhow-v0")
    assert not any(possible), "what was registered without keywords is refused"


def test_training_learns_from_what_serving_pays(registered: Callable[..., str], small_config: Make) -> None:
    env_id = registered(SINGLE, vector_entry_point=VECTOR, kwargs={"sutton_barto_reward": True})
    assert isinstance(make_vec(env_id, num_envs=2), CartPoleVectorEnv)
    assert episodic_returns(falling, env_id, num_episodes=5, seed=0).tolist() == [-1.0] * 5
    config = small_config(env_id=env_id, max_updates=5)
    result = train(config)
    assert set(result.test_returns(3).flatten().tolist()) <= {-1.0, 0.0}
    returns = result.metrics.series("train/episodic_return", 0)[1]
    assert len(returns)
    assert -1 <= returns.min() <= returns.max() <= 0


class Counted(Probe):
    """Remembers which were made and not closed."""

    made: ClassVar[list[int]] = []
    open: ClassVar[set[int]] = set()

    def __init__(self) -> None:
        Counted.made.append(id(self))
        Counted.open.add(id(self))

    def step(self, action: np.int64) -> Step:
        return self._observe(0.0), float(action), False, False, {}

    def close(self) -> None:
        Counted.open.discard(id(self))


@pytest.fixture
def counted(registered: Callable[..., str]) -> str:
    Counted.made, Counted.open = [], set()
    return registered("tests.dqn.test_registered:Counted", max_episode_steps=5)


def test_a_state_makes_no_environment_but_those_it_trains_in(counted: str, small_config: Make) -> None:
    state = TrainingState.begin(small_config(env_id=counted, num_agents=1, num_envs=1))
    assert len(Counted.made) == 1
    state.environment.close()
    assert not Counted.open


def test_environments_are_closed_at_the_end(counted: str, small_config: Make, tmp_path: Path) -> None:
    config = small_config(env_id=counted, max_updates=10, acceptance_return=5.0)
    assert describe(counted) == Spaces(observation_shape=(1,), num_actions=2)
    assert not Counted.open
    train(config)
    assert not Counted.open, "a training leaves none"
    path = tmp_path / "run.ckpt"
    train(config, on_checkpoint=lambda state: save_checkpoint(path, state))
    assert not Counted.open, "nor where snapshots were tried out"
    train(config, state=load_checkpoint(path, config)[0])
    assert not Counted.open, "nor one that goes on"


@pytest.mark.parametrize(
    "options",
    [
        {"loss": lambda *_: torch.zeros(())},
        {"on_metrics": lambda _: (_ for _ in ()).throw(OSError("full"))},
        {"on_checkpoint": lambda _: (_ for _ in ()).throw(KeyboardInterrupt)},
    ],
)
def test_environments_are_closed_after_an_error(options: dict[str, Any], counted: str, small_config: Make) -> None:
    with pytest.raises((ValueError, OSError, KeyboardInterrupt)):
        train(small_config(env_id=counted), **options)
    assert Counted.made
    assert not Counted.open


@pytest.mark.parametrize(
    "fields", [{"observation_scale": (1.0, 1.0)}, {"world": World(wind=1.0)}, {"replay_capacity": 10**11}]
)
def test_a_refused_training_leaves_none_open(fields: dict[str, Any], counted: str, small_config: Make) -> None:
    with pytest.raises((ValueError, MemoryError)):
        TrainingState.begin(small_config(env_id=counted, **fields))
    assert not Counted.open


def test_environments_of_a_policy_that_fails_are_closed(counted: str) -> None:
    def act(observation: Any) -> Any:
        raise RuntimeError("no action")

    with pytest.raises(RuntimeError, match="no action"):
        episodic_returns(act, counted, num_episodes=3, seed=0)
    assert len(Counted.made) == 3
    assert not Counted.open


class Shifted(Probe):
    """Actions -1, 0 and 1, which are observed next and pay what they say."""

    action_space = spaces.Discrete(3, start=-1)

    def step(self, action: np.int64) -> Step:
        assert self.action_space.contains(action), action
        return self._observe(float(action)), float(action), False, False, {}


def played(env_id: str, world: World, action: int) -> list[float]:
    """Returns of one action in every place that plays."""
    several = VectorEnvironment(env_id, world, num_agents=1, num_envs=2, seed=0)
    trained = 0.0
    for _ in range(5):
        trained += float(several.step(torch.full((1, 2), action)).reward[0, 0])
    evaluated = episodic_returns(lambda rows: np.full(len(rows), action), env_id, world, num_episodes=1, seed=0)
    served = Simulation(env_id, world)
    served.reset(0)
    reward = 0.0
    while not served.over:
        reward += served.apply(action)[0]
    served.close()
    several.close()
    return [trained, float(evaluated[0]), reward]


@pytest.mark.parametrize("world", [NOMINAL, World(action_delay=0, sensor_noise=(0.0,)), World(sensor_bias=(0.5,))])
@pytest.mark.parametrize("action", [0, 1, 2])
def test_actions_that_start_elsewhere_play_the_same_everywhere(
    action: int, world: World, registered: Callable[..., str]
) -> None:
    env_id = registered("tests.dqn.test_registered:Shifted", max_episode_steps=5)
    assert played(env_id, world, action) == [5.0 * (action - 1)] * 3


def test_actions_that_start_elsewhere_are_learned(registered: Callable[..., str], small_config: Make) -> None:
    env_id = registered("tests.dqn.test_registered:Shifted", max_episode_steps=5)
    result = train(small_config(env_id=env_id, gamma=0.5, n_step=1, learning_rate=1e-2, max_updates=200))
    assert greedy_returns(result.best, env_id, episodes=2, seed=0).amax() == 5.0


class OneAction(Probe):
    action_space = spaces.Discrete(1)


class NoObservation(Probe):
    observation_space = spaces.Box(0.0, 1.0, (0,), np.float32)


@pytest.mark.parametrize("kind", ["OneAction", "NoObservation"])
def test_nothing_to_choose_or_to_see_is_refused(kind: str, registered: Callable[..., str], small_config: Make) -> None:
    env_id = registered(f"tests.dqn.test_registered:{kind}")
    for attempt in (lambda: describe(env_id), lambda: TrainingState.begin(small_config(env_id=env_id))):
        with pytest.raises(
            EnvironmentUnsupportedError,
            match=r"supported (are a Box of at least one number|is a Discrete action space of at least two)",
        ):
            attempt()
