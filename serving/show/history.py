"""What became of a model's versions, and what happened in this server's show, in one timeline, the newest first."""

import time
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final

from serving.inference.shadow import ShadowStatus
from serving.loop.closed_loop import ClosedLoop
from serving.loop.reports import Drift, StageReport
from serving.loop.timeline import KINDS, NAMES, Change, Entry, Kind, change_entry
from serving.models.follower import Models
from serving.models.source import Version

MOST: Final = 100


def history(
    models: Models,
    loop: ClosedLoop,
    changes: Sequence[Change],
    *,
    mlflow_url: str,
    shadow: ShadowStatus | None = None,
) -> list[Entry]:
    """At most `MOST` entries: versions with their returns, promotions, drifts, and changes of the world by viewers.

    The registry remembers versions and when each last became champion. The rest is of this server since its start. A
    challenger in the shadow comes first.
    """
    newest = sorted(models.snapshot.versions.values(), key=lambda version: version.created_ms, reverse=True)[:MOST]
    entries = [entry for version in newest for entry in _version(version, models, mlflow_url)]
    entries += [Entry(name=f"Version {number} plays", at=at, text="on this server") for at, number in models.played]
    entries += [_drift(drift, stages) for drift, stages in (*loop.past, (loop.latest, loop.stages)) if drift]
    entries += [change_entry(change) for change in changes]
    ahead = [_shadow(shadow)] if shadow else []
    return [*ahead, *sorted(entries, key=lambda entry: entry.at, reverse=True)[: MOST - len(ahead)]]


def _version(version: Version, models: Models, mlflow_url: str) -> Iterable[Entry]:
    number, tags = version.number, version.tags
    aliases = ", ".join(models.aliases_of(number))
    played = f"mean return {tags['eval.mean_return']}" if "eval.mean_return" in tags else "no returns"
    least = f", least {tags['eval.min_return']}" if "eval.min_return" in tags else ""
    over = f" in {tags['eval.episodes']} episodes" if "eval.episodes" in tags else ""
    gate = tags.get("gate", "")
    plays = models.current is not None and models.current.version.number == number
    links = {} if plays else {"compare": f"?compare={models.alias or ''},{number}"}
    if mlflow_url and version.experiment_id:
        links["its run"] = f"{mlflow_url}/#/experiments/{version.experiment_id}/runs/{version.run_id}"
    yield Entry(
        name=f"Version {number}{f' ({aliases})' if aliases else ''} was registered",
        at=version.created_ms / 1000,
        text=f"{played}{least}{over}{f'. The gate: {gate}' if gate else ''}",
        kind="good" if gate.startswith(("passed", "forced")) else "bad" if gate.startswith("refused") else "",
        links=links,
    )
    for tag, what in (("promoted", "became champion"), ("retired", "was retired")):
        at, _, by = tags.get(tag, "").partition(" ")
        if moment := _moment(at):
            forced = _forced(gate) if tag == "promoted" else ""
            yield Entry(name=f"Version {number} {what}", at=moment, text=f"{by}{forced}")


def _shadow(shadow: ShadowStatus) -> Entry:
    if shadow.notice:
        return Entry(name="Nothing is in the shadow", at=time.time(), text=shadow.notice)
    text = f"not yet compared with version {shadow.champion}"
    if shadow.steps:
        text = f"the same action as version {shadow.champion} in {shadow.agreed:,} of {shadow.steps:,} steps"
        text += f"; by what is at stake, an agreement of {shadow.weighted_agreement:.2f}"
    if shadow.canary.returned:
        text += f". It no longer answers requests: {shadow.canary.returned}"
    elif shadow.canary.share:
        text += f". It answers {shadow.canary.share:.0%} of the requests"
    kind: Kind = "bad" if shadow.canary.returned else ""
    return Entry(name=f"Version {shadow.challenger} is in the shadow", at=time.time(), text=text, kind=kind)


def _drift(drift: Drift, stages: Sequence[StageReport]) -> Entry:
    last = stages[-1] if stages else None
    ending = f". {NAMES.get(last.stage, last.stage)} after {last.at - drift.noticed_at:.0f} s" if last else ""
    return Entry(
        name="A change of the world was noticed",
        at=drift.noticed_at,
        text=f"{drift.finding}{ending}",
        kind=KINDS.get(last.stage, "") if last else "",
        links={name: url for stage in stages for name, url in stage.links.items()},
    )


def _moment(text: str) -> float | None:
    """Seconds since 1970 of a moment with its zone; None for anything else."""
    try:
        return datetime.fromisoformat(text).timestamp() if text else None
    except ValueError:
        return None


def _forced(gate: str) -> str:
    if not gate.startswith("forced"):
        return ""
    return ", although the gate refused it" if "refused" in gate else ", forced"
