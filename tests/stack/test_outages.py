"""What a training lives through: servers that are away, workers that die, hang and come back."""

import dataclasses
import multiprocessing
import subprocess
import sys
import time
from concurrent.futures import Future, ProcessPoolExecutor
from uuid import UUID

import pytest
from engine import docker
from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
from prefect.client.schemas.objects import FlowRun, Log

from dqn.presets import PRESETS
from dqn.training.loop import train
from dqn.training.metrics import NAMES, POPULATION
from tests.stack.system import (
    MODEL,
    MetricHistory,
    System,
    container_of,
    finish,
    metrics_of,
    read,
    trains,
    within,
    workers,
)

pytestmark = pytest.mark.stack

AWAY = 120.0
"""Seconds a server is away."""
PATIENCE = 240.0
"""Seconds to wait for a run whose worker died to run again; on an idle machine it does within 180."""
COMMON = {
    "seed": 11,
    "num_agents": 2,
    "acceptance_return": None,  # no agent stops early
    "acceptance_epsilon": 0.0,
    "log_interval": 100,
    "eval_interval": 5_000,
    "checkpoint_interval": 5.0,
}
# Long by the size of the networks, not by the number of values to log.
MINUTES: dict[str, object] = {**COMMON, "hidden_sizes": [512, 512], "max_updates": 50_000}
SECONDS: dict[str, object] = {**COMMON, "hidden_sizes": [256, 256], "max_updates": 20_000}


def unbroken(config: dict[str, object]) -> MetricHistory:
    """What a training logs to which nothing happens: every value, by agent and name, as pairs of step and value."""
    sizes: list[int] = config["hidden_sizes"]  # type: ignore[assignment] # as JSON has it
    result = train(dataclasses.replace(PRESETS["cartpole"], **{**config, "hidden_sizes": tuple(sizes)}))  # type: ignore[arg-type]
    history = {}
    for agent in (POPULATION, *range(result.config.num_agents)):
        for name in NAMES:
            steps, values = result.metrics.series(name, agent)
            key = f"{'population' if agent == POPULATION else agent} {name}"
            history[key] = sorted(zip(steps.tolist(), values.tolist(), strict=True))
    return {key: values for key, values in history.items() if values}


@pytest.fixture(scope="module")
def references() -> dict[int, "Future[MetricHistory]"]:
    """The same trainings on this machine, beside the stack, by their number of updates."""
    pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
    futures = {int(str(config["max_updates"])): pool.submit(unbroken, config) for config in (SECONDS, MINUTES)}
    pool.shutdown(wait=False)
    return futures


def test_servers_that_are_away_in_mid_training_cost_nothing(
    system: System, references: dict[int, "Future[MetricHistory]"]
) -> None:
    flow_run = start(system, MINUTES)
    for service in ("postgres", "mlflow", "prefect-server"):
        wait_for_progress(system, flow_run.id)
        server = container_of(system, service)
        docker("stop", server)
        time.sleep(AWAY)
        docker("start", server)
        within(180, lambda server=server: is_healthy(server))  # type: ignore[misc]
    finished = finish(system, flow_run)
    assert finished.run_count == 1
    assert states(system, flow_run.id).isdisjoint({"Crashed", "AwaitingRetry"})
    assert_nothing_lost(system, flow_run.id, references[50_000].result())


def test_workers_that_die_or_hang_are_followed_by_others(
    system: System, references: dict[int, "Future[MetricHistory]"]
) -> None:
    stopped, killed, hanging = (start(system, SECONDS) for _ in range(3))
    for flow_run in (stopped, killed, hanging):
        wait_for_progress(system, flow_run.id)
    trainers = {flow_run.id: worker_of(system, flow_run.id) for flow_run in (stopped, killed, hanging)}
    died = {hanging.id: time.monotonic()}
    docker("pause", trainers[hanging.id])
    died[killed.id] = time.monotonic()
    docker("kill", trainers[killed.id])
    died[stopped.id] = time.monotonic()
    docker("stop", trainers[stopped.id])
    early, early_worker = kill_before_it_runs(system)
    died[early.id] = time.monotonic()
    docker("start", trainers[killed.id], trainers[stopped.id], early_worker)  # four runs want a worker each
    for flow_run_id, count in ((hanging.id, 2), (killed.id, 2), (stopped.id, 2), (early.id, 1)):
        within(PATIENCE, lambda run=flow_run_id, count=count: read(system, run).run_count == count)  # type: ignore[misc]
        print(f"healed after {time.monotonic() - died[flow_run_id]:.0f} s at the most")
    time.sleep(max(0.0, died[hanging.id] + 200 - time.monotonic()))
    docker("unpause", trainers[hanging.id])
    woken = time.time()
    within(90, lambda: not trains(trainers[hanging.id]))  # beside four trainings on the cores of two
    expected = references[20_000].result()
    for flow_run in (stopped, killed, hanging, early):
        finish(system, flow_run)
        assert_nothing_lost(system, flow_run.id, expected)
    for flow_run in (stopped, killed, hanging):
        assert "Crashed" in states(system, flow_run.id)
        assert any(line.message.startswith("going on from update") for line in log(system, flow_run.id))
    [stopping] = [line for line in log(system, hanging.id) if line.message.startswith("stopped: attempt")]
    print(f"the attempt that was overtaken stopped {stopping.timestamp.timestamp() - woken:.0f} s after it woke")
    assert not checkpoints(system)


def test_the_lock_of_a_promotion_that_died_is_free_again(system: System) -> None:
    holding = (
        "import time; from flows.registry.champion import promotion_lock\n"
        f"with promotion_lock('{MODEL}'):\n    print('held', flush=True)\n    time.sleep(600)"
    )
    with subprocess.Popen(
        (sys.executable, "-c", holding), env=system.environment(), stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        holder.kill()
    champion = system.mlflow.get_model_version_by_alias(MODEL, "champion").version
    promoted = system.deploy_run("-p", f"version={champion}", "--watch", deployment="promote-policy/default")
    assert promoted.returncode == 0, promoted.stdout


def start(system: System, config: dict[str, object]) -> FlowRun:
    with system.prefect() as prefect:
        deployment = prefect.read_deployment_by_name("train-dqn/cartpole")
        return prefect.create_flow_run_from_deployment(deployment.id, parameters={"config": config})


def is_healthy(container: str) -> bool:
    return docker("inspect", "--format", "{{.State.Health.Status}}", container).strip() == "healthy"


def wait_for_progress(system: System, flow_run_id: UUID) -> None:
    """Until a training has written two more checkpoints; the first of all is of update 0."""
    within(180, lambda: bool(system.populations(flow_run_id)))
    run_id = system.population(flow_run_id).info.run_id
    for _ in range(2):
        before = checkpoints(system, run_id)
        within(180, lambda before=before: checkpoints(system, run_id) not in ("", before))  # type: ignore[misc]


def checkpoints(system: System, run_id: str = "*") -> str:
    """Names and times of the checkpoints: there is one while a run trains."""
    worker = next(worker for worker in workers(system) if worker not in paused())
    return docker("exec", worker, "find", "checkpoints", "-name", f"{run_id}.ckpt", "-printf", "%f %T@\n")


def paused() -> list[str]:
    return docker("ps", "--filter", "status=paused", "--format", "{{.Names}}").split()


def worker_of(system: System, flow_run_id: UUID) -> str:
    """The worker that runs a flow run, by what it says in its log."""
    submitted = f"Flow run {read(system, flow_run_id).name!r} submitted to infrastructure"
    return next(worker for worker in workers(system) if submitted in docker("logs", worker))


def kill_before_it_runs(system: System) -> tuple[FlowRun, str]:
    """Kill a worker that has taken a run and has not started it yet. Returns both."""
    free = [worker for worker in workers(system) if worker not in paused()]
    for worker in free:
        tell_fork_server(worker, "STOP")  # it starts none
    flow_run = start(system, SECONDS)
    taken: list[str] = []

    def is_taken() -> bool:
        taken[:] = [worker for worker in free if f"submitting flow run '{flow_run.id}'" in docker("logs", worker)]
        return bool(taken) and read(system, flow_run.id).state_name in ("Pending", "Submitting")

    within(60, is_taken)
    docker("kill", taken[0])
    assert read(system, flow_run.id).run_count == 0
    for worker in free:
        if worker != taken[0]:
            tell_fork_server(worker, "CONT")
    return flow_run, taken[0]


def tell_fork_server(worker: str, signal: str) -> None:
    """Send a signal to the process that a worker forks flow runs from."""
    script = (
        "import os, pathlib, signal\n"
        "for found in pathlib.Path('/proc').glob('[0-9]*/cmdline'):\n"
        "    if b'multiprocessing.' b'forkserver' in found.read_bytes():\n"
        f"        os.kill(int(found.parent.name), signal.SIG{signal})"
    )
    docker("exec", worker, "python", "-c", script)


def states(system: System, flow_run_id: UUID) -> set[str]:
    """Names of all states a run has been in."""
    with system.prefect() as prefect:
        return {str(state.name) for state in prefect.read_flow_run_states(flow_run_id)}


def log(system: System, flow_run_id: UUID) -> list[Log]:
    with system.prefect() as prefect:
        return prefect.read_logs(LogFilter(flow_run_id=LogFilterFlowRunId(any_=[flow_run_id])))


def assert_nothing_lost(system: System, flow_run_id: UUID, expected: MetricHistory) -> None:
    """Every value once, one registered version, and no checkpoint left."""
    assert metrics_of(system, flow_run_id) == expected
    run_id = system.population(flow_run_id).info.run_id
    assert len(system.mlflow.search_model_versions(f"run_id = '{run_id}'")) == 1
    assert not checkpoints(system, run_id)
