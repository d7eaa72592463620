import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dqn.stress.robustness import CELLS, StressTest
from dqn.training.result import AgentResult
from flows.registry import versions
from flows.registry.gate import Comparison
from flows.reporting.report import Report, where_results_are
from flows.training.population import PopulationSummary


def report(returns: list[list[float]], *, gate: str = "passed", **fields: Any) -> Report:
    agents = tuple(
        AgentResult(agent=k, solved=k == 0, selection_return=0.0, updates=10, environment_steps=100, episodes=5)
        for k in range(len(returns))
    )
    return Report(
        run_id="run",
        experiment="5",
        version=3,
        gate=gate,
        population=PopulationSummary(agents=agents, best_agent=0, seconds=2.0, cpu_seconds=1.0),
        returns=np.array(returns),
        **fields,
    )


def test_agents_are_counted_where_they_were_asked_to_be_accepted() -> None:
    finished = report([[500.0, 500.0], [500.0, 499.0]], env_id="CartPole-v1", acceptance_return=500.0)
    assert finished.totals.startswith("1 of 2 agents solved; 1 of 2 return 500 in every one of 2 unseen episodes.")
    assert [row[1] for row in finished.rows] == ["yes", "no"]
    assert "  make serve  " in finished.text()


def test_without_acceptance_the_population_is_summed_up_and_no_agent_is_unsolved() -> None:
    finished = report([[-90.0, -110.0], [-99.0, -103.0]], env_id="MountainCar-v0", acceptance_return=None)
    assert finished.totals.startswith(
        "Interquartile mean return -100.5 (-101.0 to -100.0, 95% bootstrap interval) of 2"
    )
    assert [row[1] for row in finished.rows] == ["-", "-"]
    assert 'make serve ARGS="--model models:/dqn-MountainCar-v0@champion"' in finished.text()


def test_one_agent_has_a_mean_and_no_interval() -> None:
    finished = report([[-90.0, -110.0]], env_id="Acrobot-v1", acceptance_return=None)
    assert finished.totals.startswith("Mean return -100.0 of 1 agent, 2 unseen episodes each. Training took")


@pytest.mark.parametrize("agents", [1, 100, 200, 1_000])
def test_a_description_ends_with_a_whole_row_and_counts_the_agents_left_out(agents: int) -> None:
    finished = report([[9.0]] * agents, env_id="CartPole-v1", acceptance_return=500.0)
    *above, table = finished.markdown().split("\n\n")
    lines = table.splitlines()
    for room in (len(finished.markdown()), 2_000, 6_000):
        text = finished.markdown(room)
        assert len(text) <= room
        if text == finished.markdown():
            continue
        *described, shown, sentence = text.split("\n\n")
        assert described == above
        assert shown.splitlines() == lines[: len(shown.splitlines())]
        assert sentence == f"The other {len(lines) - len(shown.splitlines())} agents are in report.md."
        assert len(text) + len(lines[-1]) + 10 > room - 60  # as many as there is room for
    assert len(finished.markdown(6_000)) <= 6_000


def test_a_refused_version_is_played_by_its_number() -> None:
    finished = report([[9.0]], gate="refused: mean return 9", env_id="CartPole-v1", acceptance_return=500.0)
    assert 'make serve ARGS="--model models:/dqn-CartPole-v1/3"  # play this version' in finished.text()


@pytest.mark.parametrize(
    ("env_id", "command"),
    [
        ("CartPole-v1", "make serve"),
        ("Acrobot-v1", 'make serve ARGS="--model models:/dqn-Acrobot-v1@champion"'),
        ("a/b:c", 'make serve ARGS="--model models:/dqn-a~1b~2c@champion --allow-env a/b:c"'),
    ],
)
def test_what_serves_a_model(env_id: str, command: str) -> None:
    assert versions.serve_command(env_id) == command


def test_what_was_withstood_stands_beside_what_four_numbers_withstand() -> None:
    held = np.ones((len(CELLS), 4), dtype=np.bool_)
    half = held.copy()
    half[1, 2:] = False
    stress, baselines = StressTest(balanced=held, push=64), {"LQR": StressTest(balanced=half, push=60)}
    tested = report([[500.0]], env_id="CartPole-v1", acceptance_return=500.0, stress=stress, baselines=baselines)
    assert (
        "\nunder stress: robustness 1.000, every episode balanced, single push 64 N\n"
        "  LQR: robustness 0.944, worst at pushes 40 N (50%), single push 60 N\n"
    ) in tested.text()
    cells = tested.markdown().split("\n\n")[2].splitlines()
    assert cells[0].startswith("| no fall under stress | 10,000 steps | pushes 40 N |")
    assert cells[0].endswith("| single push |")
    assert cells[1] == f"|{' ---: |' * (len(CELLS) + 2)}"
    assert cells[2] == f"| version 3 |{' 100% |' * len(CELLS)} 64 N |"
    assert cells[3] == f"| LQR | 100% | 50% |{' 100% |' * (len(CELLS) - 2)} 60 N |"
    untested = report([[9.0]], env_id="CartPole-v1", acceptance_return=500.0)
    assert "under stress" not in untested.text()
    assert "under stress" not in untested.markdown()


def test_a_server_has_pages_of_run_and_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000/")
    finished = report([[9.0]], env_id="CartPole-v1", acceptance_return=500.0)
    pages = [page for page, _ in where_results_are(finished)]
    run, version = "#/experiments/5/runs/run", "#/models/dqn-CartPole-v1/versions/3"
    assert pages == [f"http://mlflow:5000/{page}?workflowType=machine_learning" for page in (run, version)]
    monkeypatch.setenv("MLFLOW_UI_URL", "http://127.0.0.1:5001")
    assert where_results_are(finished)[0][0].startswith(f"http://127.0.0.1:5001/{run}?")


def test_an_embedded_store_has_an_address_for_any_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    finished = report([[9.0]], env_id="CartPole-v1", acceptance_return=500.0)
    for uri in ("sqlite:///mlflow.db", f"sqlite:///{tmp_path}/mlflow.db"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        export, ui = where_results_are(finished)
        assert export[0] == f"export MLFLOW_TRACKING_URI=sqlite:///{tmp_path}/mlflow.db"
        assert ui[1] == "http://127.0.0.1:5000/#/models/dqn-CartPole-v1/versions/3?workflowType=machine_learning"
        assert f"\n  {export[0]}  " in finished.text()


@pytest.mark.parametrize("acceptance", [500.0, None])
def test_an_agent_that_diverged_is_named_and_counts_in_no_mean(acceptance: float | None) -> None:
    finished = report([[9.0, 9.0], [500.0, 500.0], [7.0, 9.0]], env_id="CartPole-v1", acceptance_return=acceptance)
    gone = dataclasses.replace(finished.population.agents[1], diverged=1234, divergence="loss is not finite")
    agents = (finished.population.agents[0], gone, finished.population.agents[2])
    finished = dataclasses.replace(finished, population=dataclasses.replace(finished.population, agents=agents))
    named = "Diverged and left, and counted in no mean: agent 01 after update 1,234 (loss is not finite)."
    assert finished.totals.endswith(named)
    assert finished.rows[1] == ("01", "diverged", "-", "-", "10", "100")
    assert named in finished.markdown()
    assert (
        "; 0 of 3 return 500"
        if acceptance
        else "Interquartile mean return 8.5 (8.0 to 9.0, 95% bootstrap interval) of 2"
    ) in finished.totals


def test_what_the_gate_compared_is_told_in_numbers() -> None:
    champion, challenger = np.full(600, 500.0), np.where(np.arange(600) < 3, 10.0, 500.0)
    told = Comparison(challenger=challenger, champion=champion, threshold=475.0).to_dict()
    finished = report([[500.0]], comparison=told, env_id="CartPole-v1", acceptance_return=500.0)
    for told_to in (finished.text(), finished.markdown()):
        assert "on 600 episodes, each bound with 99% confidence: mean return 497.55, the champion 500" in told_to
        assert "margin 10); 3 episodes below 475, the champion 0, difference 0.5% (" in told_to
    assert "Compared" not in report([[500.0]], env_id="CartPole-v1", acceptance_return=500.0).markdown()
