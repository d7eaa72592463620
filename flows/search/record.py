"""A study in MLflow: one run with every trial in a table and the figures, and child runs of the best few."""

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from mlflow.utils.mlflow_tags import (
    MLFLOW_GIT_COMMIT,
    MLFLOW_LOGGED_ARTIFACTS,
    MLFLOW_PARENT_RUN_ID,
    MLFLOW_RUN_NOTE,
    MLFLOW_SOURCE_NAME,
)
from optuna import Study
from optuna.trial import FrozenTrial

from flows.reporting.draw import draw
from flows.search.confirm import Confirmation
from flows.search.figures import figures
from flows.search.settings import SweepConfig
from flows.search.trials import configuration, final_returns, ranking, returns_by_rung
from flows.tracking.attempt import FencedClient
from flows.tracking.labels import git_commit
from flows.tracking.runs import experiment_of

STUDY_TAG: Final = "study"
TRIALS_FILE: Final = "trials.json"
BEST: Final = 5
"""Trials with a run of their own: a thousand of them would drown the list."""


def record(client: MlflowClient, study: Study, sweep: SweepConfig, confirmation: Confirmation) -> str:
    """Put a study into its run, which is made where there is none. Returns the run's id."""
    trials = study.get_trials(deepcopy=False)
    ranked = ranking(trials, sweep.rungs)
    where = experiment_of(client, sweep.base)
    if found := client.search_runs([where], f"tags.`{STUDY_TAG}` = '{study.study_name}'", max_results=1):
        run_id = str(found[0].info.run_id)
    else:
        tags = {  # not the flow run's id: by that train-dqn finds the run that it has opened itself
            STUDY_TAG: study.study_name,
            MLFLOW_GIT_COMMIT: git_commit(),
            MLFLOW_SOURCE_NAME: "flows/sweep.py",
            "preset": sweep.preset,
        }
        run_id = str(client.create_run(where, tags=tags, run_name=f"sweep {study.study_name}").info.run_id)
        settings = {name: value for name, value in sweep.to_dict().items() if name != "space"}
        params = {**settings, **{f"winner.{name}": value for name, value in searched(ranked[0], sweep).items()}}
        client.log_batch(run_id, params=[Param(name, str(value)) for name, value in params.items()])
        for place, trial in reversed(list(enumerate(ranked[:BEST], start=1))):  # MLflow lists the newest first
            _child(client, where, run_id, trial, sweep, place)
    client.log_dict(run_id, sweep.space.to_dict(), "space.json")
    columns = table(ranked, sweep, final_returns(trials, sweep.rungs))
    rows = [list(row) for row in zip(*columns.values(), strict=True)]
    # As MLflow itself logs and shows a table; its own function would append the rows a second time.
    client.log_dict(run_id, {"columns": list(columns), "data": rows}, TRIALS_FILE)
    client.set_tag(run_id, MLFLOW_LOGGED_ARTIFACTS, json.dumps([{"path": TRIALS_FILE, "type": "table"}]))
    client.log_dict(run_id, configuration(ranked[0], sweep).to_dict(), "winner.json")
    client.log_dict(run_id, {"returns": confirmation.returns.tolist()}, "winner_returns.json")
    for file, picture in figures(study, sweep).items():
        draw(FencedClient(client=client, attempt=None), run_id, file, picture)
    values = {
        "sweep/trials": float(len(ranked)),
        "sweep/updates": float(sweep.budget),
        "winner/mean_return": confirmation.mean_return,
        "winner/solved_fraction": confirmation.solved_fraction,
    }
    now = int(time.time() * 1000)
    client.log_batch(run_id, metrics=[Metric(name, value, now, 0) for name, value in values.items()])
    client.set_tag(run_id, MLFLOW_RUN_NOTE, confirmation.sentence)
    client.set_terminated(run_id, "FINISHED")
    return run_id


def searched(trial: FrozenTrial, sweep: SweepConfig) -> dict[str, Any]:
    """The searched fields of a trial's configuration."""
    config = configuration(trial, sweep)
    return {name: getattr(config, name) for name in sweep.space.dimensions}


def table(ranked: Sequence[FrozenTrial], sweep: SweepConfig, final: Mapping[int, float]) -> Mapping[str, list[Any]]:
    """Every trial, best first, in columns; of finalists what their agents in the final returned."""
    fields = [searched(trial, sweep) for trial in ranked]
    returns = [returns_by_rung(trial, sweep.rungs) for trial in ranked]
    return {
        "place": list(range(1, len(ranked) + 1)),
        "trial": [trial.number for trial in ranked],
        "shard": [trial.user_attrs.get("shard") for trial in ranked],
        "updates": [sweep.rungs[len(mine) - 1] for mine in returns],
        "mean return": [mine[-1] for mine in returns],
        "in the final": [final.get(trial.number) for trial in ranked],
        **{
            name: [str(mine[name]) if isinstance(mine[name], tuple) else mine[name] for mine in fields]
            for name in sweep.space.dimensions
        },
    }


def _child(client: MlflowClient, where: str, parent: str, trial: FrozenTrial, sweep: SweepConfig, place: int) -> None:
    tags = {MLFLOW_PARENT_RUN_ID: parent, "trial": str(trial.number)}
    child = client.create_run(where, tags=tags, run_name=f"place {place}, trial {trial.number}").info.run_id
    now = int(time.time() * 1000)
    returns = zip(sweep.rungs, returns_by_rung(trial, sweep.rungs), strict=False)
    client.log_batch(
        child,
        metrics=[Metric("eval/mean_return", value, now, updates) for updates, value in returns],
        params=[Param(name, str(value)) for name, value in searched(trial, sweep).items()],
    )
    client.set_terminated(child, "FINISHED")
