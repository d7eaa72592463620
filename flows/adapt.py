"""From a drift that was noticed to a version that stands again: the deployment `adapt-policy`.

What policy and world really produced is fetched from the server that plays; the world is identified from it; a version
that knows such a world is remembered, or one is trained in it; the gate, the promotion and a look at the stage are the
rest. What the server's viewers have done to the world is not asked: nobody could in a real one.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Literal

from mlflow import MlflowClient

from flows.adaptation.identify import identified
from flows.adaptation.known_worlds import remembered
from flows.adaptation.retrain import trained
from flows.adaptation.timeline import Adaptation, RefusedError, TakenError, begin_adaptation, end_adaptation
from flows.adaptation.watch import champion_of, elsewhere, is_over, watched
from flows.errors import InputError, one_line
from flows.names import environment_of
from flows.orchestration.flow_run import flow_run_id
from flows.registry.champion import promote
from flows.registry.evaluation import evaluate_elsewhere
from flows.registry.gate_tag import leave_undecided, undecided_if_ended
from flows.reporting.draw import draw_population, draw_version
from flows.reporting.report import report
from flows.serving_client import Show
from flows.tracking.attempt import Attempt, FencedClient, StaleAttemptError
from flows.tracking.endings import failing
from flows.training.population import checkpoint_path
from flows.training.steps import finish, test_agents

Mode = Literal["automatic", "approve", "off"]
APPROVAL_SECONDS: Final = 3600


def adapt_policy(
    drift: str,
    model: str,
    version: str,
    since: int,
    serving: str,
    finding: str = "",
    mode: Mode = "automatic",
    most_an_hour: int = 20,
    checkpoint_dir: str = "checkpoints",
) -> tuple[str, str]:
    """Find out what the world is like now, and bring a version on stage that holds it.

    Args:
        drift: id of what was noticed.
        model: registered model whose champion plays.
        version: that played when it was noticed.
        since: id of the first transition that is surely after the change.
        serving: URL of the server that noticed it.
        finding: what it saw, in words.
        mode: `approve` waits for a click in Prefect before a promotion; `off` does nothing.
        most_an_hour: adaptations of the model that may begin within an hour.
        checkpoint_dir: where the training state is kept until training is over.

    Returns:
        How it ended, as the last stage that the page shows, and a sentence about it.
    """
    show = Show(url=serving, drift=drift)
    try:
        require_allowed(mode)
        attempt = begin_adaptation(show, model, finding, most_an_hour)
    except TakenError as error:
        return "taken", str(error)
    except RefusedError as error:
        show.tell("refused", str(error))
        return "refused", str(error)
    adaptation = Adaptation(show=show, attempt=attempt)
    with ending(adaptation):
        adaptation.tell("started", f"version {version}: {finding}")
        world = identified(adaptation, since)
        env_id = environment_of(model)
        chosen = remembered(adaptation, model, env_id, world)
        training = None
        if chosen is None:
            chosen, evaluation, training = trained(adaptation, env_id, int(version), world, checkpoint_dir)
        else:
            evaluation = evaluate_elsewhere(model, chosen, world, attempt)
        with ending_training(training, model, chosen, checkpoint_dir):
            if mode == "approve":
                wait_for_approval(adaptation, model, chosen)
            if is_over(adaptation):
                again = f"the world is as version {version} knows it again: nothing is promoted"
                if training:
                    leave_undecided(FencedClient(client=MlflowClient(), attempt=training), model, chosen, again)
                    finish(training)
                return adaptation.end("recovered", again)
            before = champion_of(model, attempt)
            gate = promote(model, chosen, evaluation, attempt, world=world)
            adaptation.tell("gate", gate)
            if chosen == before:
                adaptation.tell("promoted", f"version {chosen} plays already")
            elif gate.startswith("passed"):
                adaptation.tell("promoted", f"version {chosen}", version=(model, chosen))
            else:
                raise RefusedError(f"version {chosen} was not promoted, {gate}: train or promote by hand")
            outcome = watched(adaptation, model, chosen, before, world)
            if training:  # nobody waited for these
                agents = test_agents(training.run_id, training)
                draw_population(training.run_id, agents, training)
                draw_version(model, chosen, evaluation, training)
                report(training.run_id, chosen, gate, agents, evaluation, training)
                finish(training)
        adaptation.note("nominal", elsewhere(model, chosen, before))
        return outcome
    return adaptation.outcome


def require_allowed(mode: Mode) -> None:
    """Refuse to adapt where a person has turned it off.

    Raises:
        RefusedError: if so.
    """
    if mode == "off":
        raise RefusedError("adaptation is off (parameter `mode` of the deployment): adapt or train by hand")


@contextmanager
def ending(adaptation: Adaptation) -> Iterator[None]:
    """However the block ends, page, run and artifact say how."""
    try:
        yield
    except RefusedError as error:
        adaptation.tell("refused", str(error))
        end_adaptation(adaptation, "FINISHED")
    except StaleAttemptError:
        raise  # the newer attempt says how it ends
    except BaseException as error:
        adaptation.tell("failed", f"{one_line(error)}: the log of the flow run says more")
        try:
            end_adaptation(adaptation, "FAILED" if isinstance(error, Exception) else "KILLED")
        except Exception as second:  # the first error is the one to report
            error.add_note(f"the end of the adaptation could not be kept: {one_line(second)}")
        raise
    else:
        end_adaptation(adaptation, "FINISHED")


@contextmanager
def ending_training(training: Attempt | None, model: str, version: int, checkpoint_dir: str) -> Iterator[None]:
    """However the block ends, so does the run of the adaptation's training, and the version's gate tag says why."""
    if training is None:
        yield
        return
    fenced, refusal = FencedClient(client=MlflowClient(), attempt=training), None
    with failing(fenced, checkpoint_path(checkpoint_dir, training.run_id)):
        try:
            with undecided_if_ended(fenced, model, version):
                yield
        except RefusedError as error:  # by the gate or a person: the training itself has done what it was begun for
            refusal = error
            finish(training)
    if refusal:
        raise refusal


def wait_for_approval(adaptation: Adaptation, model: str, version: int) -> None:
    """Pause the flow run until somebody resumes it on its page.

    Raises:
        RefusedError: if nobody does within an hour.
    """
    if not flow_run_id():
        raise InputError("mode approve waits for a click on the page of a flow run: run the deployment adapt-policy")
    from prefect.exceptions import FlowPauseTimeout
    from prefect.flow_runs import pause_flow_run

    adaptation.tell("waiting", f"version {version} of {model} is promoted when the flow run is resumed in Prefect")
    try:
        pause_flow_run(timeout=APPROVAL_SECONDS, poll_interval=2, key=f"promote-{version}")
    except FlowPauseTimeout as error:
        raise RefusedError(f"nobody approved version {version} within an hour: promote it by hand") from error
