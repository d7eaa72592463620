"""From a configuration to a champion in the registry: `python -m flows train`, or the deployment `train-dqn`."""

if __name__ == "__main__":  # before anything below is imported
    raise SystemExit("error: this module is no program; type: python -m flows train")

from contextlib import ExitStack

from mlflow import MlflowClient

from dqn.training.fits import require_one_world
from flows.failures.errors import InputError
from flows.failures.interrupts import held, released
from flows.orchestration.console import say
from flows.orchestration.flow_run import flow_run_id
from flows.orchestration.step import step
from flows.registry.challenger import register
from flows.registry.champion import promote
from flows.registry.evaluation import evaluate
from flows.registry.gate_tag import undecided_if_ended
from flows.registry.versions import model_name
from flows.reporting.draw import draw_population, draw_version
from flows.reporting.report import report
from flows.request.general import StartName
from flows.request.parameters import ConfigOverrides, check_trainable
from flows.tracking.attempt import Attempt, FencedClient, begin
from flows.tracking.endings import failing
from flows.tracking.runs import complete_runs, find_run, open_run, read_config
from flows.tracking.store import connect
from flows.training.population import check_resumable, check_writable, checkpoint_path
from flows.training.steps import export, finish, test_agents, train
from flows.training.warm_start import WARM_START_TAG, find_version

NO_OVERRIDES = ConfigOverrides()


def train_dqn(
    config: ConfigOverrides = NO_OVERRIDES,
    preset: StartName = "cartpole",
    resume: str | None = None,
    warm_start: str | None = None,
    checkpoint_dir: str = "checkpoints",
) -> str:
    """Train a population of DQN agents and register, evaluate and promote the best of them.

    Args:
        config: overrides of the preset's hyper-parameters.
        preset: hyper-parameters to start from; `general` is for an environment that no preset was tuned to.
        resume: id of the MLflow run to resume; it keeps its own configuration.
        warm_start: version or alias of the environment's registered model; all agents start with its network.
        checkpoint_dir: directory of the training state, which is kept until training is over.

    Returns:
        The report.
    """
    with ExitStack() as stack:
        with held():
            attempt, name = start(config, preset, resume, warm_start, checkpoint_dir)
            fenced = FencedClient(client=MlflowClient(), attempt=attempt)
            stack.enter_context(failing(fenced, checkpoint_path(checkpoint_dir, attempt.run_id)))
        say(f"MLflow run {attempt.run_id}")
        run_id = train(attempt.run_id, checkpoint_dir, attempt)
        model_id = export(run_id, attempt)
        version = register(run_id, model_id, attempt)
        with undecided_if_ended(fenced, name, version):
            agents = test_agents(run_id, attempt)
            evaluation = evaluate(name, version, attempt)
            gate = promote(name, version, evaluation, attempt)
        if not flow_run_id():
            reported = report(run_id, version, gate, agents, evaluation, attempt)
            print(reported, flush=True)  # before the figures are drawn, which takes seconds
        draw_population(run_id, agents, attempt)
        draw_version(name, version, evaluation, attempt)
        if flow_run_id():  # the report on the flow run's page shows the curves
            reported = report(run_id, version, gate, agents, evaluation, attempt)
        finish(attempt)
        return reported


@step("start", keeps_result=False)
def start(
    config: ConfigOverrides, preset: StartName, resume: str | None, warm_start: str | None, checkpoint_dir: str
) -> tuple[Attempt, str]:
    """Begin an attempt at the run to resume, or at the flow run's own. Returns it and the model's name."""
    with released():
        check_request(config, preset, resume, warm_start, checkpoint_dir)
        client = connect()
    if resume:
        run_id = find_run(client, resume).info.run_id
        chosen = read_config(client, run_id)
    else:
        chosen = config.applied_to(preset)
        tags = {WARM_START_TAG: str(find_version(client, chosen, warm_start))} if warm_start else {}
        run_id = open_run(client, chosen, preset=preset, flow_run_id=flow_run_id(), tags=tags)
    attempt = begin(client, run_id)
    fenced = FencedClient(client=client, attempt=attempt)
    with failing(fenced, checkpoint_path(checkpoint_dir, run_id)), released():
        complete_runs(fenced, chosen, flow_run_id=flow_run_id())
    return attempt, model_name(chosen.env_id)


def check_request(
    config: ConfigOverrides, preset: StartName, resume: str | None, warm_start: str | None, checkpoint_dir: str
) -> None:
    """Refuse an impossible request before anything starts.

    Raises:
        ConfigError: if the configuration cannot be trained, or its agents have different worlds.
        EnvironmentUnsupportedError: if the environment is unknown or unsupported.
        InputError: if the run to resume or the version to start from does not exist, or the checkpoint directory cannot
            be written.
        TrackingError: if MLflow cannot be reached.
    """
    if not resume:
        chosen = config.applied_to(preset)
        require_one_world(chosen)
        check_trainable(chosen)
    elif config.model_fields_set or preset != "cartpole" or warm_start:
        raise InputError("a resumed run keeps its own configuration: leave out the preset, its fields and warm_start")
    check_writable(checkpoint_dir)
    client = connect()
    if resume:
        check_resumable(client, resume, checkpoint_dir)
    elif warm_start:
        find_version(client, config.applied_to(preset), warm_start)
