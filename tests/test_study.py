import dataclasses
import io
import json
import math
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient
from optuna.trial import TrialState
from tqdm import tqdm

from dqn.presets import PRESETS
from flows import sweep as flow
from flows import sweep_cli
from flows.cli import parse
from flows.parameters import InputError
from flows.presets import read_preset, save_preset
from flows.search import confirm as confirming
from flows.search.bar import Bar
from flows.search.figures import figures
from flows.search.record import BEST, record, searched
from flows.search.report import markdown, text
from flows.search.settings import SweepConfig, batch_size
from flows.search.shard import Progress, run_shard
from flows.search.spaces import SPACES
from flows.search.study import _storage, begin_study, read_study, storage_url
from flows.search.trials import configuration, ranking, returns_by_rung
from tests.sweeps import SPACE, sweep, told
from tests.test_shard import SMALL


@pytest.fixture(autouse=True)
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPTUNA_STORAGE", f"sqlite:///{tmp_path}/optuna.db")


PRAGMAS = {"journal_mode": "wal", "synchronous": 1, "busy_timeout": 60_000}


def test_the_budget_is_known_before_anything_is_tried() -> None:
    settings = sweep(trials=20, shard_trials=8, rungs=(10, 20, 40))
    assert (settings.shards, [settings.size(shard) for shard in range(3)]) == (3, [8, 8, 4])
    assert [settings.alive(0, 8, rung) for rung in range(5)] == [8, 4, 2, 1, 1]
    assert settings.updates(0) == 8 * 10 + 4 * 10 + 2 * 20
    assert settings.budget == 2 * settings.updates(0) + (4 * 10 + 2 * 10 + 1 * 20)
    assert sweep(method="pbt", rungs=(10, 20, 40)).updates(0) == 8 * 40
    with_final = dataclasses.replace(settings, finalists=3)
    assert [with_final.is_final(shard) for shard in range(4)] == [False, False, False, True]
    assert (with_final.shards, with_final.size(3), with_final.alive(3, 12, 2)) == (3, 12, 12)
    assert with_final.budget == settings.budget + 12 * 40
    assert dataclasses.replace(settings, trials=2, finalists=3).size(1) == 2 * 4
    assert [batch_size(trials) for trials in (5, 128, 129, 1_024)] == [16, 16, 17, 128]
    assert SweepConfig.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"preset": "article"}, "the preset 'article' is not searched; those that are: cartpole"),
        ({"method": "grid"}, "method must be one of tpe, random, pareto, pbt, got 'grid'"),
        ({"trials": 0}, "trials must be 1 or more, got 0"),
        ({"finalists": -1}, "finalists must be 0 or more, got -1"),
        ({"keep": 1.0}, "keep must be a share between 0 and 1, got 1.0"),
        ({"keep": 0.0}, "keep must be a share between 0 and 1, got 0.0"),
        ({"rungs": ()}, "rungs must be numbers of updates that rise"),
        ({"rungs": (10, 10)}, "rungs must be numbers of updates that rise"),
        ({"rungs": (0, 10)}, "rungs must be numbers of updates that rise"),
    ],
    ids=str,
)
def test_what_cannot_be_searched_is_refused_in_a_sentence(changes: dict[str, Any], message: str) -> None:
    sweep().check()
    with pytest.raises(InputError, match=message):
        sweep(**changes).check()


def test_a_study_keeps_its_settings_and_is_found_by_name() -> None:
    begin_study("kept", sweep())
    begin_study("kept", sweep(trials=99))
    assert read_study("kept")[1] == sweep()
    with pytest.raises(InputError, match="there is no study 'other' in sqlite"):
        read_study("other")


def test_a_storage_that_cannot_be_used_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPTUNA_STORAGE", "sqlite:////nowhere/at/all.db")
    with pytest.raises(InputError, match=r"sqlite:////nowhere/at/all\.db cannot be used.*set OPTUNA_STORAGE"):
        begin_study("any", sweep())
    monkeypatch.delenv("OPTUNA_STORAGE")
    assert storage_url() == f"sqlite:///{Path.cwd()}/optuna.db"


def test_a_file_of_studies_is_written_ahead_and_waits_for_other_workers() -> None:
    with _storage().engine.connect() as connection:
        values = [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in PRAGMAS]
    assert dict(zip(PRAGMAS, values, strict=True)) == PRAGMAS


@pytest.mark.parametrize("method", ["tpe", "pareto"])
def test_the_winner_went_furthest_and_of_equals_learned_soonest(method: Any) -> None:
    returns = [[500.0], [90.0, 80.0], [10.0, 20.0, 400.0], [10.0, 30.0, 400.0], [10.0, 20.0, 300.0]]
    settings = sweep(method=method, trials=5, shard_trials=5)
    study = told("ranked", returns=returns, settings=settings)
    ranked = ranking(study.get_trials(), settings.rungs)
    assert [trial.number for trial in ranked] == [3, 2, 4, 1, 0]
    assert returns_by_rung(ranked[0], settings.rungs) == [10.0, 30.0, 400.0]


def test_the_final_is_spread_when_all_other_shards_are_over(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, list[int]]] = []
    monkeypatch.setattr(
        "flows.search.spread.spread", lambda name, study, shards, **options: asked.append((name, list(shards)))
    )
    begin_study("with", sweep(trials=20, finalists=2))
    begin_study("without", sweep(trials=20))
    for study in ("with", "without"):
        flow.try_trials(study, "sweep-shard/default", "kept")
    assert [shards for _, shards in asked if shards] == [[0, 1, 2], [3], [0, 1, 2]]
    settings: dict[str, Any] = {"trials": 1_000, "keep": 0.5, "episodes": 1, "seed": 0, "finalists": 3}
    assert flow.request("cartpole", "small", "tpe", None, shard_trials=0, **settings).shard_trials == 125
    assert flow.request("cartpole", "small", "tpe", [5], shard_trials=9, **settings).shard_trials == 9


def test_what_a_command_line_asks_for_is_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setattr("flows.sweep.sweep_dqn", lambda **options: asked.update(options) or "the report")
    numbers = {"trials": 9, "shard_trials": 3, "keep": 0.3, "episodes": 2, "finalists": 5, "seed": 7}
    argv = [word for name, value in numbers.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    assert sweep_cli.run(sweep_cli.parse([*argv, "--rungs", "3", "5", "--method", "random", "--promote"])) == 0
    assert asked == {
        **numbers,
        "preset": "cartpole",
        "space": "small",
        "method": "random",
        "rungs": [3, 5],
        "resume": None,
        "spread_to": None,
        "save": None,
        "promote": True,
        "checkpoint_dir": "checkpoints",
    }


@pytest.mark.parametrize("method", ["tpe", "pareto"])
def test_every_figure_of_a_study_is_drawn(method: Any) -> None:
    returns = [[float(k)] + [float(k * k)] * (k > 4) + [float(50 * k)] * (k > 8) for k in range(12)]
    settings = sweep(method=method, trials=12, shard_trials=12, space=SPACES["small"])
    study = told("drawn", returns=returns, settings=settings)
    drawn = {file: draw() for file, draw in figures(study, settings).items()}
    names = {"rungs", "history", "importances", "parallel_coordinates", "slice"}
    names |= {"pareto_front"} if method == "pareto" else set()
    assert drawn.keys() == {f"{name}.png" for name in names}
    assert all(picture.startswith(b"\x89PNG") and len(picture) > 5_000 for picture in drawn.values())


def test_what_was_tried_is_told_to_a_terminal_and_a_page() -> None:
    returns = [[float(k)] + [float(2 * k)] * (k > 4) + [float(3 * k)] * (k > 9) for k in range(12)]
    settings = sweep(trials=12, shard_trials=12)
    study = told("told", returns=returns, settings=settings)
    agents: Any = [SimpleNamespace(solved=True, updates=40), SimpleNamespace(solved=False, updates=60)]
    config = dataclasses.replace(SMALL, acceptance_return=475.0)
    confirmation = confirming.Confirmation(
        trial=11, config=config, agents=tuple(agents), returns=np.array([[1.0, 3.0], [4.0, 4.0]]), cpu_seconds=5.0
    )
    assert (confirmation.mean_return, confirmation.solved_fraction) == (3.0, 0.5)
    sentence = (
        "Trained anew on 2 fresh seeds, trial 11 returns 3.0 (2.0 to 4.0, interquartile mean with its 95% bootstrap "
        "interval) over 2 unseen episodes each; 1 of 2 solved it, 50 updates an agent, 2.50 CPU-seconds each."
    )
    assert confirmation.sentence == sentence
    plain = dataclasses.replace(confirmation, config=dataclasses.replace(config, acceptance_return=None))
    assert plain.sentence == sentence.replace("1 of 2 solved it, ", "")

    best = {trial.number: searched(trial, settings) for trial in study.get_trials()}
    rows = [["trial", "updates", "mean return", "learning_rate", "gamma", "n_step"]]
    for number, updates, mean in ((11, 16, 33.0), (10, 16, 30.0), (9, 8, 18.0), (8, 8, 16.0), (7, 8, 14.0)):
        mine = best[number]
        values = [f"{mine['learning_rate']:.3g}", f"{mine['gamma']:.3g}", str(mine["n_step"])]
        rows.append([str(number), str(updates), f"{mean:.1f}", *values])
    totals = "12 configurations by tpe, 2 of them trained to the last rung of 16 updates; 96 gradient updates in all."
    table, _, rest = text(study, settings, confirmation, "r").partition("\n\n")
    assert [line.split() for line in table.replace("mean return", "mean_return").splitlines()] == [
        [cell.replace(" ", "_") for cell in row] for row in rows
    ]
    assert len({len(line) for line in table.splitlines()}) == 1, "columns stand below each other"
    assert rest == f"{totals}\n{sentence}\n\nstudy told, MLflow run r"
    page = markdown(study, settings, confirmation, "r")
    assert page.startswith(f"# Sweep of CartPole-v1\n\n{totals}\n\n{sentence}\n\n| {' | '.join(rows[0])} |\n|")
    assert all(f"\n| {' | '.join(row)} |\n" in page for row in (["---:"] * 6, *rows[1:]))
    assert "(data:image/png;base64,iVBOR" in page


class Terminal(io.StringIO):
    """A terminal that nobody looks at."""

    def isatty(self) -> bool:
        return True


def test_a_bar_counts_what_earlier_shards_have_done(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = sweep(trials=20, shard_trials=8, rungs=(10, 20, 40))
    monkeypatch.setattr("flows.search.bar.tqdm", partial(tqdm, file=Terminal()))
    with Bar(settings) as bar:
        for progress, shown, done in (
            (
                Progress(shard=0, rung=0, updates=30, trials=8, best=-math.inf),
                "0 of 20, training=8, rung=1 of 3, best=-",
                30,
            ),
            (
                Progress(shard=0, rung=1, updates=90, trials=4, best=7.0),
                "0 of 20, training=4, rung=2 of 3, best=7.0",
                90,
            ),
            (
                Progress(shard=1, rung=0, updates=5, trials=8, best=3.25),
                "8 of 20, training=8, rung=1 of 3, best=7.0",
                settings.updates(0) + 5,
            ),
        ):
            bar.show(progress)
            assert bar._bar.postfix == f"trials={shown}"
            assert (bar._bar.n, bar._bar.total) == (done, settings.budget)


def test_a_saved_preset_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert read_preset("mine") is None
    config = dataclasses.replace(PRESETS["acrobot"], gamma=0.5, hidden_sizes=(7,))
    save_preset("mine", "acrobot", config)
    save_preset("other", "cartpole", PRESETS["cartpole"])
    assert read_preset("mine") == ("acrobot", config)
    for argv in (["--preset", "mine"], ["--preset=mine"]):
        arguments = parse([*argv, "--seed", "3"])
        assert (arguments.preset, arguments.config) == ("acrobot", dataclasses.replace(config, seed=3))
    for name in ("cartpole", "A", "", "-x", "../x"):
        with pytest.raises(ValueError, match="a preset of your own has small letters"):
            save_preset(name, "cartpole", config)
    (tmp_path / "presets.json").write_text('{"mine": {"preset": "gone", "changes": {}}, "bad": 3}')
    for name in ("mine", "bad"):
        with pytest.raises(ValueError, match="names no preset and its changes"):
            read_preset(name)
    (tmp_path / "presets.json").write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        read_preset("mine")


@pytest.fixture
def confirmed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Winners are trained anew in a moment."""
    small = dataclasses.replace(SMALL, max_updates=20, eval_start=10, eval_interval=10, acceptance_episodes=2)
    monkeypatch.setitem(PRESETS, "cartpole", small)
    monkeypatch.setattr(confirming, "SEEDS", 2)
    monkeypatch.setattr(confirming, "TEST_EPISODES", 3)


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
    name = note.partition("--resume ")[2].rstrip('"')
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
