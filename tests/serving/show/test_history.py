"""What became of the versions, and what happened in the show, in one timeline."""

import dataclasses
from typing import Any

import msgspec
import pytest

from serving.inference.shadow import CanaryStatus, ShadowStatus
from serving.loop.reports import StageReport
from serving.models.source import Snapshot, Version
from serving.show.history import MOST, history
from tests.support.serving.stepped import Stepped, reversed_motor

AGREES = "the same action as version 1 in 1,900 of 2,000 steps; by what is at stake, an agreement of 0.98"
JUDGED = {"eval.mean_return": "499.5", "eval.min_return": "480", "eval.episodes": "100", "gate": "passed: it is better"}


def version(number: int, **tags: str) -> Version:
    at = 1_000_000 * number
    return Version(number=str(number), source="s", run_id=f"r{number}", experiment_id="7", created_ms=at, tags=tags)


def told(stepped: Stepped, *versions: Version, mlflow_url: str = "", **aliases: str) -> list[dict[str, Any]]:
    models = stepped.app.models
    models.snapshot = Snapshot(aliases=aliases, versions={each.number: each for each in versions})
    models.played.clear()
    assert stepped.app.live
    stepped.app.live._mlflow_url = mlflow_url
    entries: list[dict[str, Any]] = stepped.get("/api/history")
    return entries


def test_versions_have_their_returns_and_what_the_gate_said(stepped: Stepped) -> None:
    refused = {"gate": "refused: 480 is below 487.5"}
    older = version(2, **JUDGED, promoted="1970-01-01T00:50:00+00:00 by ada")
    newer = version(4, **refused, retired="1970-01-01T01:40:00+00:00")
    retired, registered, promoted, first = told(stepped, older, newer, mlflow_url="http://m", champion="2")
    assert (retired["name"], retired["at"], retired["text"]) == ("Version 4 was retired", 6_000, "")
    assert (registered["name"], registered["kind"]) == ("Version 4 was registered", "bad")
    assert registered["text"] == "no returns. The gate: refused: 480 is below 487.5"
    assert registered["links"] == {"compare": "?compare=,4", "its run": "http://m/#/experiments/7/runs/r4"}
    assert (promoted["name"], promoted["at"], promoted["text"]) == ("Version 2 became champion", 3_000, "by ada")
    assert (first["name"], first["kind"]) == ("Version 2 (champion) was registered", "good")
    assert first["at"] == 2_000
    assert first["text"] == "mean return 499.5, least 480 in 100 episodes. The gate: passed: it is better"


def test_what_plays_is_not_compared_with_itself_and_only_what_has_a_page_is_linked(stepped: Stepped) -> None:
    nowhere = dataclasses.replace(version(3), experiment_id="")
    here, plays = told(stepped, version(1), nowhere, mlflow_url="http://m")
    assert (here["links"], list(plays["links"])) == ({"compare": "?compare=,3"}, ["its run"])
    assert told(stepped, version(1))[0]["links"] == {}


@pytest.mark.parametrize(
    ("gate", "promoted", "text"),
    [
        (
            "forced: the gate said refused: worse",
            "1970-01-01T00:50:00+00:00 by ada",
            "by ada, although the gate refused it",
        ),
        ("forced: the gate said passed: better", "1970-01-01T00:50:00+00:00 by ada", "by ada, forced"),
        ("passed", "1970-01-01T00:50:00+00:00 by ada, a rollback", "by ada, a rollback"),
        ("passed", "yesterday by ada", None),
    ],
)
def test_a_promotion_says_by_which_user_and_whether_it_was_forced(
    stepped: Stepped, gate: str, promoted: str, text: str | None
) -> None:
    entries = told(stepped, version(3, gate=gate, promoted=promoted))
    assert [entry["text"] for entry in entries if "became" in entry["name"]] == ([] if text is None else [text])


def test_drifts_and_changes_of_this_server_are_among_them(stepped: Stepped) -> None:
    stepped.play(50)
    reversed_motor(stepped)
    stepped.loop.stages.append(StageReport(stage="recovered", text="", at=stepped.now + 5, links={"run": "http://r"}))
    stepped.client.put("/api/world", json={})
    stepped.play(400)
    reversed_motor(stepped)
    entries = told(stepped)
    names = [entry["name"] for entry in entries]
    assert names.count("A change of the world was noticed") == 2
    assert {"The world was changed", "The world was put right"} <= set(names)
    drifts = [entry for entry in entries if "noticed" in entry["name"]]
    assert drifts[0]["text"] == "the motor answers the other way"
    assert drifts[1]["text"].startswith("the motor answers the other way. Calm again after ")
    assert (drifts[1]["kind"], drifts[1]["links"]) == ("good", {"run": "http://r"})
    assert [entry["at"] for entry in entries] == sorted((entry["at"] for entry in entries), reverse=True)


def test_it_has_a_bound_and_tells_what_played_here(stepped: Stepped) -> None:
    many = [version(number, **JUDGED, promoted="1970-01-01T00:50:00+00:00 by ada") for number in range(1, 500)]
    assert len(told(stepped, *many)) == MOST
    for swap in range(30):
        stepped.app.models.played.append((float(swap), "3"))
    assert stepped.app.live
    entries = history(stepped.app.models, stepped.loop, (), mlflow_url="")
    assert [(entry.name, entry.at) for entry in entries if entry.at < 100][:1] == []
    stepped.app.models.snapshot = Snapshot(aliases={}, versions={})
    entries = history(stepped.app.models, stepped.loop, (), mlflow_url="")
    assert [(entry.name, entry.at) for entry in entries] == [("Version 3 plays", float(at)) for at in range(29, 9, -1)]


@pytest.mark.parametrize(
    ("notice", "share", "returned", "name", "text", "kind"),
    [
        ("", 0.0, "", "Version 2 is in the shadow", AGREES, ""),
        ("", 0.25, "", "Version 2 is in the shadow", f"{AGREES}. It answers 25% of the requests", ""),
        (
            "",
            0.25,
            "it fails",
            "Version 2 is in the shadow",
            f"{AGREES}. It no longer answers requests: it fails",
            "bad",
        ),
        ("nothing plays yet", 0.25, "", "Nothing is in the shadow", "nothing plays yet", ""),
    ],
)
def test_a_challenger_in_the_shadow_comes_first(
    stepped: Stepped, notice: str, share: float, returned: str, name: str, text: str, kind: str
) -> None:
    shadow = ShadowStatus(
        model="m", reference="challenger", champion="1", challenger="2", notice=notice, share=0.1, steps=2_000,
        agreed=1_900, weighted_agreement=0.98, mean_q_difference=0.1, mean_seconds=1e-4, dropped=0, errors=0,
        canary=CanaryStatus(share=share, answered=0, returned=returned),
    )  # fmt: skip
    first, *_ = history(stepped.app.models, stepped.loop, (), mlflow_url="", shadow=shadow)
    assert (first.name, first.text, first.kind) == (name, text, kind)
    if not notice:
        first, *_ = history(
            stepped.app.models, stepped.loop, (), mlflow_url="", shadow=msgspec.structs.replace(shadow, steps=0)
        )
        assert first.text.startswith("not yet compared with version 1")
