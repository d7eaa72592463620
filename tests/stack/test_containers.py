"""The containers: built, started and used from outside. `make test-stack`."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from engine import docker, service_of
from prefect.client.orchestration import SyncPrefectClient

from tests.stack.conftest import WORKERS
from tests.stack.system import MODEL, System, container_of, within

pytestmark = pytest.mark.stack


def test_everything_is_healthy_and_published_to_this_machine_only(system: System) -> None:
    containers = system.stack.containers()
    services = sorted(service_of(container) for container in containers.values())
    assert services == ["deploy", "mlflow", "postgres", "prefect-server", "serving"] + ["worker"] * WORKERS
    published = [
        binding["HostIp"]
        for container in containers.values()
        for bindings in (container["NetworkSettings"]["Ports"] or {}).values()
        for binding in bindings or []
    ]
    assert published == ["127.0.0.1"] * 3
    for service, port in system.stack.ports().items():
        login = system.mlflow_login if service == "mlflow" else None
        page = httpx.get(f"http://127.0.0.1:{port}/", auth=login, follow_redirects=True)
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


def test_no_container_tells_its_secrets(system: System) -> None:
    secrets = {file.read_text() for file in system.stack.secrets.iterdir()} - {""}
    assert len(secrets) == 12
    told = json.dumps(system.stack.containers())
    assert not [secret for secret in secrets if secret in told or secret.removeprefix("prefect:") in told]


def test_mlflow_refuses_strangers(system: System) -> None:
    url = f"http://127.0.0.1:{system.stack.ports()['mlflow']}"
    for login in (None, ("admin", "guess")):
        for path in (
            "/",
            "/version",
            "/api/2.0/mlflow/registered-models/search",
            "/api/2.0/mlflow-artifacts/artifacts",
        ):
            assert httpx.get(f"{url}{path}", auth=login).status_code == 401, path
        created = httpx.post(f"{url}/api/2.0/mlflow/experiments/create", auth=login, json={"name": "x"})
        assert created.status_code == 401
    assert httpx.get(f"{url}/health").status_code == 200


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
    assert len(before["automations"]) == 5
    names = sorted(deployment["name"] for deployment in yaml.safe_load(Path("prefect.yaml").read_text())["deployments"])
    assert sorted(name for name, *_ in before["deployments"]) == names


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
