"""From a configuration to a champion in the registry: `python -m flows.train`, or the deployment `train-dqn`."""

if __name__ == "__main__":  # before Prefect is imported below: it reads its environment then
    from flows.cli import main

    raise SystemExit(main())

import prefect.runtime
from prefect import flow

from dqn.config import PresetName
from flows.parameters import ConfigOverrides, InputError, check_trainable
from flows.population import check_resumable, check_writable
from flows.promote import promote
from flows.registry import model_name
from flows.report import report
from flows.stages import evaluate, export, register, test_agents, train
from flows.tracking import closing, connect, open_runs, read_config, reopen_runs

NO_OVERRIDES = ConfigOverrides()


@flow(name="train-dqn")
def train_dqn(
    config: ConfigOverrides = NO_OVERRIDES,
    preset: PresetName = "cartpole",
    resume: str | None = None,
    checkpoint_dir: str = "checkpoints",
) -> str:
    """Train a population of DQN agents and register, evaluate and promote the best of them.

    Args:
        config: overrides of the preset's hyper-parameters.
        preset: hyper-parameters to start from.
        resume: id of the MLflow run to go on with; it keeps its own configuration.
        checkpoint_dir: where the training state is kept until training is over.

    Returns:
        The report.
    """
    client = connect()
    check_writable(checkpoint_dir)
    flow_run_id = str(prefect.runtime.flow_run.id)
    if resume:
        if config.model_fields_set or preset != "cartpole":
            raise InputError("a resumed run keeps its own configuration: give --resume without preset or fields")
        check_resumable(client, resume, checkpoint_dir)
        runs = reopen_runs(client, resume, flow_run_id=flow_run_id)
    else:
        wanted = config.applied_to(preset)
        check_trainable(wanted)
        runs = open_runs(client, wanted, preset=preset, flow_run_id=flow_run_id)
    name = model_name(read_config(client, runs.parent).env_id)
    with closing(client, runs):
        run_id = train(runs.parent, checkpoint_dir)
        model_id = export(run_id)
        version = register(run_id, model_id)
        agents = test_agents(run_id)
        evaluation = evaluate(name, version)
        gate = promote(name, version, evaluation)
        return report(run_id, version, gate, agents)
