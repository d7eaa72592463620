"""What happened to the world and what is done about it, as the page tells it."""

from collections.abc import Sequence
from typing import Final, Literal

from msgspec import Struct

from serving.loop.reports import Drift, StageReport

State = Literal["calm", "changed", "drift", "over"]
Kind = Literal["", "good", "bad"]
Change = tuple[float, bool]
"""Time of a viewer's change of the world, and whether it undid all changes."""
NAMES: Final = {
    "started": "A run began",
    "experience": "Read what happened",
    "identified": "Knows the new world",
    "memory": "Looked for a network that knows it",
    "rehearsed": "Rehearsed the old one",
    "confirmed": "Healed without a training",
    "training": "Training a network",
    "gate": "Testing it against the old one",
    "promoted": "It is better",
    "swapped": "A new network plays",
    "recovered": "Healed",
    "as predicted": "Calm again",
    "refused": "The old one stays",
    "waiting": "Waits for a person",
    "rolled back": "Taken back",
    "failed": "Failed",
}
KINDS: Final[dict[str, Kind]] = {
    **dict.fromkeys(("recovered", "confirmed", "as predicted"), "good"),
    **dict.fromkeys(("refused", "rolled back", "failed"), "bad"),
}
_IDLE: Final = "Break its world: the server notices from the steps alone, finds out what has changed, and heals."
_ALONE: Final = "Under make stack, a run also trains a network for this world, and promotes it if it passes."
_AWAITED: Final = "A run is being started. It takes some seconds."


class Entry(Struct, frozen=True, kw_only=True):
    """One line of a timeline."""

    name: str
    at: float
    """Seconds since 1970."""
    text: str = ""
    kind: Kind = ""
    progress: float | None = None
    """Of a step that goes on, from 0 to 1."""
    links: dict[str, str] = {}


class Told(Struct, frozen=True, kw_only=True):
    """The timeline of the latest drift with its headline."""

    title: str
    state: State
    entries: list[Entry]
    waits: bool
    """Whether a next entry is awaited."""
    settles: bool
    """Whether the headline is of the past, and is replaced after some time."""
    hint: str


def tell(
    drift: Drift | None, over: bool, stages: Sequence[StageReport], changes: Sequence[Change], heals: bool
) -> Told:
    """The latest drift, its stages and the changes of the world around it; `heals` where runs can be started."""
    state: State = "over" if drift else "calm"
    lasts, broken = drift is not None and not over, bool(changes) and not changes[-1][1]
    entries = _entries(drift, stages, changes) if drift else [change_entry(change) for change in changes[-1:] if broken]
    later = sum(at > drift.noticed_at for at, _ in changes) if drift else 0
    unnoticed = broken and not lasts and (drift is None or changes[-1][0] >= entries[-1].at)
    title = "All is as it was trained for"
    if drift and lasts:
        title, state = f"Noticed: {drift.finding}", "drift"
    elif unnoticed:
        title, state = "Changed. Not noticed yet", "changed"
    elif drift:
        ends = [stage.stage for stage in stages if KINDS.get(stage.stage) == "good"]
        healed = f"Healed. {drift.finding[:1].upper()}{drift.finding[1:]}, and the version that plays balances."
        title = healed if ends[-1:] in (["recovered"], ["confirmed"]) else "Calm again"
    hint = "" if entries else _IDLE
    if lasts:
        hint = f"Changed {'once more' if later == 1 else f'{later} times'} since. " if later else ""
        hint += ("" if stages else _AWAITED) if heals else _ALONE
    return Told(
        title=title,
        state=state,
        entries=entries,
        waits=lasts and heals and entries[-1].kind != "bad",
        settles=state == "over" and not broken,
        hint=hint,
    )


def _entries(drift: Drift, stages: Sequence[StageReport], changes: Sequence[Change]) -> list[Entry]:
    """The change before the drift, the drift, and in the order of time the stages and later changes."""
    before = [change_entry(change) for change in changes if change[0] <= drift.noticed_at][-1:]
    noticed = Entry(name="The server noticed", at=drift.noticed_at, text=f"from the steps of version {drift.version}")
    linked, told = set[str](), list[Entry]()
    for stage in stages:
        fresh = {name: url for name, url in stage.links.items() if url not in linked}  # each place is linked once
        linked.update(fresh.values())
        name, kind = NAMES.get(stage.stage, stage.stage), KINDS.get(stage.stage, "")
        progress = stage.progress if stage is stages[-1] else None
        told.append(Entry(name=name, at=stage.at, text=stage.text, kind=kind, progress=progress, links=fresh))
    later = [change_entry(change) for change in changes if change[0] > drift.noticed_at]
    return [*before, noticed, *sorted([*told, *later], key=lambda entry: entry.at)]


def change_entry(change: Change) -> Entry:
    """A viewer's change of the world."""
    at, right = change
    return Entry(name="The world was put right" if right else "The world was changed", at=at, text="by a viewer")
