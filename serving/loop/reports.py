"""What the closed loop reports, and what an adaptation reports to it."""

from typing import Annotated, Any, Final, Literal, Protocol

from msgspec import Meta, Struct
from starlette.exceptions import HTTPException

MOST_STAGES: Final = 40
"""Of an adaptation."""

Text = Annotated[str, Meta(max_length=500)]
Link = Annotated[str, Meta(pattern="^https?://", max_length=500)]
Reported = Literal[
    "started", "experience", "identified", "memory", "rehearsed", "confirmed", "training", "gate", "promoted",
    "recovered", "refused", "waiting", "rolled back", "failed",
]  # fmt: skip


class Sender(Protocol):
    """The sender of drift events, as far as the page shows it."""

    trouble: str


class Drift(Struct, frozen=True, kw_only=True):
    """A noticed change: the world is no longer the one that a version was trained for."""

    id: str
    version: str
    noticed_at: float
    """Seconds since 1970."""
    since: int
    """Id of a transition that is certainly after the change."""
    finding: str
    """What has changed, as a sentence for a person."""
    evidence: dict[str, float]


class PlayedEpisode(Struct, frozen=True, kw_only=True):
    """An episode that one version played to its end."""

    version: str
    episodic_return: float
    disturbed: bool
    """Whether a viewer pushed."""
    ended_at: float
    truncated: bool


class PresentEpisode(Struct, frozen=True, kw_only=True):
    """The episode that plays."""

    version: str
    step: int
    disturbed: bool


class Report(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The progress of an adaptation, reported by the run that carries it out."""

    drift: str
    stage: Reported
    text: Text = ""
    progress: Annotated[float, Meta(ge=0, le=1)] | None = None
    links: Annotated[dict[Text, Link], Meta(max_length=8)] = {}
    world: dict[str, Any] | None = None
    """With `identified`, the world that the next swapped-in version is expected to play in; with `recovered` and
    `confirmed`, the world that the version now playing is expected to play in."""


class StageReport(Struct, frozen=True, kw_only=True):
    """A stage of an adaptation: a reported one, or one that this server observed itself (swapped, as predicted)."""

    stage: str
    text: str
    at: float
    """When it began."""
    progress: float | None = None
    links: dict[str, str] = {}


def add_report(stages: list[StageReport], report: Report, now: float) -> None:
    """Append a reported stage, or update the last one if it is the same.

    Raises:
        HTTPException: 409 for more than MOST_STAGES.
    """
    if stages and stages[-1].stage == report.stage:
        now = stages.pop().at
    elif len(stages) >= MOST_STAGES:
        raise HTTPException(409, f"an adaptation has at most {MOST_STAGES} stages")
    stages.append(
        StageReport(stage=report.stage, text=report.text, at=now, progress=report.progress, links=report.links)
    )


class Playing(Struct, frozen=True, kw_only=True):
    """What plays in a changed world: this server's choice among the candidates that it rehearsed there."""

    name: str
    """What is undone in front of the policy, or what plays in its place; empty for the policy as it is."""
    text: str
    """The same as a sentence."""
    rehearsed_return: float
    """Mean return of its rehearsal, scaled to 500 steps."""
    holds: bool
    """Whether it balanced nearly all of the rehearsal; otherwise no candidate did."""
    at: float
    """Seconds since 1970 when it began to play."""


class Adaptation(Struct, frozen=True, kw_only=True):
    """The latest drift, even if it is over, and the stages of the adaptation to it."""

    drift: Drift | None
    stages: list[StageReport]
    playing: Playing | None
    """None before anything was rehearsed, and once the policy plays as it is again."""
