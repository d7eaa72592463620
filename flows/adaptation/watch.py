"""Whether the stage stands again: what the show's status says of the version that was promoted."""

import statistics
import time
from typing import Any, Final, Literal

from dqn.environments.world import NOMINAL
from dqn.seeding import TEST, stream_seed
from flows.adaptation.timeline import Adaptation
from flows.errors import one_line
from flows.orchestration.flow_run import flow_run_id
from flows.orchestration.step import step
from flows.registry import versions
from flows.registry.champion import return_to_previous
from flows.registry.evaluation import play, threshold_of
from flows.registry.lock import promotion
from flows.tracking.attempt import Attempt
from flows.tracking.store import connect

Verdict = Literal["recovered", "fell", "unsure"]

ENOUGH_STEPS: Final = 250
"""An episode that has lasted this long, five seconds, is held."""
FALLS: Final = 2
"""Episodes of a version that end early before it is given up."""


def verdict(status: dict[str, Any], version: int, since: float) -> Verdict:
    """What the episodes that a version played undisturbed after a moment say of it.

    Args:
        status: of the show.
        version: that was promoted.
        since: seconds since 1970; who began before may have begun in another version's hands.
    """
    lengths = _lengths(status, version, since)
    if any(held for _, held in lengths):
        return "recovered"
    present = status.get("episode")
    if (
        present
        and int(present["version"]) == version
        and not present["disturbed"]
        and int(present["step"]) >= ENOUGH_STEPS
    ):
        return "recovered"
    return "fell" if len(lengths) >= FALLS else "unsure"


def mean_return(status: dict[str, Any], version: int, since: float) -> float | None:
    """Mean return of the undisturbed episodes that a version ended after a moment; None where there is none."""
    returns = [returned for returned, _ in _lengths(status, version, since)]
    return statistics.fmean(returns) if returns else None


def changed_by(status: dict[str, Any], drift: str) -> float | None:
    """When the first episode ended that was surely over after a change: those after it were played in the new world.

    Args:
        status: of the show.
        drift: id of what was noticed.

    Returns:
        Seconds since 1970; None where the status speaks of another drift or of none.
    """
    noticed = status.get("drift") or {}
    if noticed.get("id") != drift or "noticed_at" not in noticed:
        return None
    moment = float(noticed["noticed_at"])
    ended = [float(episode["ended_at"]) for episode in status.get("recent_episodes", ())]
    return min((each for each in ended if each >= moment), default=moment)


def _lengths(status: dict[str, Any], version: int, since: float) -> list[tuple[float, bool]]:
    """Return of each episode, and whether it was held."""
    return [
        (float(episode["episodic_return"]), bool(episode["truncated"]) or episode["episodic_return"] >= ENOUGH_STEPS)
        for episode in status.get("recent_episodes", ())
        if int(episode["version"]) == version and not episode["disturbed"] and episode["ended_at"] > since
    ]


WATCHED_SECONDS: Final = 60.0
POLL_SECONDS: Final = 0.5


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


@step("champion before")
def champion_of(model: str, attempt: Attempt) -> int | None:
    """Who plays before anything is promoted."""
    return versions.version_of(connect(), model, versions.CHAMPION)


@step("roll back", keeps_result=False)
def roll_back_from(model: str, version: int) -> int:
    """Return to the previous champion, unless another than this version has been promoted. Returns who plays."""
    client = connect()
    with promotion(client, model) as token:
        champion = versions.version_of(client, model, versions.CHAMPION)
        if champion is not None and champion != version:
            return champion
        return return_to_previous(client, model, token, str(flow_run_id()))


def elsewhere(model: str, version: int, before: int | None) -> str:
    """What the gate did not ask: how both do in the nominal world."""
    parts = []
    for number in dict.fromkeys(filter(None, (version, before))):
        policy = versions.download(model, number).policy
        returns = play(policy, NOMINAL, seed=stream_seed(number, TEST, 1))
        parts.append(f"version {number} returns {returns.mean():.0f}")
    return f"in the nominal world {', '.join(parts)}; threshold {threshold_of(policy.metadata.env_id) or 0:g}"
