"""The timeline that the page tells of a drift: a table of what happened, and what is said about it."""

import pytest

from serving.loop.reports import Drift, StageReport
from serving.loop.timeline import Change, tell

DRIFT = Drift(id="d", version="3", noticed_at=10.0, since=1, finding="the motor answers the other way", evidence={})
CALM = "All is as it was trained for"


def stage(name: str, at: float, **other: object) -> StageReport:
    return StageReport(**{"stage": name, "text": "", "at": at, **other})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("drift", "over", "stages", "changes", "heals", "title", "state", "waits", "settles", "hint"),
    [
        (None, True, [], [], False, CALM, "calm", False, False, "Break its world"),
        (None, True, [], [(9.0, False)], False, "Changed. Not noticed yet", "changed", False, False, ""),
        (None, True, [], [(9.0, False), (9.5, True)], False, CALM, "calm", False, False, "Break its world"),
        (DRIFT, False, [], [(9.0, False)], False, "Noticed: the motor", "drift", False, False, "Under make stack"),
        (DRIFT, False, [], [(9.0, False)], True, "Noticed: the motor", "drift", True, False, "A run is being started"),
        (DRIFT, False, ["training"], [], True, "Noticed: the motor", "drift", True, False, ""),
        (DRIFT, False, ["refused"], [], True, "Noticed: the motor", "drift", False, False, ""),
        (DRIFT, False, [], [(9.0, False), (11.0, False)], True, "Noticed", "drift", True, False, "Changed once more"),
        (DRIFT, False, [], [(11.0, False), (12.0, True)], False, "Noticed", "drift", False, False, "Changed 2 times"),
        (DRIFT, True, ["recovered"], [(9.0, False)], True, "Healed. The motor", "over", False, False, ""),
        (DRIFT, True, ["rehearsed", "confirmed"], [(9.0, False)], True, "Healed. The motor", "over", False, False, ""),
        (DRIFT, True, ["as predicted"], [(9.0, False), (9.5, True)], True, "Calm again", "over", False, True, ""),
        (DRIFT, True, ["as predicted"], [(40.0, False)], True, "Changed. Not noticed", "changed", False, False, ""),
    ],
)
def test_a_headline_and_a_hint_say_where_things_stand(
    drift: Drift | None, over: bool, stages: list[str], changes: list[Change], heals: bool,
    title: str, state: str, waits: bool, settles: bool, hint: str,
) -> None:  # fmt: skip
    told = tell(drift, over, [stage(name, 20.0 + at) for at, name in enumerate(stages)], changes, heals)
    assert told.title.startswith(title)
    assert (told.state, told.waits, told.settles) == (state, waits, settles)
    assert told.hint.startswith(hint)
    assert hint or not told.hint


def test_entries_are_in_the_order_of_time_and_link_each_place_once() -> None:
    run, other = {"run": "http://r"}, {"again": "http://r", "other": "http://o"}
    stages = [
        stage("started", 11.0, links=run, progress=0.5),
        stage("training", 12.0, links=other, progress=0.25),
        stage("recovered", 30.0),
    ]
    told = tell(DRIFT, False, stages[:2], [(1.0, False), (9.0, False), (11.5, True)], True)
    assert [(entry.name, entry.at, entry.kind, entry.progress) for entry in told.entries] == [
        ("The world was changed", 9.0, "", None),
        ("The server noticed", 10.0, "", None),
        ("A run began", 11.0, "", None),
        ("The world was put right", 11.5, "", None),
        ("Training a network", 12.0, "", 0.25),
    ]
    assert [entry.links for entry in told.entries] == [{}, {}, run, {}, {"other": "http://o"}]
    assert told.entries[1].text == "from the steps of version 3"
    assert tell(DRIFT, True, stages, [], True).entries[-1].kind == "good"
