"""A sweep from its request to its report, its stages one by one; what they call is not done."""

import dataclasses
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dqn.config import ConfigError
from dqn.presets import PRESETS
from flows import sweep as flow
from flows.failures.errors import InputError
from flows.request.saved_presets import read_preset
from flows.search.confirm import fresh
from flows.search.settings import SweepConfig
from flows.search.study import begin_study, read_study
from flows.search.trials import configuration
from tests.support.flows.sweeps import keep_in_memory, sweep, told


@pytest.fixture(autouse=True)
def storage(monkeypatch: pytest.MonkeyPatch) -> None:
    keep_in_memory(monkeypatch)


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """The stages of a sweep that were run, with what they were given; what a stage returns is named after it."""
    done: list[tuple[Any, ...]] = []

    def run(stage: str, *what: Any) -> str:
        done.append((stage, *what))
        return f"its {stage}"

    for stage in ("begin", "try_trials", "retrain", "save_winner", "record_study", "train_dqn", "report"):
        monkeypatch.setattr(flow, stage, partial(run, stage))
    monkeypatch.setattr(flow, "read_study", lambda name: (None, f"settings of {name}"))
    monkeypatch.setattr(flow, "promotion", lambda *what: what)
    monkeypatch.setattr(flow, "api_is_named", lambda: True)
    return done


def test_a_sweep_tries_trains_anew_records_and_reports(done: list[tuple[Any, ...]]) -> None:
    settings: dict[str, Any] = {"trials": 40, "keep": 0.25, "episodes": 3, "finalists": 2, "seed": 9}
    assert flow.sweep_dqn("acrobot", "arlbench", "random", rungs=[5, 6], checkpoint_dir="kept", **settings) == (
        "its report"
    )
    asked = flow.request("acrobot", "arlbench", "random", [5, 6], shard_trials=16, **settings)
    assert done == [
        ("begin", asked, "kept"),
        ("try_trials", "its begin", None, "kept"),
        ("retrain", "its begin"),
        ("record_study", "its begin", "its retrain"),
        ("report", "its begin", "its retrain", "its record_study", None),
    ]


def test_a_study_goes_on_and_its_winner_is_saved_and_promoted(done: list[tuple[Any, ...]]) -> None:
    flow.sweep_dqn(resume="mine", spread_to="sweep-shard/default", save="name", promote=True, checkpoint_dir="kept")
    assert done == [
        ("try_trials", "mine", "sweep-shard/default", "kept"),
        ("retrain", "mine"),
        ("save_winner", "mine", "name"),
        ("record_study", "mine", "its retrain"),
        ("train_dqn", "its retrain", "settings of mine"),
        ("report", "mine", "its retrain", "its record_study", "its train_dqn"),
    ]


def test_what_would_fail_in_the_end_is_refused_at_the_beginning(
    done: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="a preset of your own has small letters"):
        flow.sweep_dqn(save="cartpole")
    monkeypatch.setattr(flow, "api_is_named", lambda: False)
    with pytest.raises(InputError, match="spread to 'there/default' by a Prefect API: set PREFECT_API_URL"):
        flow.sweep_dqn(spread_to="there/default")
    assert done == []
    flow.sweep_dqn()
    assert done


def test_whatever_stops_a_sweep_leaves_word_how_it_goes_on(
    done: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(flow, "retrain", stopped)
    with pytest.raises(KeyboardInterrupt) as interrupt:
        flow.sweep_dqn()
    assert interrupt.value.__notes__ == ["the study is kept; resume it with: make sweep ARGS=\"--resume 'its begin'\""]


def test_a_study_is_named_after_its_flow_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    connected: list[bool] = []
    monkeypatch.setattr(flow, "connect", lambda: connected.append(True))
    monkeypatch.setattr(flow, "flow_run_id", lambda: "0123456789abcdef")
    settings = sweep(method="random")
    assert flow.begin(settings, str(tmp_path / "kept")) == "cartpole-random-01234567"
    assert read_study("cartpole-random-01234567")[1] == settings
    assert (tmp_path / "kept").is_dir()
    assert connected == [True]
    monkeypatch.setattr(flow, "flow_run_id", lambda: None)
    first, second = (flow.begin(settings, str(tmp_path)) for _ in range(2))
    assert first != second
    assert [len(name) for name in (first, second)] == [len("cartpole-random-01234567")] * 2
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="checkpoints cannot be written"):
        flow.begin(settings, str(tmp_path / "file"))


def test_shards_are_tried_here_one_after_the_other_and_the_final_last(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tried: list[Any] = []

    def run_shard(study: Any, settings: SweepConfig, shard: int, **options: Any) -> None:
        on_progress = options.pop("on_progress", None)
        tried.append((study.study_name, settings.finalists, shard, options, getattr(on_progress, "__name__", None)))

    monkeypatch.setattr(flow, "run_shard", run_shard)
    begin_study("with", sweep(trials=1_001, shard_trials=500, finalists=2))
    begin_study("without", sweep(trials=9))
    directory = {"directory": Path("kept")}
    flow.try_trials("with", None, "kept")
    assert tried == [("with", 2, shard, directory, "show") for shard in (0, 1, 2, 3)]
    assert "study with: 1,001 trials in 3 shards, 8,144 gradient updates in all\n" in capsys.readouterr().out
    tried.clear()
    flow.try_trials("without", None, "kept")
    flow.try_shard("with", 2, "kept")
    assert tried == [
        ("without", 0, 0, directory, "show"),
        ("without", 0, 1, directory, "show"),
        ("with", 2, 2, directory, None),
    ]


def test_the_final_is_spread_when_all_other_shards_are_over(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(
        "flows.search.spread.spread",
        lambda name, study, shards, **options: asked.append((name, study, list(shards), options)),
    )
    monkeypatch.setattr(flow, "run_shard", lambda *_, **__: pytest.fail("it was tried here"))
    begin_study("with", sweep(trials=20, finalists=2))
    begin_study("without", sweep(trials=20))
    for study in ("with", "without"):
        flow.try_trials(study, "sweep-shard/default", "kept")
    there = {"checkpoint_dir": "kept"}
    assert [(name, study, shards, options) for name, study, shards, options in asked if shards] == [
        ("sweep-shard/default", "with", [0, 1, 2], there),
        ("sweep-shard/default", "with", [3], there),
        ("sweep-shard/default", "without", [0, 1, 2], there),
    ]


def test_the_winner_is_trained_anew_by_the_studys_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow, "confirm", lambda *what: what)
    settings = sweep(trials=3, shard_trials=3, seed=6)
    study = told("winner", returns=[[1.0], [5.0, 5.0, 5.0], [2.0]], settings=settings)
    winner = configuration(study.get_trials()[1], settings)
    anew: Any = flow.retrain("winner")
    assert anew == (1, fresh(winner, seed=6))
    begin_study("none left", settings)
    with pytest.raises(InputError, match="no trial of study 'none left' could be trained: widen its space"):
        flow.retrain("none left")


def test_the_winner_is_saved_as_a_preset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = sweep(preset="acrobot", trials=2, shard_trials=2)
    study = told("saved", returns=[[1.0], [2.0]], settings=settings)
    flow.save_winner("saved", "mine")
    assert read_preset("mine") == ("acrobot", configuration(study.get_trials()[1], settings))
    assert capsys.readouterr().out == f"preset mine saved in {tmp_path}/presets.json\n"


def test_a_study_is_recorded_in_the_store_that_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow, "connect", lambda: "the store")
    monkeypatch.setattr(flow, "record", lambda client, study, *others: (client, study.study_name, *others))
    confirmation: Any = "confirmed"
    begin_study("recorded", sweep(trials=9))
    recorded: Any = flow.record_study("recorded", confirmation)
    assert recorded == ("the store", "recorded", sweep(trials=9), "confirmed")


def test_what_is_promoted_is_the_winner_on_other_seeds() -> None:
    settings = sweep(preset="acrobot")
    config = dataclasses.replace(PRESETS["acrobot"], gamma=0.5, num_agents=3, seed=10)
    confirmation: Any = SimpleNamespace(config=config)
    overrides, preset = flow.promotion(confirmation, settings)
    assert (overrides.model_dump(exclude_unset=True), preset) == (
        {"gamma": 0.5, "num_agents": 3, "seed": 11},
        "acrobot",
    )


def test_the_report_is_told_here_and_in_a_flow_run_to_prefect_too(monkeypatch: pytest.MonkeyPatch) -> None:
    artifacts: list[dict[str, Any]] = []
    monkeypatch.setattr("prefect.artifacts.create_markdown_artifact", lambda **artifact: artifacts.append(artifact))
    for kind in ("text", "markdown"):
        monkeypatch.setattr(flow, kind, lambda study, *others, kind=kind: f"{kind} of {study.study_name}, {others[1:]}")
    begin_study("told", sweep())
    confirmation: Any = "confirmed"
    said = "text of told, ('confirmed', 'run')"
    assert flow.report("told", confirmation, "run", None) == said
    assert artifacts == []
    monkeypatch.setattr(flow, "flow_run_id", lambda: "0123")
    assert flow.report("told", confirmation, "run", "version 3 is champion") == f"{said}\n\nversion 3 is champion"
    assert artifacts == [
        {
            "key": "sweep-report",
            "description": "study told, MLflow run run",
            "markdown": "markdown of told, ('confirmed', 'run')",
        }
    ]
