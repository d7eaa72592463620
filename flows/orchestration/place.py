"""Where a verb runs: as a run of a deployment if Prefect has it, otherwise in this process. One line says which."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from flows.orchestration.console import note, phase
from flows.orchestration.flow_run import api_is_named

if TYPE_CHECKING:
    from prefect.client.schemas.objects import State


def run_elsewhere(deployment: str, parameters: Mapping[str, Any], *, why_here: str = "") -> "State[Any] | None":
    """Run a deployment to its end, if the Prefect API that is named has it.

    Args:
        deployment: name of the flow and the deployment, with a slash between them.
        parameters: those that differ from the deployment's own.
        why_here: why a worker cannot do this; "" if it can.

    Returns:
        The last state of the flow run; None if the verb is to run in this process.

    Raises:
        PrefectError: if the API does not answer.
        InputError: if it refuses the login, or the run was asked for something impossible.
        FlowRunError: if the run did not complete.
    """
    if not api_is_named():
        note("runs here, without Prefect")
        return None
    with phase("connect to Prefect"):
        from flows.orchestration.api import require_api
        from flows.orchestration.deployments import run_deployment

        require_api()
    if why_here:
        note(f"runs here: {why_here}")
        return None
    state = run_deployment(deployment, parameters)
    if state is None:
        note(f"runs here: Prefect has no deployment {deployment}")
    return state
