"""Identification by the environment's own step."""

from typing import Any

import numpy as np
import pytest

from dqn.environments.making import make
from dqn.environments.world import NOMINAL, World
from dqn.identification.by_step import _Steps, identify_by_step
from dqn.identification.record import UnexplainedError

CAR, ACROBOT = "MountainCar-v0", "Acrobot-v1"


def record(env_id: str, world: World, *, steps: int = 60, seed: int = 0) -> dict[str, Any]:
    env, rng = make(env_id, world), np.random.default_rng(seed)
    columns: dict[str, list[Any]] = {"observed": [], "actions": [], "arrived": []}
    observation, _ = env.reset(seed=seed)
    for _ in range(steps):
        action = int(rng.integers(3))
        following, _, terminated, truncated, _ = env.step(action)
        for name, value in zip(columns, (observation, action, following), strict=True):
            columns[name].append(value)
        observation = env.reset()[0] if terminated or truncated else following
    return {name: np.array(values, int if name == "actions" else float) for name, values in columns.items()}


@pytest.mark.parametrize(
    ("env_id", "known", "real"),
    [
        (CAR, NOMINAL, World(force_mag=0.0007)),
        (CAR, NOMINAL, World(force_mag=-0.001)),
        (CAR, NOMINAL, World(gravity=0.0032)),
        (CAR, NOMINAL, World(gravity=0.0021, force_mag=0.0015)),
        (CAR, World(force_mag=0.0007), NOMINAL),
        (CAR, World(force_mag=-0.001), NOMINAL),
        (CAR, World(force_mag=0.0), World(force_mag=-0.0005)),
        (CAR, World(gravity=0.0), NOMINAL),
        (ACROBOT, NOMINAL, World(length=1.5)),
        (ACROBOT, NOMINAL, World(masspole=1.6)),
        (ACROBOT, NOMINAL, World(inertia=2.0)),
        (ACROBOT, NOMINAL, World(tau=0.1)),
        (ACROBOT, NOMINAL, World(attributes={"LINK_MASS_1": 0.5})),
        (ACROBOT, NOMINAL, World(inertia=1.5, attributes={"LINK_COM_POS_1": 0.8})),
        (ACROBOT, World(inertia=2.0, attributes={"LINK_MASS_1": 2.0}), World(inertia=2.0)),
        (ACROBOT, World(masspole=2.0), World(masspole=2.0, attributes={"LINK_MASS_1": 1.0})),
    ],
)
def test_a_changed_environment_is_identified(env_id: str, known: World, real: World) -> None:
    found = identify_by_step(env_id, known, **record(env_id, real)).flat()
    expected = real.flat()
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name] == (pytest.approx(value, rel=5e-3) if isinstance(value, float) else value), name


def test_the_length_of_the_first_link_is_that_of_both() -> None:
    """Gymnasium computes nothing from the second one's."""
    real = World(attributes={"LINK_LENGTH_1": 1.5})
    assert identify_by_step(ACROBOT, NOMINAL, **record(ACROBOT, real)).to_dict() == {"length": pytest.approx(1.5, 1e-3)}


@pytest.mark.parametrize("seed", [0, 1, 6])
def test_a_slight_noise_is_not_explained_by_a_further_change(seed: int) -> None:
    real = World(force_mag=0.0007, sensor_noise=(5e-5, 5e-6))
    found = identify_by_step(CAR, NOMINAL, **record(CAR, real, seed=seed))
    assert found.to_dict() == {"force_mag": pytest.approx(0.0007, rel=0.02)}


def test_no_attribute_is_beyond_what_a_world_may_have() -> None:
    columns = record(ACROBOT, World(masspole=6.0))
    steps = _Steps(ACROBOT, NOMINAL, columns["observed"], columns["actions"].tolist(), columns["arrived"])
    assert steps.fit(["attributes.LINK_MASS_2"])[0].tolist() == [4.0]


def changed(**columns: Any) -> dict[str, Any]:
    return record(CAR, NOMINAL) | columns


@pytest.mark.parametrize(
    ("known", "columns", "sentence"),
    [
        (NOMINAL, record(CAR, NOMINAL), "the motion is the same, perhaps the goal has changed"),
        (NOMINAL, record(CAR, World(sensor_noise=(0.01, 0.01))), "no change of gravity or force_mag explains this"),
        (NOMINAL, changed(arrived=np.random.default_rng(0).normal(size=(60, 2))), "no change of gravity or force_mag"),
        (NOMINAL, record(CAR, NOMINAL, steps=29), "29 transitions were observed, at least 30 are needed"),
        (NOMINAL, changed(actions=np.full(60, 3)), "unknown actions"),
        (NOMINAL, changed(observed=np.full((60, 2), np.nan)), "not finite"),
        (World(action_delay=1), record(CAR, NOMINAL), "delays, bias or noise are not identified in MountainCar-v0"),
        (World(gravity=(0.002, 0.003)), record(CAR, NOMINAL), "a world with ranges"),
    ],
)
def test_what_explains_nothing_is_refused(known: World, columns: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UnexplainedError, match=sentence):
        identify_by_step(CAR, known, **columns)
