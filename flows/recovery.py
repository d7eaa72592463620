"""Whether the stage stands again: what the show's status says of the version that was promoted."""

import statistics
from typing import Any, Final, Literal

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
