"""Training under MLflow: a population resumes where an earlier process stopped, and its networks go into the run."""

import dataclasses
import logging
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mlflow import MlflowClient
from mlflow.entities import LifecycleStage, RunTag

from dqn.config import DQNConfig
from dqn.finite import DivergedError
from dqn.networks.population import QNetworks
from dqn.training import loop
from dqn.training.checkpoint import load_checkpoint, load_networks, save_checkpoint, save_networks
from dqn.training.machine import require_memory
from dqn.training.metrics import Metrics
from dqn.training.result import AgentResult, TrainingResult
from dqn.training.state import TrainingState
from flows.failures.errors import InputError
from flows.orchestration.console import Estimate, say
from flows.tracking.attempt import CHECKED_SECONDS, FencedClient
from flows.tracking.endings import end_diverged, end_runs
from flows.tracking.labels import params
from flows.tracking.metric_writer import MetricWriter, read_watermarks
from flows.tracking.pages import mlflow_command
from flows.tracking.runs import TRAINED_TAG, PopulationRuns, find_run, get_runs, read_artifact
from flows.training.curves import Curves
from flows.training.live import Live

_DIRECTORY: Final = "population"
_RESULT_FILE: Final = f"{_DIRECTORY}/result.json"
_CURVES_FILE: Final = f"{_DIRECTORY}/curves.json"
_SPEED_SECONDS: Final = 1.0
_PATIENCE: Final = 180.0
"""Seconds that a tracking server may be away when training ends."""
_CONFIRMED_SECONDS: Final = 10.0
"""A checkpoint is written only if a check within this time found the attempt to be the newest: a flow run is not
started again before it has hung for longer."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class PopulationSummary:
    """The result of a training without the networks."""

    agents: tuple[AgentResult, ...]
    best_agent: int | None
    """None if the agents have different worlds."""
    seconds: float
    cpu_seconds: float

    @property
    def best(self) -> AgentResult:
        """The best agent.

        Raises:
            InputError: if the agents have different worlds.
        """
        if self.best_agent is None:
            raise InputError("the agents of this run have different worlds, in which none of them is the best")
        return self.agents[self.best_agent]


def checkpoint_path(directory: str | Path, run_id: str) -> Path:
    """The file of a run's training state."""
    return Path(directory).absolute() / f"{run_id}.ckpt"


def check_resumable(client: MlflowClient, run_id: str, checkpoint_dir: str) -> None:
    """Refuse to resume a run that cannot be resumed.

    Raises:
        InputError: if the run does not exist, is finished or deleted, or has no checkpoint here.
    """
    run = find_run(client, run_id)
    if run.info.status == "FINISHED":
        raise InputError(f"run {run_id} is finished, there is nothing to resume; leave out --resume to train anew")
    if run.info.lifecycle_stage == LifecycleStage.DELETED:
        restore = mlflow_command(f"runs restore --run-id {run_id}")
        raise InputError(f"run {run_id} was deleted in MLflow: restore it with `{restore}`")
    path = checkpoint_path(checkpoint_dir, run_id)
    if TRAINED_TAG not in run.data.tags and not path.exists():
        raise InputError(
            f"run {run_id} has no checkpoint {path}; resume on the machine and in the directory it was started in, "
            "or name its directory with --checkpoint-dir"
        )


def check_writable(directory: str) -> None:
    """Refuse a checkpoint directory that cannot be written.

    Raises:
        InputError: naming the directory.
    """
    try:
        Path(directory).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise InputError(
            f"checkpoints cannot be written to {Path(directory).absolute()} ({error.strerror}); "
            "choose another directory with --checkpoint-dir"
        ) from error


def train_population(
    fenced: FencedClient,
    runs: PopulationRuns,
    config: DQNConfig,
    checkpoint: Path,
    *,
    start: QNetworks | None = None,
    test: Callable[[TrainingResult], Mapping[str, Mapping[int, float]]] = lambda _: {},
    on_progress: Callable[[TrainingState], None] = lambda _: None,
) -> TrainingResult:
    """Train, or resume from the checkpoint, and log every metric once.

    Args:
        fenced: the tracking store; as soon as its attempt is stale, training stops.
        runs: the runs that metrics are logged to.
        config: the hyper-parameters.
        checkpoint: read if it exists, written while training.
        start: a network that all agents start from if there is no checkpoint.
        test: called after training; returns further values to log, by metric and agent.
        on_progress: called every few seconds from a background thread.

    Raises:
        CheckpointError: if the checkpoint cannot be read or written.
        DivergedError: if every agent diverged; their runs have ended.
        StaleAttemptError: if a newer attempt has begun.
        TrackingError: if metrics could not be logged; the checkpoint has all of them.
    """
    state = _start(config, checkpoint, start)
    environment = state.environment
    for sentence in filter(None, (environment.spaces.note, require_memory(config, environment.spaces))):
        say(sentence)
    known = get_runs(fenced.client, (runs.parent, *runs.children))
    unnamed = {run_id for run_id, run in known.items() if not run.data.params}
    live = Live(fenced, state, confirmed=lambda: writer.confirmed_within(CHECKED_SECONDS))

    def after_flush() -> None:
        live.send()
        on_progress(state)

    writer = MetricWriter(
        fenced.client,
        runs.by_agent,
        read_watermarks(fenced.client, known),
        check=fenced.check,
        params={runs.by_agent[k]: params(config, k) for k in runs.by_agent if runs.by_agent[k] in unnamed},
        after_flush=after_flush,
    )
    writer.write(state.metrics.since(0))
    speed = _Speed(state)
    estimate = Estimate("updates", config.max_updates, done=state.learner.updates)
    said: set[int] = set()

    def on_metrics(records: Sequence[Metrics]) -> None:
        writer.write(records)
        live.take(records)
        for agent in state.diverged.keys() - said:
            update, reason = state.diverged[agent]
            say(f"agent {agent:02d} diverged and left after update {update:,}: {reason}")
            said.add(agent)
        if not sys.stderr.isatty():  # a terminal has a progress bar
            if any(record.name == "eval/solved_fraction" for record in records):
                say(_progress(state))
            estimate(state.learner.updates)
        if (steps_per_second := speed.measure()) is not None:
            writer.write_population(
                "train/steps_per_second", step=state.environment_steps, value=round(steps_per_second)
            )

    def on_checkpoint(state: TrainingState) -> None:
        # While the tracking server is away, no check succeeds, and the previous checkpoint stays.
        if confirmed():
            save_checkpoint(checkpoint, state, may_replace=confirmed)

    def confirmed() -> bool:
        return writer.confirmed_within(_CONFIRMED_SECONDS)

    try:
        result = loop.train(config, state=state, on_metrics=on_metrics, on_checkpoint=on_checkpoint)
        for name, values in test(result).items():
            writer.write_last(name, values)
    except BaseException as error:
        try:
            writer.close()
        except Exception as second:  # the first error is the one to report
            if str(second) != str(error):
                error.add_note(str(second))
        if isinstance(error, DivergedError):
            end_diverged(fenced, runs, error.diverged)
        raise
    writer.close(patience=_PATIENCE)
    return result


def keep_result(fenced: FencedClient, runs: PopulationRuns, result: TrainingResult) -> None:
    """Log networks and summary to the run, for later steps in this process or another."""
    with tempfile.TemporaryDirectory() as directory:
        save_networks(Path(directory), result.best, result.config)
        fenced.checked().log_artifacts(runs.parent, directory, _DIRECTORY)
    summary = {
        "agents": [dataclasses.asdict(agent) for agent in result.agents],
        "best_agent": None if len(set(result.config.worlds)) > 1 else result.best_agent,
        "seconds": result.seconds,
        "cpu_seconds": result.cpu_seconds,
    }
    curves = Curves.of(result).to_dict()
    fenced.client.log_dict(runs.parent, summary, _RESULT_FILE)
    fenced.client.log_dict(runs.parent, curves, _CURVES_FILE)
    diverged = {a.agent: (a.diverged, a.divergence) for a in result.agents if a.diverged is not None}
    end_diverged(fenced, runs, diverged)
    others = tuple(child for agent, child in enumerate(runs.children) if agent not in diverged)
    end_runs(fenced, others, "FINISHED")
    fenced.checked().log_batch(runs.parent, tags=[RunTag(TRAINED_TAG, "true")])


def read_networks(client: MlflowClient, run_id: str) -> tuple[QNetworks, DQNConfig]:
    """Each agent's best network, and the configuration of the training."""
    with tempfile.TemporaryDirectory() as directory:
        client.download_artifacts(run_id, _DIRECTORY, directory)
        return load_networks(Path(directory) / _DIRECTORY)


def read_summary(client: MlflowClient, run_id: str) -> PopulationSummary:
    """The summary that `keep_result` logged."""
    content: dict[str, Any] = read_artifact(client, run_id, _RESULT_FILE)
    agents = tuple(AgentResult(**agent) for agent in content.pop("agents"))
    return PopulationSummary(agents=agents, **content)


def read_curves(client: MlflowClient, run_id: str) -> Curves:
    """The curves that `keep_result` logged."""
    return Curves.from_dict(read_artifact(client, run_id, _CURVES_FILE))


def _start(config: DQNConfig, checkpoint: Path, start: QNetworks | None) -> TrainingState:
    if not checkpoint.exists():
        state = TrainingState.begin(config, start=start)
        if reason := state.environment.not_capturable:
            logger.warning(
                "the state of %s cannot be saved (%s): if this run is resumed, its episodes start afresh",
                config.env_id,
                reason,
            )
        return state
    state, continues = load_checkpoint(checkpoint, config)
    say(f"going on from update {state.learner.updates:,} of {config.max_updates:,}: {checkpoint}")
    if not continues:
        logger.warning("the state of %s could not be saved: its episodes start afresh", config.env_id)
    return state


def _progress(state: TrainingState) -> str:
    """A line for the log; a terminal has a progress bar."""
    config = state.config
    solved = f"{int(state.solved.sum())} of {config.num_agents} agents solved, "
    diverged = f", {len(state.diverged)} diverged" if state.diverged else ""
    mean_return = float(state.last_return[state.sound].mean())
    return (
        f"update {state.learner.updates:,} of {config.max_updates:,}: "
        f"{'' if config.acceptance_return is None else solved}mean return {mean_return:.1f}{diverged}"
    )


class _Speed:
    """Environment steps a second of the whole population, by wall clock."""

    def __init__(self, state: TrainingState) -> None:
        self._state = state
        self._since = time.monotonic()
        self._steps = 0
        self._last = state.environment_steps

    def measure(self) -> float | None:
        """The mean since the previous value, once a second; None in between."""
        self._steps += (self._state.environment_steps - self._last) * max(len(self._state.agents), 1)
        self._last = self._state.environment_steps
        elapsed = time.monotonic() - self._since
        if elapsed < _SPEED_SECONDS:
            return None
        speed = self._steps / elapsed
        self._since, self._steps = time.monotonic(), 0
        return speed
