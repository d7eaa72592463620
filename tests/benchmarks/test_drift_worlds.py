"""What `benchmarks.drift_worlds` and `benchmarks.held` compute, in one world each."""

import asyncio
import dataclasses
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium.envs.classic_control.cartpole import CartPoleEnv

import benchmarks.drift_worlds as drift_worlds
from benchmarks.drifted import Drift, DriftedCartPole, Run, drift_in_place, published, registered
from benchmarks.held import CONTESTANTS, balanced
from dqn.environments.making import make, make_vec
from dqn.presets import PRESETS
from dqn.training.loop import train
from serving.models.follower import Models
from tests.support.serving.clients import models_of

HEAVY = Drift(masspole=8.0, length=0.75, friction=6.0)


def run_of(name: str, drift: Drift) -> Run:
    return Run(name=name, drift=drift, fine_tuned=200.0, dr_drl=100.0)


def polled(folder: Path) -> Models:
    """A policy that balances, loaded."""
    models = models_of(folder)
    asyncio.run(models.poll())
    return models


def accelerations(drift: Drift, state: Any, action: int) -> tuple[float, float]:
    """Of cart and pole, as their code computes them: masses of the undrifted environment where it has stale ones."""
    _, x_dot, theta, theta_dot = state
    force = (10.0 if action else -10.0) - drift.friction * np.sign(x_dot)
    pull = (force + 0.05 * theta_dot**2 * np.sin(theta)) / 1.1
    turning = (9.8 * np.sin(theta) - np.cos(theta) * pull) / (
        drift.length * (4 / 3 - drift.masspole * np.cos(theta) ** 2 / 1.1)
    )
    return pull - 0.05 * turning * np.cos(theta) / 1.1, turning


@pytest.mark.parametrize("drift", [HEAVY, Drift(masspole=0.1, length=1.2, friction=12.8)])
def test_the_dynamics_are_theirs_one_at_a_time_and_side_by_side(drift: Drift) -> None:
    env_id = registered(run_of(f"9_{drift.friction:.0f}", drift))
    one, many = make(env_id), make_vec(env_id, num_envs=2)
    bare: Any = one.unwrapped
    one.reset(seed=0)
    many.reset(seed=1)
    many.unwrapped.state[:] = np.array(bare.state)[:, None]  # type: ignore[attr-defined] # CartPole has one
    for action in (0, 1, 1, 0, 1):
        before, expected = bare.state, accelerations(drift, bare.state, action)
        observation = one.step(action)[0]
        assert (bare.state[1] - before[1], bare.state[3] - before[3]) == pytest.approx(0.02 * np.array(expected))
        assert many.step(np.array([action, action]))[0][1] == pytest.approx(observation)


def test_an_environment_drifts_in_mid_episode() -> None:
    env = make("CartPole-v1")
    bare = env.unwrapped
    assert isinstance(bare, CartPoleEnv)
    env.reset(seed=0)
    drift_in_place(bare, HEAVY)
    before, expected = np.array(bare.state), accelerations(HEAVY, bare.state, 1)
    env.step(1)
    assert isinstance(bare, DriftedCartPole)
    assert (np.array(bare.state) - before)[[1, 3]] == pytest.approx(0.02 * np.array(expected))


def test_runs_are_read_from_a_workbook(tmp_path: Path) -> None:
    heads = ["instance", "masscart", "masspole", "length", "cart_friction"]
    heads += ["vanilla_average_reward", "pruning_average_reward"]
    sheet = '<x xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main">'
    words = "".join(f"<si><t>{word}</t></si>" for word in (*heads, "3_4"))
    first = "".join(f'<c t="s"><v>{k}</v></c>' for k in range(len(heads)))
    second = '<c t="s"><v>7</v></c>' + "".join(f"<c><v>{value}</v></c>" for value in (4, 6.5, 0.8, 6.4, 190.5, 200))
    with zipfile.ZipFile(tmp_path / "book.xlsx", "w") as book:
        book.writestr("xl/sharedStrings.xml", f"{sheet}{words}</x>")
        book.writestr("xl/worksheets/sheet1.xml", f"{sheet}<row>{first}</row><row>{second}</row><row></row></x>")
    (run,) = published(tmp_path / "book.xlsx")
    assert (run.name, run.drift) == ("3_4", Drift(masspole=6.5, length=0.8, friction=6.4))
    assert (run.fine_tuned, run.dr_drl) == (190.5, 200.0)
    assert run.drift.kind == "negative inertia, friction below the motor's force"


def test_starts_are_lost_to_friction_alone() -> None:
    free = Drift(masspole=0.1, length=1.3, friction=0.0)
    assert drift_worlds.lost_starts(free) == 0.0
    assert 0.1 < drift_worlds.lost_starts(dataclasses.replace(free, friction=14.0)) < 0.2
    assert drift_worlds.lost_starts(dataclasses.replace(free, friction=14.0, length=0.6)) < 0.05


def test_a_run_goes_through_the_loop_and_then_training(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(drift_worlds, "MAX_UPDATES", 2)
    monkeypatch.setattr(drift_worlds, "NUM_AGENTS", 1)
    network = train(dataclasses.replace(PRESETS["cartpole"], num_agents=1, max_updates=2)).best
    models = polled(tmp_path)
    slight = drift_worlds.row(run_of("8_8", Drift(masspole=0.1, length=0.6, friction=1.0)), network, models)
    assert (slight["loop"], slight["trained"], slight["healed by"]) == (200.0, None, "the loop")
    heavy = drift_worlds.row(run_of("8_9", HEAVY), network, models)
    assert heavy["noticed"]
    assert heavy["loop"] < 195 > heavy["trained"]
    assert (heavy["healed by"], heavy["linear, searched"]) == ("", 200.0)
    healed = {each["contestant"]: each["healed"] for each in drift_worlds.summary([slight, heavy])}
    assert list(healed.values()) == [1, 1, 1, 2, 0, 2, 2]


def test_a_frugal_training_stays_within_its_episodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(drift_worlds.FRUGAL, "max_updates", 100)
    network = train(dataclasses.replace(PRESETS["cartpole"], num_agents=1, max_updates=2)).best
    row = drift_worlds.frugal(run_of("8_7", Drift(masspole=0.1, length=0.05, friction=17.0)), network)
    assert 0 < row["episodes"] <= 200 + drift_worlds.FRUGAL["num_envs"]
    assert (row["trained"] < 195, row["healed by"]) == (True, "")
    healed = row | {"healed by": "training", "episodes": 21.0}
    (line,) = drift_worlds.frugal_summary([row, healed])
    assert (line["healed"], line["runs"], line["episodes"]) == (1, 2, 21.0)


def test_what_is_undone_is_balanced_and_an_lqr_needs_nothing_undone(tmp_path: Path) -> None:
    served = polled(tmp_path).current
    assert served
    shares = balanced(served.policy, 0, np.array([0.5]), np.array([-10.0, 10.0]))
    assert shares.shape == (len(CONTESTANTS), 1, 2)
    assert shares[0, 0, 0] < 0.2
    assert (shares[1:] == 1.0).all()
