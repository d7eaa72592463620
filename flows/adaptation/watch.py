"""Whether the promoted version balances: it is judged by the server's status, and rolled back if it does worse."""

import statistics
import time
from typing import Any, Final, Literal

from dqn.environments.world import NOMINAL
from dqn.seeding import TEST, stream_seed
from flows.adaptation import beyond_cartpole
from flows.adaptation.timeline import Adaptation
from flows.failures.errors import one_line
from flows.orchestration.flow_run import flow_run_id
from flows.orchestration.step import step
from flows.registry import versions
from flows.registry.evaluation import play, threshold_of
from flows.registry.history import return_to_previous
from flows.registry.lock import promotion
from flows.registry.returns import Returns
from flows.tracking.attempt import Attempt
from flows.tracking.store import connect

Verdict = Literal["recovered", "fell", "unsure"]

ENOUGH_STEPS: Final = 250
"""An episode that has lasted this long, five seconds, counts as balanced."""
FALLS: Final = 2
"""Number of episodes that end early after which a version is given up."""


def verdict(status: dict[str, Any], version: int, since: float) -> Verdict:
    """Judge a version by the undisturbed episodes that it ended after a time.

    Args:
        status: of the server.
        version: the promoted version.
        since: seconds since 1970, the time of the promotion.
    """
    lengths = _lengths(status, version, since)
    if any(balanced for _, balanced in lengths):
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
    """Mean return of the undisturbed episodes that a version ended after a time; None if there are none."""
    returns = [returned for returned, _ in _lengths(status, version, since)]
    return statistics.fmean(returns) if returns else None


def changed_by(status: dict[str, Any], drift: str) -> float | None:
    """The end of the first episode that certainly ended after a change: later episodes were played in the new world.

    Args:
        status: of the server.
        drift: id of the drift.

    Returns:
        Seconds since 1970; None if the status has another drift or none.
    """
    noticed = status.get("drift") or {}
    if noticed.get("id") != drift or "noticed_at" not in noticed:
        return None
    moment = float(noticed["noticed_at"])
    ended = [float(episode["ended_at"]) for episode in status.get("recent_episodes", ())]
    return min((each for each in ended if each >= moment), default=moment)


def _lengths(status: dict[str, Any], version: int, since: float) -> list[tuple[float, bool]]:
    """Return of each episode, and whether it was balanced."""
    return [
        (float(episode["episodic_return"]), bool(episode["truncated"]) or episode["episodic_return"] >= ENOUGH_STEPS)
        for episode in status.get("recent_episodes", ())
        if int(episode["version"]) == version and not episode["disturbed"] and episode["ended_at"] > since
    ]


WATCHED_SECONDS: Final = 60.0
POLL_SECONDS: Final = 0.5


def is_over(adaptation: Adaptation) -> bool:
    """Whether the server reports no drift any more, so that the adaptation is not needed."""
    try:
        return adaptation.show.status().get("drift", "unknown") is None
    except Exception as error:  # the gate and `watched` decide without it
        adaptation.note("asking", one_line(error))
        return False


def judged(
    adaptation: Adaptation, version: int, expected: Returns | None = None
) -> tuple[Verdict, dict[str, Any], float]:
    """Poll the server until a version balances or falls, for `WATCHED_SECONDS` at most.

    Beyond CartPole, an episode that lasts is no success: there `expected` has the returns `[N]` of the version at the
    gate, and it recovers if it returns as much.

    Returns:
        The verdict, the server's last status, and the seconds since 1970 from which on episodes counted.
    """
    seconds = WATCHED_SECONDS if expected is None else beyond_cartpole.WATCHED_SECONDS
    since, deadline = time.time(), time.monotonic() + seconds
    status: dict[str, Any] = {}
    outcome: Verdict = "unsure"
    while outcome == "unsure" and time.monotonic() < deadline:
        try:
            status = adaptation.show.status()
            if expected is None:
                outcome = verdict(status, version, since)
            else:
                outcome = beyond_cartpole.verdict([each for each, _ in _lengths(status, version, since)], expected)
        except Exception as error:  # it may be restarting
            adaptation.note("watching", one_line(error))
        if outcome == "unsure":
            time.sleep(POLL_SECONDS)
    return outcome, status, since


def watched(
    adaptation: Adaptation,
    model: str,
    version: int,
    before: int | None,
    world: dict[str, Any],
    expected: Returns | None = None,
) -> tuple[str, str]:
    """Poll the server until the version is `judged`. If it fails, roll back to the previous one if that did better.

    Both are compared by their returns in the present world: this version's since its promotion, the previous one's
    since the change.
    """
    outcome, status, since = judged(adaptation, version, expected)
    if outcome == "recovered":
        held = "balances" if expected is None else f"returns what it did at the gate ({expected.mean():.0f})"
        return adaptation.end("recovered", f"version {version} {held}", world=world)
    mine = mean_return(status, version, since)
    if mine is None:
        return adaptation.end(
            "waiting",
            f"version {version} was promoted, but has played no episode: open the page to see whether it balances",
        )
    began = adaptation.events[0].at if adaptation.events else since
    changed = changed_by(status, adaptation.show.drift) or min(began, since)
    theirs = mean_return(status, before, changed) if before and before != version else None
    if theirs is None or mine >= theirs:
        compared = "has returned nothing since the change" if theirs is None else "was no better"
        return adaptation.end(
            "refused",
            f"version {version} does not {'balance' if expected is None else 'recover'} (mean return {mine:.0f}); it "
            f"stays, as the one before {compared}. A person is needed",
        )
    back = roll_back_from(model, version)
    return adaptation.end(
        "rolled back",
        f"version {version} returned {mine:.0f} on stage, version {before} {theirs:.0f}: version {back} plays again. A "
        "person is needed",
    )


@step("champion before")
def champion_of(model: str, attempt: Attempt) -> int | None:
    """The champion; before a promotion, the one that may be returned to."""
    return versions.version_of(connect(), model, versions.CHAMPION)


@step("roll back", keeps_result=False)
def roll_back_from(model: str, version: int) -> int:
    """Return to the previous champion, unless another version was promoted since. Returns the champion."""
    client = connect()
    with promotion(client, model) as token:
        champion = versions.version_of(client, model, versions.CHAMPION)
        if champion is not None and champion != version:
            return champion
        return return_to_previous(client, model, token, str(flow_run_id()))


def elsewhere(model: str, version: int, before: int | None) -> str:
    """A sentence about the returns of both versions in the nominal world, which the gate does not test."""
    parts = []
    for number in dict.fromkeys(filter(None, (version, before))):
        policy = versions.download(model, number).policy
        returns = play(policy, NOMINAL, seed=stream_seed(number, TEST, 1))
        parts.append(f"version {number} returns {returns.mean():.0f}")
    return f"in the nominal world {', '.join(parts)}; threshold {threshold_of(policy.metadata.environment) or 0:g}"
