import hashlib
from pathlib import Path

import pytest
from backup import backup, restore

from tests.stack.system import MODEL, System, within


@pytest.mark.stack
def test_the_champion_plays_again_after_everything_was_lost(system: System, tmp_path: Path) -> None:
    if not system.mlflow.search_registered_models(f"name = '{MODEL}'"):
        trained = system.deploy_run("-p", 'config={"seed": 7}', "--watch")
        assert trained.returncode == 0, trained.stdout
    before = played(system)
    runs = {run.info.run_id for run in system.mlflow.search_runs(experiment_ids(system))}
    path = backup(system.stack, tmp_path)

    system.stack.compose("down", "--volumes")
    restore(system.stack, path)

    within(120, lambda: played(system) == before)
    assert {run.info.run_id for run in system.mlflow.search_runs(experiment_ids(system))} == runs
    with system.prefect() as prefect:
        assert {"train-dqn/cartpole"} <= {
            f"{prefect.read_flow(deployment.flow_id).name}/{deployment.name}"
            for deployment in prefect.read_deployments()
        }
        assert prefect.read_flow_runs()
    promoted = system.mlflow.get_model_version_by_alias(MODEL, "champion")
    network = system.mlflow.download_artifacts(str(promoted.run_id), "population/networks.safetensors", str(tmp_path))
    assert hashlib.sha256(Path(network).read_bytes()).hexdigest()


def played(system: System) -> tuple[str, str] | None:
    """Number and digest of the version that serving plays, if it plays one."""
    current = system.status()["current"]
    return (current["version"], current["sha256"]) if current else None


def experiment_ids(system: System) -> list[str]:
    return [experiment.experiment_id for experiment in system.mlflow.search_experiments()]
