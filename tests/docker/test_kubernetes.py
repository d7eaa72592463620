"""The job template for a Kubernetes work pool, filled in as Prefect's worker does."""

import json
from pathlib import Path
from typing import Any

import prefect
import pytest
import yaml
from prefect.utilities.schema_tools import ValidationError, validate
from prefect.utilities.templating import apply_values, find_placeholders

ROOT = Path(__file__).parents[2]
TEMPLATE: dict[str, Any] = json.loads((ROOT / "docker/kubernetes.json").read_text())
METADATA = Path(prefect.__file__).parent / "server/api/collections_data/views/aggregate-worker-metadata.json"
PROPERTIES: dict[str, Any] = TEMPLATE["variables"]["properties"]


def rendered(**variables: object) -> dict[str, Any]:
    defaults = {name: each["default"] for name, each in PROPERTIES.items() if "default" in each}
    values = {**defaults, **variables}
    validate(values, TEMPLATE["variables"], raise_on_error=True)
    job: dict[str, Any] = apply_values(TEMPLATE["job_configuration"], values, remove_notset=True)
    return job


def test_the_worker_knows_every_setting_of_the_job() -> None:
    known = json.loads(METADATA.read_text())["prefect-kubernetes"]["kubernetes"]["default_base_job_configuration"]
    assert TEMPLATE["job_configuration"].keys() <= known["job_configuration"].keys()
    used = {placeholder.name for placeholder in find_placeholders(TEMPLATE["job_configuration"])}
    assert used == PROPERTIES.keys()


def test_the_job_finds_what_earlier_jobs_left_and_writes_nowhere_else() -> None:
    job = rendered(image="registry.example/dqn-pipeline:1", name="run", command="go", labels={"a": "b"})
    assert not find_placeholders(job)
    pod = job["job_manifest"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["image"] == "registry.example/dqn-pipeline:1"
    mounted = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert volumes.keys() == set(mounted.values())
    for path, claim in (
        ("/app/checkpoints", "dqn-checkpoints"),
        (job["env"]["PREFECT_LOCAL_STORAGE_PATH"], "dqn-results"),
    ):
        assert volumes[mounted[path]]["persistentVolumeClaim"]["claimName"] == claim
    assert "emptyDir" in volumes[mounted["/tmp"]]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    dockerfile = (ROOT / "docker/pipeline.Dockerfile").read_text()
    assert f"useradd --uid {pod['securityContext']['runAsUser']} " in dockerfile
    assert container["resources"]["limits"] == {"cpu": "2", "memory": "4Gi"}
    assert job["job_manifest"]["spec"]["backoffLimit"] == 0  # Prefect decides on attempts


def test_a_job_without_an_image_is_refused() -> None:
    with pytest.raises(ValidationError, match="image"):
        rendered()


def test_a_job_finds_what_the_worker_of_the_stack_finds() -> None:
    """All but addresses of the stack's own network, and what a pod has for itself."""
    worker = yaml.safe_load((ROOT / "docker/compose.yaml").read_text())["services"]["worker"]["environment"]
    env = rendered(image="i", name="run", command="go", labels={})["env"]
    assert env["OPTUNA_STORAGE"] == worker["OPTUNA_STORAGE"]
    shared = {name for name in worker if name.startswith(("MLFLOW_HTTP", "MLFLOW_TRACKING_URI", "OPTUNA"))}
    assert shared <= env.keys()
    assert "OPTUNA_STORAGE" in PROPERTIES["secret"]["description"]
