"""The containers: built, started, used from outside, restarted and killed. `make test-stack`, in this order."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
from prefect.client.schemas.objects import FlowRun
from stack import PORTS, Stack, docker, read_env, service_of, write_env

from dqn.presets import PRESETS

pytestmark = pytest.mark.stack

MODEL = "dqn-CartPole-v1"
LONG: dict[str, Any] = {
    "seed": 11,
    "num_agents": 2,
    "acceptance_return": None,  # nobody stops early
    "max_updates": 12_000,
    "log_interval": 50,
    "eval_interval": 1_000,
    "checkpoint_interval": 5.0,
}
PRESET = PRESETS["cartpole"]
MetricHistory = dict[str, list[tuple[int, float]]]


@dataclass(frozen=True, kw_only=True)
class System:
    """The stack as its users see it."""

    stack: Stack
    prefect_url: str
    prefect_auth: str
    mlflow: MlflowClient
    serving: httpx.Client
    token: str

    def deploy_run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`prefect deployment run train-dqn/cartpole ...` on this machine."""
        return subprocess.run(
            (sys.executable, "-m", "prefect", "deployment", "run", "train-dqn/cartpole", *arguments),
            env={
                **os.environ,
                "PREFECT_API_URL": self.prefect_url,
                "PREFECT_API_AUTH_STRING": self.prefect_auth,
                "PREFECT_CLI_WRAP_LINES": "false",
            },
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=300,
        )

    def prefect(self) -> SyncPrefectClient:
        return SyncPrefectClient(self.prefect_url, auth_string=self.prefect_auth)

    def status(self) -> dict[str, Any]:
        answer: dict[str, Any] = self.serving.get("/api/status").raise_for_status().json()
        return answer

    def population(self, flow_run_id: UUID) -> Run:
        """The one MLflow run of a flow run."""
        (run,) = self.populations(flow_run_id)
        return run

    def populations(self, flow_run_id: UUID) -> list[Run]:
        """The MLflow runs of a flow run: none before it has begun, and never two."""
        experiments = [experiment.experiment_id for experiment in self.mlflow.search_experiments()]
        return list(self.mlflow.search_runs(experiments, f"tags.`prefect.flow_run_id` = '{flow_run_id}'"))


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    env_file = tmp_path_factory.mktemp("stack") / "env"
    write_env(env_file)
    ports = dict(zip(PORTS.values(), (14200, 15000, 18000), strict=True))
    text = env_file.read_text()
    for variable, port in ports.items():
        text = text.replace(f"{variable}={port - 10_000}", f"{variable}={port}")
    env_file.write_text(text)
    stack = Stack("dqn-test", env_file)
    stack.compose("down", "--volumes", "--remove-orphans")
    try:
        stack.up("--scale", "worker=2")
        variables = read_env(env_file)
        with httpx.Client(base_url=f"http://127.0.0.1:{ports['SERVING_PORT']}", timeout=30) as serving:
            yield System(
                stack=stack,
                prefect_url=f"http://127.0.0.1:{ports['PREFECT_PORT']}/api",
                prefect_auth=f"prefect:{variables['PREFECT_PASSWORD']}",
                mlflow=MlflowClient(f"http://127.0.0.1:{ports['MLFLOW_PORT']}"),
                serving=serving,
                token=variables["SERVING_TOKEN"],
            )
        for name in stack.containers():
            Path(env_file.parent, f"{name}.log").write_text(docker("logs", name))
    finally:
        stack.compose("down", "--volumes", "--remove-orphans")


def test_everything_is_healthy_and_published_to_this_machine_only(system: System) -> None:
    containers = system.stack.containers()
    services = sorted(service_of(container) for container in containers.values())
    assert services == ["deploy", "mlflow", "postgres", "prefect-server", "serving", "worker", "worker"]
    published = [
        binding["HostIp"]
        for container in containers.values()
        for bindings in (container["NetworkSettings"]["Ports"] or {}).values()
        for binding in bindings or []
    ]
    assert published == ["127.0.0.1"] * 3
    for port in system.stack.ports().values():
        page = httpx.get(f"http://127.0.0.1:{port}/", follow_redirects=True)
        assert "<html" in page.raise_for_status().text


def test_a_page_of_another_site_can_change_nothing(system: System) -> None:
    """By a request that browsers send unasked, or under a name of its own that leads to this machine."""
    ports = system.stack.ports()
    prefect, mlflow = (f"http://127.0.0.1:{ports[service]}" for service in ("prefect-server", "mlflow"))
    runs = f"{mlflow}/api/2.0/mlflow/experiments/create"
    for url, headers, status in (
        (f"{prefect}/api/flows/", {"Origin": "http://evil.example"}, 401),
        (f"{prefect}/api/flows/", {"Host": "evil.example"}, 401),
        (runs, {"Origin": "http://evil.example"}, 403),
        (runs, {"Host": "evil.example"}, 403),
    ):
        assert httpx.post(url, headers=headers, content=b'{"name": "x"}').status_code == status, (url, headers)
    assert httpx.get(f"{prefect}/api/health").status_code == 200


def test_a_request_that_makes_no_sense_is_refused_in_one_sentence(system: System) -> None:
    for parameter, complaint in (
        ("config={'seed': 7}", "seed"),  # no JSON
        ("no_such_parameter=1", "no_such_parameter"),
        ('config={"sed": 7}', "sed"),
        ('config={"seed": "seven"}', "seven"),
        ("preset=cartpol", "cartpol"),
    ):
        refused = system.deploy_run("-p", parameter)
        assert refused.returncode == 1, parameter
        assert "Traceback" not in refused.stdout
        assert complaint in refused.stdout


def test_a_deployment_run_makes_a_champion_and_serving_plays_it(system: System) -> None:
    watched = system.deploy_run("-p", 'config={"seed": 7}', "--watch")
    assert watched.returncode == 0, watched.stdout

    champion = system.mlflow.get_model_version_by_alias(MODEL, "champion")
    assert champion.tags["gate"].startswith("passed")
    run = system.mlflow.get_run(str(champion.run_id))
    assert run.info.status == "FINISHED"
    assert champion.tags["prefect.flow_run_id"] == run.data.tags["prefect.flow_run_id"]
    assert champion.tags["git_commit"] != "unknown"

    within(5, lambda: (system.status()["current"] or {}).get("version") == str(champion.version))
    assert system.status()["current"]["run_id"] == champion.run_id
    webhook = 'route="/api/webhooks/registry",status="202"'
    within(5, lambda: webhook in system.serving.get("/metrics").text)
    played = system.serving.post(
        "/api/episodes", json={"seed": 123}, headers={"Authorization": f"Bearer {system.token}"}
    )
    assert played.raise_for_status().json()["episodic_return"] == 500.0
    observation = {"name": "observation", "shape": [1, 4], "datatype": "FP32", "data": [0.0, 0.0, 0.1, 0.5]}
    answer = system.serving.post(f"/v2/models/{MODEL}/infer", json={"inputs": [observation]}).raise_for_status().json()
    left, right = answer["outputs"][0]["data"]
    assert right > left  # the pole falls to the right

    assert system.serving.post("/api/episodes", json={"seed": 1}).status_code == 401
    assert system.serving.post("/api/webhooks/registry", json={}).status_code == 401


def test_deploying_again_changes_nothing(system: System) -> None:
    with system.prefect() as prefect:
        deployment = prefect.read_deployment_by_name("train-dqn/cartpole")
        assert [schedule.active for schedule in deployment.schedules] == [False]
        prefect.update_deployment_schedule(deployment.id, deployment.schedules[0].id, active=True)
        before = setup_of(system, prefect)
        docker("start", "--attach", container_of(system, "deploy"))
        assert setup_of(system, prefect) == before
        schedules = prefect.read_deployment_schedules(deployment.id)
        prefect.update_deployment_schedule(deployment.id, schedules[0].id, active=False)
    assert len(before["automations"]) == 3
    assert sorted(name for name, *_ in before["deployments"]) == ["article", "cartpole", "daily", "default", "default"]


@pytest.fixture(scope="module")
def unbroken(system: System) -> MetricHistory:
    """What the long training logs if nothing happens to its worker, though Postgres and MLflow restart meanwhile."""
    flow_run = start_long_training(system)
    for service in ("postgres", "mlflow"):
        docker("restart", container_of(system, service))
    assert checkpoints(system), "training was over before the servers were back"
    finished = finish(system, flow_run)
    assert finished.run_count == 1
    return metrics_of(system, flow_run.id)


def test_restarted_servers_lose_no_metric(unbroken: MetricHistory) -> None:
    losses = {name: history for name, history in unbroken.items() if name.endswith("train/td_loss")}
    assert len(losses) == LONG["num_agents"]
    for history in losses.values():
        steps = [step for step, _ in history]
        interval = LONG["log_interval"] * PRESET.num_envs // PRESET.updates_per_step
        assert steps == list(range(steps[0], steps[0] + interval * len(steps), interval))
        assert len(steps) >= LONG["max_updates"] // LONG["log_interval"] - 1


@pytest.mark.parametrize("end", ["kill", "stop"])
def test_a_training_goes_on_elsewhere_when_its_worker_dies(system: System, unbroken: MetricHistory, end: str) -> None:
    flow_run = start_long_training(system)
    (worker,) = (name for name in workers(system) if trains(name))
    docker(end, worker)

    within(180, lambda: read(system, flow_run.id).run_count == 2)
    system.stack.compose("up", "--detach", "--no-deps", "--no-recreate", "--scale", "worker=2", "worker")
    finish(system, flow_run)

    with system.prefect() as prefect:
        logs = prefect.read_logs(LogFilter(flow_run_id=LogFilterFlowRunId(any_=[flow_run.id])))
        states = [state.name for state in prefect.read_flow_run_states(flow_run.id)]
    (goes_on,) = (log.message for log in logs if log.message.startswith("going on from update"))
    assert int(goes_on.split()[4].replace(",", "")) > 0
    assert "Crashed" in states
    assert metrics_of(system, flow_run.id) == unbroken


def test_no_container_runs_as_root_or_writes_outside_its_volumes(system: System) -> None:
    for name, container in system.stack.containers().items():
        host = container["HostConfig"]
        assert host["ReadonlyRootfs"], name
        assert host["CapDrop"] == ["ALL"], name
        assert "no-new-privileges:true" in host["SecurityOpt"], name
        assert host["Memory"] > 0, name
        assert host["NanoCpus"] > 0, name
        assert host["PidsLimit"] > 0, name
        mounts = [mount["Destination"] for mount in container["Mounts"]] + list(host["Tmpfs"])
        mounts.append("/usr/sbin/docker-init")  # the engine's own, by `init: true`
        changed = [line.split(maxsplit=1) for line in docker("diff", name).splitlines()]
        outside = [path for kind, path in changed if not inside(path, mounts) and kind != "C"]
        assert not outside, name
        if container["State"]["Running"]:
            users = [line.split()[1] for line in docker("top", name, "-eo", "pid,uid").splitlines()[1:]]
            assert users, name
            assert "0" not in users, name


def inside(path: str, mounts: list[str]) -> bool:
    """Whether a path is a mount point, in one, or on the way to one."""
    return any(f"{path}/".startswith(f"{mount}/") or f"{mount}/".startswith(f"{path}/") for mount in mounts)


def start_long_training(system: System) -> FlowRun:
    """Start it and wait until it trains and has its second checkpoint; the first is of update 0."""
    with system.prefect() as prefect:
        deployment = prefect.read_deployment_by_name("train-dqn/cartpole")
        flow_run = prefect.create_flow_run_from_deployment(deployment.id, parameters={"config": LONG})
    within(120, lambda: bool(checkpoints(system)))
    first = checkpoints(system)
    within(60, lambda: checkpoints(system) != first)
    return flow_run


def checkpoints(system: System) -> str:
    """Names and times of the checkpoints: there is one while a run trains."""
    return docker("exec", workers(system)[0], "find", "checkpoints", "-name", "*.ckpt", "-printf", "%f %T@\n")


def finish(system: System, flow_run: FlowRun) -> FlowRun:
    """Wait until a flow run is over; it must have completed."""

    def is_over() -> bool:
        state = read(system, flow_run.id).state
        return state is not None and state.is_final() and not state.is_crashed()

    within(400, is_over)
    finished = read(system, flow_run.id)
    assert finished.state is not None
    assert finished.state.is_completed(), finished.state.message
    return finished


def read(system: System, flow_run_id: UUID) -> FlowRun:
    with system.prefect() as prefect:
        return prefect.read_flow_run(flow_run_id)


def metrics_of(system: System, flow_run_id: UUID) -> MetricHistory:
    """Every value logged for a population but its speed, by agent and name, as pairs of step and value."""
    parent = system.population(flow_run_id)
    assert parent.info.status == "FINISHED"
    of_parent = f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
    children = system.mlflow.search_runs([parent.info.experiment_id], of_parent)
    assert len(children) == LONG["num_agents"]
    return {
        f"{run.data.tags.get('agent', 'population')} {name}": sorted(
            (metric.step, metric.value) for metric in system.mlflow.get_metric_history(run.info.run_id, name)
        )
        for run in (parent, *children)
        for name in run.data.metrics
        if name.startswith(("train/", "eval/")) and name != "train/steps_per_second"
    }


def setup_of(system: System, prefect: SyncPrefectClient) -> dict[str, Any]:
    """What docker/deploy.py sets up, less times of change."""
    volatile = {"id", "created", "updated"}
    webhooks = system.mlflow.list_webhooks()
    return {
        "pools": [(pool.name, pool.type, pool.id) for pool in prefect.read_work_pools()],
        "limits": [(limit.name, limit.limit) for limit in prefect.read_global_concurrency_limits(limit=10, offset=0)],
        "automations": [automation.model_dump(mode="json") for automation in prefect.read_automations()],
        "deployments": sorted(
            (
                deployment.name,
                str(deployment.id),
                str(deployment.entrypoint),
                json.dumps(deployment.pull_steps),
                json.dumps(deployment.parameters),
                [schedule.model_dump_json(exclude=volatile) for schedule in deployment.schedules],
            )
            for deployment in prefect.read_deployments()
        ),
        "webhooks": [
            (hook.webhook_id, hook.name, hook.url, [str(event) for event in hook.events]) for hook in webhooks
        ],
    }


def container_of(system: System, service: str) -> str:
    return next(name for name, container in system.stack.containers().items() if service_of(container) == service)


def workers(system: System) -> list[str]:
    """Workers that run."""
    return [
        name
        for name, container in system.stack.containers().items()
        if service_of(container) == "worker" and container["State"]["Running"]
    ]


def trains(worker: str) -> bool:
    """Whether a worker is busy with a flow run."""
    return "prefect.engine" in docker("top", worker, "-eo", "pid,args")


def within(seconds: float, condition: Callable[[], bool]) -> None:
    """Wait for something that must become true."""
    patience = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < patience, f"not within {seconds:.0f} s"
        time.sleep(0.5)
