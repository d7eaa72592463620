"""From a space of hyper-parameters to a confirmed winner: `python -m flows sweep`, or the deployment `sweep-dqn`."""

if __name__ == "__main__":  # before anything below is imported
    raise SystemExit("error: this module is no program; type: python -m flows sweep")

import dataclasses
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dqn.presets import PresetName
from flows.failures.errors import InputError
from flows.orchestration.flow_run import api_is_named, flow_run_id
from flows.orchestration.step import step
from flows.request.parameters import ConfigOverrides
from flows.request.saved_presets import check_name, save_preset
from flows.search.bar import Bar
from flows.search.confirm import Confirmation, confirm, fresh
from flows.search.record import record
from flows.search.report import markdown, text
from flows.search.settings import RUNGS, Method, SweepConfig, batch_size
from flows.search.shard import run_shard
from flows.search.spaces import read_space
from flows.search.study import begin_study, read_study
from flows.search.trials import configuration, ranking
from flows.tracking.store import connect
from flows.train import train_dqn
from flows.training.population import check_writable
from serving.commands import command


def sweep_dqn(
    preset: PresetName = "cartpole",
    space: str = "small",
    method: Method = "tpe",
    trials: int = 1_024,
    shard_trials: int = 0,
    rungs: list[int] | None = None,
    keep: float = 0.5,
    episodes: int = 10,
    finalists: int = 4,
    seed: int = 0,
    resume: str | None = None,
    spread_to: str | None = None,
    save: str | None = None,
    promote: bool = False,
    checkpoint_dir: str = "checkpoints",
) -> str:
    """Search hyper-parameters with whole populations, and train the winner anew on fresh seeds.

    Args:
        preset: source of every value that is not searched, and of the environment.
        space: `small`, `arlbench`, or a JSON file.
        method: tpe (Optuna's estimator of good values), or random.
        trials: number of configurations to try.
        shard_trials: trials that are sampled and compared together; 0 means an eighth of all, 16 or more.
        rungs: updates after which trials are compared; None means the preset's.
        keep: share of the trials that continues after each rung.
        episodes: greedy episodes per comparison.
        finalists: best trials that are trained again, four agents each, to choose the winner; 0 takes the best trial.
        seed: for sampling, training and comparisons.
        resume: name of the study to resume; it keeps its own settings.
        spread_to: a deployment to run the shards, such as sweep-shard/default; None runs them in this process.
        save: name of the preset to save the winner as, in this directory, for `--preset NAME`.
        promote: train the winner through export, registry and gate, as train-dqn does.
        checkpoint_dir: directory of the checkpoints of unfinished shards.

    Returns:
        The report.
    """
    if spread_to and not api_is_named():
        raise InputError(f"shards are spread to {spread_to!r} by a Prefect API: set PREFECT_API_URL to its URL")
    if save:
        check_name(save)
    settings: dict[str, Any] = {
        "trials": trials,
        "shard_trials": shard_trials,
        "keep": keep,
        "episodes": episodes,
        "finalists": finalists,
        "seed": seed,
    }
    study = resume or begin(request(preset, space, method, rungs, **settings), checkpoint_dir)
    with resumable(study, checkpoint_dir):
        try_trials(study, spread_to, checkpoint_dir)
        confirmation = retrain(study)
        if save:
            save_winner(study, save)
        run_id = record_study(study, confirmation)
        registered = train_dqn(*promotion(confirmation, read_study(study)[1])) if promote else None
        return report(study, confirmation, run_id, registered)


def request(
    preset: PresetName,
    space: str,
    method: Method,
    rungs: list[int] | None,
    *,
    trials: int,
    shard_trials: int,
    **settings: Any,
) -> SweepConfig:
    """The settings of a sweep.

    Raises:
        InputError: if it cannot be searched.
    """
    chosen = tuple(rungs) if rungs else RUNGS.get(preset, ())
    sweep = SweepConfig(
        preset=preset,
        space=read_space(space),
        method=method,
        trials=trials,
        shard_trials=shard_trials or batch_size(trials),
        rungs=chosen,
        **settings,
    )
    sweep.check()
    return sweep


def begin(sweep: SweepConfig, checkpoint_dir: str) -> str:
    """Create the study of this flow run, or find that of an earlier attempt; returns its name."""
    check_writable(checkpoint_dir)
    connect()
    name = f"{sweep.preset}-{sweep.method}-{(flow_run_id() or secrets.token_hex(4))[:8]}"
    begin_study(name, sweep)
    return name


@contextmanager
def resumable(study: str, checkpoint_dir: str = "checkpoints") -> Iterator[None]:
    """Add a note to errors of the block that says how to resume the study."""
    elsewhere = () if checkpoint_dir == "checkpoints" else ("--checkpoint-dir", checkpoint_dir)
    try:
        yield
    except BaseException as error:
        error.add_note(f"the study is kept; resume it with: {command('sweep', '--resume', study, *elsewhere)}")
        raise


def try_trials(study: str, spread_to: str | None, checkpoint_dir: str) -> None:
    """Run all shards: one after another in this process, or each as a run of a deployment."""
    opened, sweep = read_study(study)
    final = [sweep.shards] if sweep.finalists else []
    print(f"study {study}: {sweep.trials:,} trials in {sweep.shards} shards, {sweep.budget:,} gradient updates in all")
    if spread_to:
        from flows.search.spread import spread  # imports Prefect's client, which is optional

        for shards in (range(sweep.shards), final):  # the finalists are known when all other shards have ended
            spread(spread_to, study, shards, checkpoint_dir=checkpoint_dir)
        return
    with Bar(sweep) as bar:
        for shard in [*range(sweep.shards), *final]:
            run_shard(opened, sweep, shard, directory=Path(checkpoint_dir), on_progress=bar.show)


def try_shard(study: str, shard: int, checkpoint_dir: str = "checkpoints") -> None:
    """Run one shard of a study in this process; a second call continues it.

    Args:
        study: name of the study, in the storage OPTUNA_STORAGE.
        shard: number of the shard.
        checkpoint_dir: directory of its checkpoints.
    """
    opened, sweep = read_study(study)
    run_shard(opened, sweep, shard, directory=Path(checkpoint_dir))


@step("retrain the winner", keeps_result=False)
def retrain(study: str) -> Confirmation:
    """Train the winner's configuration on fresh seeds.

    Raises:
        InputError: if no trial of the study ended without diverging.
    """
    opened, sweep = read_study(study)
    ranked = ranking(opened.get_trials(deepcopy=False), sweep.rungs)
    if not ranked:
        raise InputError(
            f"no trial of study {study!r} could be trained: widen its space, or lower its learning rates where all of "
            "them diverged"
        )
    return confirm(ranked[0].number, fresh(configuration(ranked[0], sweep), seed=sweep.seed))


def save_winner(study: str, name: str) -> None:
    """Save the winner's configuration as a preset of this directory."""
    opened, sweep = read_study(study)
    winner = ranking(opened.get_trials(deepcopy=False), sweep.rungs)[0]
    print(f"preset {name} saved in {save_preset(name, sweep.preset, configuration(winner, sweep))}")


@step("record", keeps_result=False)
def record_study(study: str, confirmation: Confirmation) -> str:
    """Record the study in MLflow; returns the run's id."""
    client = connect()
    opened, sweep = read_study(study)
    return record(client, opened, sweep, confirmation)


def promotion(confirmation: Confirmation, sweep: SweepConfig) -> tuple[ConfigOverrides, PresetName]:
    """Arguments of `train-dqn` for the winner's configuration: overrides of the preset, on other seeds."""
    base = sweep.base
    config = dataclasses.replace(confirmation.config, seed=confirmation.config.seed + 1)
    changes = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    changed = {name: value for name, value in changes.items() if value != getattr(base, name)}
    return ConfigOverrides.model_validate(changed), sweep.preset


@step("report", keeps_result=False)
def report(study: str, confirmation: Confirmation, run_id: str, registered: str | None) -> str:
    """Write the report to Prefect; returns it for a terminal."""
    opened, sweep = read_study(study)
    if flow_run_id():
        from prefect.artifacts import create_markdown_artifact

        create_markdown_artifact(
            key="sweep-report",
            description=f"study {study}, MLflow run {run_id}",
            markdown=markdown(opened, sweep, confirmation, run_id),
        )
    return text(opened, sweep, confirmation, run_id) + (f"\n\n{registered}" if registered else "")
