"""From a detected drift to a version that balances again: the deployment `adapt-policy`.

The flow fetches the transitions that were observed on the server and identifies the world from them. It then looks for
a registered version that solves this world. If none does, the champion is rehearsed there with the changes undone, as
the server plays it; a version is trained if that would gain. A known or trained version passes the gate, is promoted,
and its episodes on the server are checked. The flow never reads the server's setting of the world: no real system has
such a setting.

An event only starts the flow. What it says of the change and of what was done about it is shown, cut to `MOST_TEXT`
characters, and decides nothing.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Literal

from mlflow import MlflowClient

from dqn.identification import by_step
from flows.adaptation.confirm import confirmed
from flows.adaptation.identify import identified
from flows.adaptation.known_worlds import remembered
from flows.adaptation.retrain import trained
from flows.adaptation.timeline import Adaptation, RefusedError, TakenError, begin_adaptation, end_adaptation
from flows.adaptation.watch import champion_of, elsewhere, is_over, watched
from flows.failures.errors import InputError, one_line
from flows.names import environment_of
from flows.orchestration.flow_run import flow_run_id
from flows.registry.champion import promote
from flows.registry.evaluation import evaluate_elsewhere, read_played
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
MOST_TEXT: Final = 300
"""Characters of each of the event's texts."""


def adapt_policy(
    drift: str,
    model: str,
    version: str,
    since: int,
    serving: str,
    finding: str = "",
    playing: str = "",
    mode: Mode = "automatic",
    most_an_hour: int = 20,
    checkpoint_dir: str = "checkpoints",
) -> tuple[str, str]:
    """Identify the world as it is now, and promote a version that solves it if the champion does not with it undone.

    Args:
        drift: id of the drift.
        model: the registered model; its champion plays.
        version: the version that played when the drift was detected.
        since: id of the first transition that is certainly after the change.
        serving: URL of the server that detected the drift.
        finding: the server's description of the drift.
        playing: what the server plays since, and its rehearsed return.
        mode: `approve` waits for a click in Prefect before a promotion; `off` does nothing.
        most_an_hour: how many adaptations of the model may begin within an hour.
        checkpoint_dir: directory of the training state, which is kept until training is over.

    Returns:
        The last state that the page shows, and a sentence about it.
    """
    serving, known = (each.rstrip("/") for each in (serving, os.environ.get("SERVING_URL", serving)))
    if serving != known:
        named = serving[:MOST_TEXT]
        return "refused", f"the event names {named!r}, and SERVING_URL is {known}: nothing was asked or told"
    show, finding, playing = Show(url=serving, drift=drift), finding[:MOST_TEXT], playing[:MOST_TEXT]
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
        adaptation.tell("started", f"version {version[:20]}: {'. '.join(filter(None, (finding, playing)))}")
        world = identified(adaptation, model, since)
        env_id = environment_of(model)
        chosen = remembered(adaptation, model, env_id, world)
        if chosen is None and env_id not in by_step.ENVIRONMENTS and confirmed(adaptation, model, world):
            return adaptation.outcome
        training = None
        if chosen is None:
            chosen, evaluation, training = trained(adaptation, env_id, int(version), world, checkpoint_dir)
        else:
            evaluation = evaluate_elsewhere(model, chosen, world, attempt)
        with ending_training(training, model, chosen, checkpoint_dir):
            if mode == "approve":
                wait_for_approval(adaptation, model, chosen)
            if is_over(adaptation):
                again = f"the world is as version {version} expects it again: nothing is promoted"
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
            expected = read_played(evaluation).returns if env_id in by_step.ENVIRONMENTS else None
            outcome = watched(adaptation, model, chosen, before, world, expected)
            if training:  # the promotion has not waited for these
                agents = test_agents(training.run_id, training)
                draw_population(training.run_id, agents, training)
                draw_version(model, chosen, evaluation, training)
                report(training.run_id, chosen, gate, agents, evaluation, training)
                finish(training)
        adaptation.note("nominal", elsewhere(model, chosen, before))
        return outcome
    return adaptation.outcome


def require_allowed(mode: Mode) -> None:
    """Refuse to adapt if adaptation is turned off.

    Raises:
        RefusedError: if it is.
    """
    if mode == "off":
        raise RefusedError("adaptation is off (parameter `mode` of the deployment): adapt or train by hand")


@contextmanager
def ending(adaptation: Adaptation) -> Iterator[None]:
    """Report to the page, the run and the artifact how the block ends."""
    try:
        yield
    except RefusedError as error:
        adaptation.tell("refused", str(error))
        end_adaptation(adaptation, "FINISHED")
    except StaleAttemptError:
        raise  # the newer attempt reports the end
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
    """End the run of the adaptation's training as the block ends, and write the reason into the version's gate tag."""
    if training is None:
        yield
        return
    fenced, refusal = FencedClient(client=MlflowClient(), attempt=training), None
    with failing(fenced, checkpoint_path(checkpoint_dir, training.run_id)):
        try:
            with undecided_if_ended(fenced, model, version):
                yield
        except RefusedError as error:  # by the gate or a person: the training itself succeeded
            refusal = error
            finish(training)
    if refusal:
        raise refusal


def wait_for_approval(adaptation: Adaptation, model: str, version: int) -> None:
    """Pause the flow run until a person resumes it on its page in Prefect; the serving page says so.

    Raises:
        InputError: if there is no flow run to pause.
        RefusedError: if it is not resumed within an hour.
    """
    if not flow_run_id():
        raise InputError("mode approve waits for a click on the page of a flow run: run the deployment adapt-policy")
    from prefect.exceptions import FlowPauseTimeout
    from prefect.flow_runs import pause_flow_run

    adaptation.tell("waiting", f"version {version} of {model} is promoted when the flow run is resumed in Prefect")
    try:
        pause_flow_run(timeout=APPROVAL_SECONDS, poll_interval=2, key=f"promote-{version}")
    except FlowPauseTimeout as error:
        raise RefusedError(f"version {version} was not approved within an hour: promote it by hand") from error
