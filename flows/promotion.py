"""Steps of the flows that promote and roll back."""

from flows.orchestration.flow_run import flow_run_id
from flows.orchestration.step import step
from flows.registry import versions
from flows.registry.champion import return_to_previous
from flows.registry.lock import promotion
from flows.tracking.store import connect


@step("find model", keeps_result=False)
def find_model(version: int, env_id: str) -> str:
    """Name of the environment's registered model, which has this version."""
    name = versions.model_name(env_id)
    versions.get_version(connect(), name, version)
    return name


@step("roll back", keeps_result=False)
def roll_back(name: str) -> int:
    """Return to the previous champion. Returns its version."""
    client = connect()
    with promotion(client, name) as token:
        return return_to_previous(client, name, token, str(flow_run_id()))
