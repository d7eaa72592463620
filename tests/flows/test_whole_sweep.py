"""Sweeps with the MLflow and the trainings that they have outside of tests, small ones."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from optuna.trial import TrialState

from dqn.presets import PRESETS
from flows import sweep as flow
from flows.request.saved_presets import read_preset
from flows.search import confirm as confirming
from flows.search.record import BEST, record
from flows.search.shard import run_shard
from flows.search.study import read_study
from flows.search.trials import configuration, ranking
from tests.support.flows.sweeps import SMALL, SPACE, keep_in_memory, sweep, told


@pytest.fixture(autouse=True)
def storage(monkeypatch: pytest.MonkeyPatch) -> None:
    keep_in_memory(monkeypatch)


@pytest.fixture
def confirmed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Winners are trained anew in a moment."""
    small = dataclasses.replace(SMALL, max_updates=20, eval_start=10, eval_interval=10, acceptance_episodes=2)
    monkeypatch.setitem(PRESETS, "cartpole", small)
    monkeypatch.setattr(confirming, "SEEDS", 2)
    monkeypatch.setattr(confirming, "TEST_EPISODES", 3)


@pytest.mark.slow
def test_a_study_is_one_run_with_every_trial_and_the_best_few(
    store: MlflowClient, confirmed: None, tmp_path: Path
) -> None:
    settings = sweep(trials=12, shard_trials=12)
    returns = [[float(k)] + [float(2 * k)] * (k > 5) + [float(3 * k)] * (k > 8) for k in range(12)]
    study = told("recorded", returns=returns, settings=settings)
    winner = ranking(study.get_trials(), settings.rungs)[0]
    config = confirming.fresh(configuration(winner, settings), seed=0)
    assert (config.num_agents, config.gamma) == (2, winner.params["gamma"])
    confirmation = confirming.confirm(winner.number, config)
    assert confirmation.returns.shape == (2, 3)
    assert confirmation.sentence.startswith("Trained anew on 2 fresh seeds, trial 11 returns ")
    run_id = record(store, study, settings, confirmation)
    assert record(store, study, settings, confirmation) == run_id
    run = store.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert float(run.data.params["winner.gamma"]) == winner.params["gamma"]
    assert run.data.metrics["winner/mean_return"] == confirmation.mean_return
    children = store.search_runs([run.info.experiment_id], f"tags.`mlflow.parentRunId` = '{run_id}'")
    assert [child.data.tags["trial"] for child in children] == ["11", "10", "9", "8", "7"][:BEST]
    history = store.get_metric_history(children[0].info.run_id, "eval/mean_return")
    assert [(metric.step, metric.value) for metric in history] == [(4, 11.0), (8, 22.0), (16, 33.0)]
    store.download_artifacts(run_id, "trials.json", str(tmp_path))
    table = json.loads((tmp_path / "trials.json").read_text())
    assert len(table["data"]) == 12
    overrides, preset = flow.promotion(confirmation, settings)
    promoted = overrides.applied_to(preset)
    assert promoted == dataclasses.replace(confirmation.config, seed=promoted.seed)
    assert promoted.seed != confirmation.config.seed
    assert "prefect.flow_run_id" not in run.data.tags  # else train-dqn would take the study's run for its own
    files = {file.path for file in store.list_artifacts(run_id)}
    assert {"rungs.png", "history.png", "importances.png", "slice.png", "winner.json", "space.json"} <= files


@pytest.mark.slow
def test_a_sweep_from_its_beginning_to_a_saved_preset(
    store: MlflowClient, confirmed: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "space.json").write_text(json.dumps(SPACE.to_dict()))
    asked: dict[str, Any] = {
        "space": str(tmp_path / "space.json"),
        "rungs": [4, 8],
        "episodes": 1,
        "finalists": 1,
    }
    tried: list[int] = []

    def interrupted(*args: Any, **options: Any) -> None:
        if len(tried) == 1:
            raise KeyboardInterrupt
        tried.append(args[2])
        run_shard(*args, **options)

    monkeypatch.setattr("flows.sweep.run_shard", interrupted)
    with pytest.raises(KeyboardInterrupt) as stopped:
        flow.sweep_dqn(trials=6, shard_trials=4, checkpoint_dir=str(tmp_path), **asked)
    (note,) = (note for note in stopped.value.__notes__ if "--resume" in note)
    name = note.partition("--resume ")[2].split()[0].rstrip('"')
    monkeypatch.setattr("flows.sweep.run_shard", run_shard)
    report = flow.sweep_dqn(resume=name, save="mine", checkpoint_dir=str(tmp_path))
    study, settings = read_study(name)
    trials = study.get_trials()
    assert [trial.state.is_finished() for trial in trials] == [True] * (6 + 4)
    assert sum(trial.state == TrialState.COMPLETE for trial in trials) == 2 + 1 + 4
    winner = configuration(ranking(trials, settings.rungs)[0], settings)
    assert read_preset("mine") == ("cartpole", winner)
    assert "Trained anew on 2 fresh seeds" in report
    assert f"study {name}" in report
