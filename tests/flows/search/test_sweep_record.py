"""A study in MLflow: one run with every trial, and one for each of the best few."""

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from optuna import Study

from flows.search import record as module
from flows.search.record import record, searched, table
from flows.search.settings import SweepConfig
from flows.search.spaces import Choice, Range, Space
from flows.search.trials import configuration, ranking
from flows.tracking.labels import git_commit
from tests.support.flows.in_memory import Store
from tests.support.flows.sweeps import keep_in_memory, sweep, told

NOW = 5_000


class Curves(Store):
    """A store that keeps every point of its metrics."""

    def __init__(self) -> None:
        super().__init__()
        self.points: list[tuple[str, str, int, float, int]] = []

    def log_batch(self, run_id: str, metrics: Any = (), params: Any = (), tags: Any = ()) -> None:
        super().log_batch(run_id, metrics, params, tags)
        self.points += [(run_id, metric.key, metric.step, metric.value, metric.timestamp) for metric in metrics]


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Curves:
    """Where a study is recorded at second 5, with one figure."""
    keep_in_memory(monkeypatch)
    store = Curves()
    monkeypatch.setattr(module, "time", SimpleNamespace(time=lambda: NOW / 1000))
    monkeypatch.setattr(module, "figures", lambda study, sweep: {"rungs.png": f"{study.study_name} is drawn"})
    monkeypatch.setattr(
        module, "draw", lambda fenced, run_id, file, picture: fenced.client.files[run_id].update({file: picture})
    )
    return store


def recorded(store: Curves, study: Study, settings: SweepConfig) -> tuple[str, Any]:
    confirmation: Any = SimpleNamespace(
        trial=2, sentence="Trained anew.", returns=np.array([[1.0, 2.0]]), mean_return=1.5, solved_fraction=0.25
    )
    run_id = record(store, study, settings, confirmation)  # type: ignore[arg-type] # a stand-in
    return run_id, store.get_run(run_id)


@pytest.fixture
def settings() -> SweepConfig:
    return sweep(trials=8, shard_trials=8)


@pytest.fixture
def study(store: Curves, settings: SweepConfig) -> Study:
    returns = [[float(k)] + [float(2 * k)] * (k > 4) + [float(3 * k)] * (k > 6) for k in range(8)]
    return told("recorded", returns=returns, settings=settings)


def test_a_study_is_a_run_with_its_settings_and_its_winner(store: Curves, study: Study, settings: SweepConfig) -> None:
    run_id, run = recorded(store, study, settings)
    winner = ranking(study.get_trials(), settings.rungs)[0]
    assert winner.number == 7
    assert list(store.experiments) == ["dqn-CartPole-v1"]
    assert (run.info.run_name, run.info.status) == ("sweep recorded", "FINISHED")
    tags = dict(run.data.tags)
    assert json.loads(tags.pop("mlflow.loggedArtifacts")) == [{"path": "trials.json", "type": "table"}]
    assert tags == {
        "study": "recorded",
        "preset": "cartpole",
        "mlflow.source.name": "flows/sweep.py",
        "mlflow.source.git.commit": git_commit(),
        "mlflow.note.content": "Trained anew.",
    }
    fields = settings.to_dict()
    assert fields.pop("space") == settings.space.to_dict()
    expected = {**fields, **{f"winner.{name}": value for name, value in searched(winner, settings).items()}}
    assert run.data.params == {name: str(value) for name, value in expected.items()}
    assert [point[1:] for point in store.points if point[0] == run_id] == [
        ("sweep/trials", 0, 8.0, NOW),
        ("sweep/updates", 0, float(settings.budget), NOW),
        ("winner/mean_return", 0, 1.5, NOW),
        ("winner/solved_fraction", 0, 0.25, NOW),
    ]


def test_every_trial_is_in_a_table_and_the_winner_in_full(store: Curves, study: Study, settings: SweepConfig) -> None:
    run_id, _ = recorded(store, study, settings)
    files = store.files[run_id]
    ranked = ranking(study.get_trials(), settings.rungs)
    assert files.keys() == {"space.json", "trials.json", "winner.json", "winner_returns.json", "rungs.png"}
    assert files["space.json"] == settings.space.to_dict()
    assert files["winner.json"] == configuration(ranked[0], settings).to_dict()
    assert files["winner_returns.json"] == {"returns": [[1.0, 2.0]]}
    assert files["rungs.png"] == "recorded is drawn"
    columns = ["place", "trial", "shard", "updates", "mean return", "in the final", "learning_rate", "gamma", "n_step"]
    assert files["trials.json"]["columns"] == columns
    reached = {7: (16, 21.0), 6: (8, 12.0), 5: (8, 10.0)}
    expected = []
    for place, trial in enumerate(ranked, start=1):
        updates, mean = reached.get(trial.number, (4, float(trial.number)))
        expected.append([place, 8 - place, 0, updates, mean, None, *searched(trial, settings).values()])
    assert files["trials.json"]["data"] == expected
    assert "flow_run_id" not in str(store.get_run(run_id).data.tags)  # by it train-dqn finds the run that it opened


def test_the_best_five_have_runs_of_their_own(store: Curves, study: Study, settings: SweepConfig) -> None:
    run_id, run = recorded(store, study, settings)
    children = store.search_runs([run.info.experiment_id], f"tags.`mlflow.parentRunId` = '{run_id}'")
    names = [f"place {place}, trial {8 - place}" for place in range(1, 6)]
    assert [child.info.run_name for child in children] == names  # the newest first, as a list of runs shows them
    assert [child.data.tags["trial"] for child in children] == ["7", "6", "5", "4", "3"]
    assert {child.info.status for child in children} == {"FINISHED"}
    assert len(store.runs) == 1 + 5
    winner = ranking(study.get_trials(), settings.rungs)[0]
    assert children[0].data.params == {name: str(value) for name, value in searched(winner, settings).items()}
    points = [point[1:] for point in store.points if point[0] == children[0].info.run_id]
    assert points == [("eval/mean_return", 4 * 2**rung, 7.0 * (rung + 1), NOW) for rung in range(3)]
    points = [point[1:] for point in store.points if point[0] == children[1].info.run_id]
    assert points == [("eval/mean_return", 4, 6.0, NOW), ("eval/mean_return", 8, 12.0, NOW)]


def test_a_study_that_is_recorded_again_keeps_its_run(store: Curves, study: Study, settings: SweepConfig) -> None:
    run_id, _ = recorded(store, study, settings)
    runs, files = len(store.runs), dict(store.files[run_id])
    assert recorded(store, study, settings)[0] == run_id
    assert (len(store.runs), store.files[run_id]) == (runs, files)
    other = told("other", returns=[[1.0]], settings=settings)
    assert recorded(store, other, settings)[0] != run_id


def test_a_table_shows_sizes_as_text_and_the_returns_in_the_final(store: Curves) -> None:
    space = Space(dimensions={"hidden_sizes": Choice(values=((8,), (9,))), "gamma": Range(low=0.9, high=0.99)})
    settings = sweep(space=space, trials=2, shard_trials=2)
    ranked = ranking(told("sizes", returns=[[1.0], [2.0]], settings=settings).get_trials(), settings.rungs)
    columns = table(ranked, settings, {0: 9.0})
    assert set(columns["hidden_sizes"]) <= {"(8,)", "(9,)"}
    assert columns["gamma"] == [trial.params["gamma"] for trial in ranked]
    assert (columns["trial"], columns["in the final"]) == ([1, 0], [None, 9.0])
