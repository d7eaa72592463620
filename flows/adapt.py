"""From a drift that was noticed to a version that stands again: the deployment `adapt-policy`.

What policy and world really produced is fetched from the server that plays; the world is identified from it; a version
that knows such a world is remembered, or one is trained in it; the gate, the promotion and a look at the stage are the
rest. What the server's viewers have done to the world is not asked: nobody could in a real one.
"""

import dataclasses
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, Literal

import mlflow
from mlflow import MlflowClient

from dqn.environments.world import NOMINAL, World
from dqn.identification.identify import ENVIRONMENTS, identify
from dqn.identification.record import UnexplainedError
from dqn.presets import PRESETS, PresetName
from dqn.seeding import TEST, stream_seed
from flows import registry
from flows.adaptation import Adaptation, RefusedError, TakenError, begin_adaptation, end_adaptation
from flows.attempt import Attempt, StaleAttemptError, begin, fenced
from flows.endings import failing
from flows.evaluation import evaluate, evaluate_elsewhere, play, threshold_of
from flows.flow_run import flow_run_id
from flows.gate_tag import leave_undecided, undecided_if_ended
from flows.memory import passing_version
from flows.names import environment_of
from flows.parameters import InputError
from flows.pictures import draw_population, draw_version
from flows.population import checkpoint_path
from flows.promote import promote, promotion, return_to_previous
from flows.recovery import changed_by, mean_return, verdict
from flows.report import report
from flows.show import ADAPTATION_TAG, SHOW_TAG, Show, as_experience
from flows.stage import stage
from flows.stages import export, finish, register, test_agents, train
from flows.tracking import complete_runs, connect, one_line, open_run

Mode = Literal["automatic", "approve", "off"]

PRESET: Final[PresetName] = "cartpole"
NUM_AGENTS: Final = 8
MAX_UPDATES: Final = 2_000
"""Half of the preset's: where one agent holds the world, nobody waits for those that need longer."""
WANTED: Final = 60
"""Transitions that are waited for; identification takes half of them at the least."""
NEWEST: Final = 300
"""Transitions that are looked at."""
PATIENCE: Final = 30.0
"""Seconds to wait for them: somebody must watch, or nothing is played."""
LOOKS: Final = 3
"""Experiences that may be contradictory before a person is asked: the world may change while it is looked at."""
WATCHED_SECONDS: Final = 60.0
POLL_SECONDS: Final = 0.5
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
                    leave_undecided(MlflowClient(), model, chosen, training, again)
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
    client, refusal = MlflowClient(), None
    with failing(client, training, checkpoint_path(checkpoint_dir, training.run_id)):
        try:
            with undecided_if_ended(client, model, version, training):
                yield
        except RefusedError as error:  # by the gate or a person: the training itself has done what it was begun for
            refusal = error
            finish(training)
    if refusal:
        raise refusal


def identified(adaptation: Adaptation, since: int) -> dict[str, Any]:
    """The world as the experience has it.

    Raises:
        RefusedError: if none explains it.
    """
    refusal = ""
    for _ in range(LOOKS):
        lived, count, since = fetch(adaptation.show.url, since, adaptation.attempt)
        adaptation.tell("experience", f"{count} transitions")
        found = identify_world(lived, adaptation.attempt)
        if not found["refusal"]:
            world: dict[str, Any] = found["world"]
            adaptation.tell("identified", found["text"], world=world)
            return world
        refusal = found["refusal"]
    raise RefusedError(f"{refusal}. Nothing was trained or promoted: look at the system, or train by hand")


@stage("fetch experience")
def fetch(url: str, since: int, attempt: Attempt) -> tuple[str, int, int]:
    """Keep what was lived through after a transition. Returns the artifact, their number and the newest one's id."""
    client, show = connect(), Show(url=url, drift="")
    deadline = time.monotonic() + PATIENCE
    while True:
        answer = show.experience(since)
        count = len(answer["transitions"].get("id", ()))
        if count >= WANTED or time.monotonic() > deadline:
            break
        time.sleep(POLL_SECONDS)
    file = f"experience/since-{since}.json"
    fenced(client, attempt).log_dict(attempt.run_id, answer, file)
    return f"{client.get_run(attempt.run_id).info.artifact_uri}/{file}", count, int(answer["next"])


@stage("identify world")
def identify_world(lived: str, attempt: Attempt) -> dict[str, Any]:
    """The world that explains an experience: `world` and `text`, or the `refusal`."""
    answer = mlflow.artifacts.load_dict(lived)
    try:
        if answer["env_id"] not in ENVIRONMENTS:
            raise UnexplainedError(f"the worlds of {answer['env_id']} cannot be identified, those of CartPole can")
        found = identify(as_experience(answer["transitions"], NEWEST), World.from_dict(answer["world"]))
    except UnexplainedError as error:
        return {"refusal": str(error)}
    result = {"world": found.world.to_dict(), "text": f"{found.world}: {found}", "refusal": ""}
    estimates = {name: dataclasses.asdict(estimate) for name, estimate in found.changed.items()}
    content = {**result, "changed": estimates, "explained": found.explained, "noise": found.noise}
    fenced(connect(), attempt).log_dict(attempt.run_id, content, "identification.json")
    return result


def remembered(adaptation: Adaptation, model: str, env_id: str, world: dict[str, Any]) -> int | None:
    """A registered version that holds the world, if one does."""
    version, tried = remember(model, env_id, world, adaptation.attempt)
    adaptation.tell("memory", tried if version is None else f"version {version} holds this world: {tried}")
    return version


@stage("remember")
def remember(model: str, env_id: str, world: dict[str, Any], attempt: Attempt) -> tuple[int | None, str]:
    """Play the versions whose world is near. Returns the one that holds this world, if any, and what was tried."""
    seed = int(attempt.run_id[:8], 16)
    return passing_version(connect(), model, env_id, World.from_dict(world), seed=seed)


def trained(
    adaptation: Adaptation, env_id: str, seed: int, world: dict[str, Any], checkpoint_dir: str
) -> tuple[int, str, Attempt]:
    """A new version, trained in the world: its number, its evaluation, and the attempt at its run."""
    training = begin_training(env_id, seed, world, adaptation.show.url, adaptation.show.drift, checkpoint_dir)
    adaptation.tell("training", f"{NUM_AGENTS} agents", progress=0.0, run=training.run_id)
    with failing(MlflowClient(), training, checkpoint_path(checkpoint_dir, training.run_id)):
        run_id = train(training.run_id, checkpoint_dir, training)
        version, model = register(run_id, export(run_id, training), training), registry.model_name(env_id)
        with undecided_if_ended(MlflowClient(), model, version, training):
            evaluation = evaluate(model, version, training, stressed=False)
        return version, evaluation, training


@stage("begin training", keeps_result=False)
def begin_training(
    env_id: str, seed: int, world: dict[str, Any], serving: str, drift: str, checkpoint_dir: str = "checkpoints"
) -> Attempt:
    """Begin this attempt at the training run of the adaptation."""
    client = connect()
    config = dataclasses.replace(
        PRESETS[PRESET],
        env_id=env_id,
        seed=seed,
        num_agents=NUM_AGENTS,
        max_updates=MAX_UPDATES,
        acceptance_epsilon=0.0,  # what is held in a hard world is hardly ever held with random actions on top
        world=World.from_dict(world),
    )
    tags = {ADAPTATION_TAG: drift, SHOW_TAG: serving}
    run_id = open_run(client, config, preset=PRESET, flow_run_id=flow_run_id(), tags=tags)
    attempt = begin(client, run_id)
    with failing(client, attempt, checkpoint_path(checkpoint_dir, run_id)):
        complete_runs(client, attempt, config, flow_run_id=flow_run_id())
    return attempt


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


def is_over(adaptation: Adaptation) -> bool:
    """Whether the show finds the world as it was again, while it was prepared for another."""
    try:
        return adaptation.show.status().get("drift", "unknown") is None
    except Exception as error:  # the gate and the last look decide without it
        adaptation.note("asking", one_line(error))
        return False


def watched(
    adaptation: Adaptation, model: str, version: int, before: int | None, world: dict[str, Any]
) -> tuple[str, str]:
    """Look at the stage until the version stands; where it does not, return to the one before if that did better.

    What counts is what each returned in the world as it is now: this version since its promotion, the one before since
    the change.
    """
    since, deadline = time.time(), time.monotonic() + WATCHED_SECONDS
    seen: dict[str, Any] = {}
    outcome = "unsure"
    while outcome == "unsure" and time.monotonic() < deadline:
        try:
            seen = adaptation.show.status()
            outcome = verdict(seen, version, since)
        except Exception as error:  # it may be starting again; what it says decides, its silence does not
            adaptation.note("watching", one_line(error))
        if outcome == "unsure":
            time.sleep(POLL_SECONDS)
    if outcome == "recovered":
        return adaptation.end("recovered", f"version {version} stands", world=world)
    mine = mean_return(seen, version, since)
    if mine is None:
        return adaptation.end(
            "waiting", f"version {version} was promoted, and nobody watches: open the page to see whether it stands"
        )
    began = adaptation.events[0].at if adaptation.events else since
    changed = changed_by(seen, adaptation.show.drift) or min(began, since)
    theirs = mean_return(seen, before, changed) if before and before != version else None
    if theirs is None or mine >= theirs:
        compared = "has returned nothing since the change" if theirs is None else "was no better"
        return adaptation.end(
            "refused",
            f"version {version} does not stand (mean return {mine:.0f}); it stays, as the one before {compared}. "
            "A person is needed",
        )
    back = roll_back_from(model, version)
    return adaptation.end(
        "rolled back",
        f"version {version} returned {mine:.0f} on stage, version {before} {theirs:.0f}: version {back} plays again. A "
        "person is needed",
    )


@stage("champion before")
def champion_of(model: str, attempt: Attempt) -> int | None:
    """Who plays before anything is promoted."""
    return registry.version_of(connect(), model, registry.CHAMPION)


@stage("roll back", keeps_result=False)
def roll_back_from(model: str, version: int) -> int:
    """Return to the previous champion, unless another than this version has been promoted. Returns who plays."""
    client = connect()
    with promotion(client, model) as token:
        champion = registry.version_of(client, model, registry.CHAMPION)
        if champion is not None and champion != version:
            return champion
        return return_to_previous(client, model, token, str(flow_run_id()))


def elsewhere(model: str, version: int, before: int | None) -> str:
    """What the gate did not ask: how both do in the nominal world."""
    parts = []
    for number in dict.fromkeys(filter(None, (version, before))):
        policy = registry.download(model, number).policy
        returns = play(policy, NOMINAL, seed=stream_seed(number, TEST, 1))
        parts.append(f"version {number} returns {returns.mean():.0f}")
    return f"in the nominal world {', '.join(parts)}; threshold {threshold_of(policy.metadata.env_id) or 0:g}"
