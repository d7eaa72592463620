"""prefect.yaml: its deployments, their parameters and their work pool."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import prefect
import pytest
import yaml
from deploy import POOL, create_pool
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.flows import Flow, load_flow_from_entrypoint
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools import validate
from prefect.utilities.templating import apply_values, find_placeholders

ROOT = Path(__file__).parents[2]
SPECIFICATION: dict[str, Any] = yaml.safe_load((ROOT / "prefect.yaml").read_text())
IMAGE = "dqn-pipeline:1"


def test_every_deployment_names_a_flow_and_parameters_it_takes() -> None:
    names = []
    for deployment in SPECIFICATION["deployments"]:
        flow: Flow[..., Any] = load_flow_from_entrypoint(str(ROOT / deployment["entrypoint"]))
        names.append(f"{flow.name}/{deployment['name']}")
        validate(
            deployment.get("parameters", {}),
            parameter_schema(flow).model_dump(),
            ignore_required=True,
        )
        assert deployment["description"]
        assert deployment["tags"]
        assert deployment["enforce_parameter_schema"]
        active = any(schedule["active"] for schedule in deployment.get("schedules", ()))
        assert active == (flow.name == "cleanup")  # a training is for a person to schedule
    assert names == [
        "train-dqn/cartpole",
        "train-dqn/article",
        "adapt-policy/default",
        "bank-dqn/default",
        "sweep-dqn/default",
        "sweep-shard/default",
        "promote-policy/default",
        "rollback-policy/default",
        "cleanup/daily",
    ]


def test_a_deployment_copies_no_hyper_parameter() -> None:
    for deployment in SPECIFICATION["deployments"]:
        assert set(deployment.get("parameters", {})) <= {"preset", "spread_to"}


@pytest.mark.slow
@pytest.mark.parametrize(("package", "pool"), [("prefect-docker", "docker"), ("prefect-kubernetes", "kubernetes")])
def test_a_container_pool_needs_one_override(package: str, pool: str, prefect_api: str) -> None:
    metadata = Path(prefect.__file__).parent / "server/api/collections_data/views/aggregate-worker-metadata.json"
    template = json.loads(metadata.read_text())[package][pool]["default_base_job_configuration"]
    if pool == "kubernetes":
        template = json.loads((ROOT / "docker/kubernetes.json").read_text())
    options = ("--name", "train-dqn/cartpole", "--pool", pool, "--job-variable", f"image={IMAGE}")
    with SyncPrefectClient(prefect_api) as client:
        client.create_work_pool(WorkPoolCreate(name=pool, type=pool, base_job_template=template))
        subprocess.run(
            (sys.executable, "-m", "prefect", "--no-prompt", "deploy", *options),
            cwd=ROOT,
            env={**os.environ, "PREFECT_API_URL": prefect_api},
            check=True,
            timeout=120,
        )
        deployment = client.read_deployment_by_name("train-dqn/cartpole")
    assert deployment.work_pool_name == pool
    known = template["variables"]["properties"]
    defaults = {name: variable["default"] for name, variable in known.items() if "default" in variable}
    assert set(deployment.job_variables) <= set(known)
    job = apply_values(template["job_configuration"], {**defaults, **deployment.job_variables})
    if pool == "kubernetes":
        (container,) = job["job_manifest"]["spec"]["template"]["spec"]["containers"]
        assert container["image"] == IMAGE
    else:
        assert job["image"] == IMAGE
    assert not find_placeholders(job)
    # The worker fills in the command, `prefect flow-run execute`; the code is where the image has it.
    assert job.get("command") is None
    assert deployment.pull_steps == SPECIFICATION["pull"]
    (step,) = SPECIFICATION["pull"]
    directory = step["prefect.deployments.steps.set_working_directory"]["directory"]
    assert f"WORKDIR {directory}" in (ROOT / "docker/pipeline.Dockerfile").read_text()


def test_a_pool_that_a_worker_has_made_is_no_error(prefect_api: str) -> None:
    with SyncPrefectClient(prefect_api) as client:
        for _ in range(2):
            create_pool(client)
        assert client.read_work_pool(POOL).type == "process"
