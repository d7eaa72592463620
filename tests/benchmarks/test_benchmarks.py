"""What the measurements compute; the measurements themselves are run by `make bench`."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import benchmarks.robustness
from benchmarks.__main__ import summary
from benchmarks.ablation import ARTICLE, VARIANTS, configuration
from benchmarks.contestants import FIXED_BUDGET, Outcome
from benchmarks.generalization import TASKS, outside, row, searched, success_rates, summaries
from benchmarks.limits import update_flops
from benchmarks.mutants import mutants_of
from benchmarks.planner import plan, planned_return
from benchmarks.robustness import act_of, shares
from dqn.environments.making import make
from dqn.environments.world import NOMINAL, World
from dqn.networks.bodies.mlp import MLP
from dqn.networks.population import QNetworks
from dqn.presets import PRESETS, PresetName
from dqn.stress.robustness import CELLS
from dqn.training.metrics import MetricHistory
from dqn.training.result import AgentResult, TrainingResult

FOLDER = Path(benchmarks.robustness.__file__).parent
RUN = [f"benchmarks.{path.stem}" for path in FOLDER.glob("*.py") if '__name__ == "__main__"' in path.read_text()]


@pytest.mark.parametrize("module", RUN)
def test_a_key_that_interrupts_is_one_line_and_130(module: str, tmp_path: Path) -> None:
    early = "shutil" if module == "benchmarks.pictures" else "argparse"
    (tmp_path / f"{early}.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGINT)")
    command, environment = [sys.executable, "-m", module], os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, cwd=FOLDER.parent, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted: nothing was written\n")


def test_a_mistake_keeps_its_traceback(tmp_path: Path) -> None:
    (tmp_path / "argparse.py").write_text("1 / 0")
    command, environment = [sys.executable, "-m", "benchmarks"], os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, cwd=FOLDER.parent, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.endswith("ZeroDivisionError: division by zero\n")


@pytest.mark.parametrize("name", [*VARIANTS, ARTICLE])
def test_every_variant_can_be_trained(name: str) -> None:
    assert configuration(name).num_agents == 16


def test_every_variant_changes_what_it_names_and_nothing_else() -> None:
    for changes in VARIANTS.values():
        variant = dataclasses.replace(FIXED_BUDGET, **changes)
        differing = {k for k, v in variant.to_dict().items() if v != FIXED_BUDGET.to_dict()[k]}
        assert differing == changes.keys()


def test_the_operations_of_an_update_are_counted() -> None:
    config = dataclasses.replace(
        PRESETS["cartpole"], num_agents=1, batch_size=1, hidden_sizes=(3,), replay_capacity=200
    )
    forward = 4 * 3 + 3 * 2
    assert update_flops(config) == 2 * (3 * forward + 3 * 2)


def test_the_summary_counts_agents_and_their_cost() -> None:
    perfect, imperfect = np.full((2, 100), 500.0), np.full((2, 100), 500.0)
    imperfect[1, 7] = 499.0
    steps = np.array([10, 20])
    outcomes = [
        Outcome(contestant="one", seed=0, cpu_seconds=2.0, returns=perfect, steps=steps),
        Outcome(contestant="other", seed=0, cpu_seconds=9.0, returns=np.zeros((1, 100)), steps=steps[:1]),
        Outcome(contestant="one", seed=1, cpu_seconds=6.0, returns=imperfect, steps=steps),
    ]
    one, other = summary(outcomes)
    assert (one["agents"], one["solved"], one["CPU-s an agent"]) == (4, 3, 2.0)
    assert one["CPU-s a solved agent"] == pytest.approx(8 / 3)
    assert (one["from"], one["to"]) == (1.0, 3.0)
    assert (other["agents"], other["solved"]) == (1, 0)
    assert np.isnan(other["CPU-s a solved agent"])


def test_a_planned_episode_ends_in_gymnasium_as_planned() -> None:
    assert -75 < planned_return(3, 300) <= planned_return(3, 3_000) <= -55
    with pytest.raises(ValueError, match="no plan of 20 actions"):
        plan(np.zeros(4), 3, most_steps=20)


def test_mutants_break_every_line_that_decides_one_at_a_time() -> None:
    source = "def f(a: int | None) -> int | None:\n    'Says what.'\n    if a < 1:\n        g(a)\n    return a * 2\n"
    changes = [(mutant.line, mutant.change.partition("  ->  ")[2]) for mutant in mutants_of(source)]
    assert sorted(changes) == [
        (3, "2"),
        (3, "a <= 1"),
        (3, "if not a < 1: g(a)"),
        (4, "nothing"),
        (5, "3"),
        (5, "a / 2"),
        (5, "return None"),
    ]
    assert all(mutant.source.count("\n") == source.count("\n") - 1 for mutant in mutants_of(source))


def test_outside_of_the_ranges_is_every_box_with_its_share_of_the_volume() -> None:
    boxes = outside({"length": (2.0, 5.0), "gravity": (4.0, 6.0)}, {"length": (1.0, 8.0), "gravity": (3.0, 8.0)})
    assert [world for _, world in boxes] == [
        World(length=(1.0, 2.0), gravity=(3.0, 4.0)),
        World(length=(1.0, 2.0), gravity=(6.0, 8.0)),
        World(length=(5.0, 8.0), gravity=(3.0, 4.0)),
        World(length=(5.0, 8.0), gravity=(6.0, 8.0)),
    ]
    assert [share for share, _ in boxes] == pytest.approx([1 / 12, 2 / 12, 3 / 12, 6 / 12])


@pytest.mark.parametrize("preset", list(TASKS))
def test_an_environment_can_be_everything_its_row_asks(preset: PresetName) -> None:
    task = TASKS[preset]  # type: ignore[index] # the presets that have a row
    for _, world in [(1.0, World.from_dict(task.inner)), *outside(task.inner, task.outer)]:
        make(PRESETS[preset].env_id, world).reset(seed=0)
    assert all(low < task.inner[name][0] < task.inner[name][1] < high for name, (low, high) in task.outer.items())


def test_episodes_are_divided_among_worlds_by_their_shares() -> None:
    asked = []

    def play(world: World, episodes: int) -> np.ndarray:
        asked.append((world, episodes))
        return np.tile([[195.0], [194.0]], (1, episodes)) + (world == NOMINAL)

    boxes = [(0.3335, NOMINAL), (0.6665, World(length=1.0)), (0.0, World(length=9.0))]
    assert success_rates(play, boxes, 195.0).tolist() == [1.0, 0.334]
    assert asked == [(NOMINAL, 334), (World(length=1.0), 666)]


def test_the_summary_is_of_means_and_its_bounds_of_resampled_agents() -> None:
    ones, halves = np.ones(4), np.array([0.0, 1.0, 0.0, 1.0])
    rates = {"DD": ones, "DR": halves, "DE": ones / 2, "RD": ones / 9, "RR": halves, "RE": ones / 4}
    summary = summaries(rates, seed=0)
    assert summary["Default"] == summary["Default low"] == summary["Default high"] == 100.0
    assert (summary["Interpolation low"], summary["Interpolation"], summary["Interpolation high"]) == (0.0, 50.0, 100.0)
    assert summary["Extrapolation"] == pytest.approx(100 * (0.5 * 0.5 * 0.25) ** (1 / 3))
    assert summary["Extrapolation low"] == 0.0
    assert summary["Extrapolation high"] == pytest.approx(50.0)


def test_a_row_says_who_was_trained_where_and_played_where() -> None:
    task = TASKS["cartpole"]

    def trained_in_d(world: World, episodes: int) -> np.ndarray:
        return np.full((3, episodes), 200.0 if world == NOMINAL else 0.0)

    def trained_in_r(world: World, episodes: int) -> np.ndarray:
        return np.full((3, episodes), 200.0 if world == World.from_dict(task.inner) else 0.0)

    line = row("somebody", task, trained_in_d, trained_in_r)
    assert (line["who"], line["seeds"]) == ("somebody", 3)
    assert [line[condition] for condition in ("DD", "DR", "DE", "RD", "RR", "RE")] == [100, 0, 0, 0, 100, 0]
    assert (line["Default"], line["Interpolation"], line["Extrapolation"]) == (100, 100, 0)


def test_searched_policies_play_an_episode_each() -> None:
    reversed_motor = World(force_mag=-10.0)
    returns = searched(TASKS["cartpole"], NOMINAL, 2)(reversed_motor, 5)
    assert returns.shape == (2, 5)
    assert (returns < 60).all()
    assert (searched(TASKS["cartpole"], reversed_motor, 1)(reversed_motor, 5) == 200).all()


def test_the_exported_agent_is_one_of_those_whose_cells_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    networks = QNetworks.initialised(seeds=range(2), body=MLP(observation_shape=(4,), hidden_sizes=()), num_actions=2)
    with torch.no_grad():
        networks.weights[0].zero_()
        networks.biases[0].zero_()
        networks.biases[0][1, 1, 0] = 1.0  # the second agent always pushes to the right
    agents = tuple(
        AgentResult(
            agent=k, solved=True, selection_return=0.0, updates=1, environment_steps=1, episodes=1, robustness=k
        )
        for k in range(2)
    )
    result = TrainingResult(
        config=PRESETS["cartpole"],
        best=networks,
        final=networks,
        agents=agents,
        metrics=MetricHistory(),
        seconds=1.0,
        cpu_seconds=1.0,
    )
    assert act_of(result)(np.zeros((3, 4), dtype=np.float32)).tolist() == [1, 1, 1]

    def returns(networks: QNetworks, *_: object, episodes: int, seed: int, max_episode_steps: int) -> torch.Tensor:
        played = torch.full((2, episodes), float(max_episode_steps))
        played[1, :25] -= 1.0
        return played

    monkeypatch.setattr(benchmarks.robustness, "greedy_returns", returns)
    held = shares(result, episodes=100, seed=0)
    assert held.shape == (len(CELLS), 2)
    assert (held[:, 0] == 1.0).all()
    assert (held[:, 1] == 0.75).all()
