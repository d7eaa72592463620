"""Reports of a run that adapts, and its new version. In process."""

from pathlib import Path
from typing import Any

import pytest

from dqn.environments.world import World
from serving.loop.closed_loop import CALM_STEPS
from tests.support.serving.policies import BALANCES
from tests.support.serving.stepped import Stepped, reversed_motor


def test_an_adaptation_is_reported_stage_by_stage(stepped: Stepped) -> None:
    drift = reversed_motor(stepped)
    assert stepped.loop.untold.is_set()

    def report(stage: str, **more: Any) -> Any:
        stepped.now += 1
        answer = stepped.client.post("/api/adaptation", json={"drift": drift, "stage": stage, **more})
        assert answer.status_code == 200, answer.text
        return answer.json()["stages"][-1]

    began = stepped.now + 1
    links = {"flow run": "http://127.0.0.1:4200/runs/1"}
    assert report("started", text="a run began", links=links) == {
        "stage": "started",
        "text": "a run began",
        "at": pytest.approx(began),
        "progress": None,
        "links": links,
    }
    assert not stepped.loop.untold.is_set()
    report("training", progress=0.1)
    assert report("training", progress=0.7)["at"] == pytest.approx(began + 1), "it began then"
    stages = stepped.get("/api/adaptation")["stages"]
    assert [(stage["stage"], stage["progress"]) for stage in stages] == [("started", None), ("training", 0.7)]
    stepped.swap(tuple(-gain for gain in BALANCES), World(force_mag=(-11.0, -9.0)))
    stepped.play(20)
    assert stepped.get("/api/adaptation")["stages"][-1]["stage"] == "swapped"
    assert stepped.loop.drift
    report("recovered")
    assert stepped.get("/api/status")["drift"] is None
    stepped.play(600)
    assert stepped.get("/api/status")["drift"] is None, "the new version is at home in this world"
    stepped.client.put("/api/world", json={})
    stepped.play(100)
    again = stepped.get("/api/status")["drift"]
    assert (again["version"], again["finding"]) == ("2", "the motor answers the other way")


def test_a_version_that_copes_with_a_world_is_not_noticed_again_for_the_same(stepped: Stepped) -> None:
    stepped.play(20)
    stepped.client.put("/api/world", json={"force_mag": 5.0})
    stepped.play(300)
    drift = stepped.get("/api/status")["drift"]
    report = {"drift": drift["id"], "stage": "recovered", "text": "holds", "world": {"force_mag": "x"}}
    assert stepped.client.post("/api/adaptation", json=report).status_code == 400
    assert stepped.get("/api/status")["drift"]
    stepped.client.post("/api/adaptation", json=report | {"world": {"force_mag": 5.0}})
    stepped.play(600)
    assert stepped.get("/api/status")["drift"] is None
    stepped.client.put("/api/world", json={})
    stepped.play(300)
    assert "2.0 times" in stepped.get("/api/status")["drift"]["finding"], "the finding is relative to the world before"
    stepped.swap(BALANCES, World())
    stepped.client.put("/api/world", json={"force_mag": 5.0})
    stepped.play(300)
    assert stepped.get("/api/status")["drift"]["version"] == "2", "the next version has its own world"


def test_a_version_that_is_swapped_in_for_a_world_is_expected_to_know_it(stepped: Stepped) -> None:
    stepped.play(20)
    drift = reversed_motor(stepped)
    report = {"drift": drift, "stage": "identified", "text": "reversed", "world": {"force_mag": -10.0}}
    assert stepped.client.post("/api/adaptation", json=report).status_code == 200
    stepped.swap(tuple(-gain for gain in BALANCES), World())
    stepped.play(600)
    latest = stepped.get("/api/adaptation")
    assert latest["drift"]["id"] == drift, (
        "no second drift for a version that balances in this world and was trained for another"
    )
    assert [stage["stage"] for stage in latest["stages"]] == ["identified", "swapped", "as predicted"]
    stepped.client.put("/api/world", json={})
    stepped.play(100)
    put_right = stepped.loop.drift
    assert put_right
    stepped.swap(BALANCES, World())
    stepped.play(300)
    assert stepped.loop.latest
    assert (stepped.loop.latest.id, stepped.loop.drift) == (put_right.id, None), "nothing was identified for this one"


def test_a_new_version_that_is_at_home_ends_the_drift_by_itself(stepped: Stepped) -> None:
    drift = reversed_motor(stepped)
    stepped.swap(tuple(-gain for gain in BALANCES), World(force_mag=-10.0))
    stepped.play(CALM_STEPS + 5)
    assert stepped.loop.drift is None
    assert stepped.loop.latest
    assert stepped.loop.latest.id == drift


def test_a_new_version_that_is_not_at_home_is_a_new_drift(stepped: Stepped) -> None:
    drift = reversed_motor(stepped)
    stepped.swap(BALANCES, World(gravity=20.0))
    stepped.play(100)
    assert stepped.loop.drift
    assert stepped.loop.drift.id != drift
    assert stepped.loop.drift.version == "2"


@pytest.mark.parametrize(
    ("report", "status"),
    [
        ({"stage": "started"}, 400),
        ({"drift": "another", "stage": "started"}, 409),
        ({"drift": "?", "stage": "swapped"}, 400),
        ({"drift": "?", "stage": "training", "progress": 1.1}, 400),
        ({"drift": "?", "stage": "training", "text": "x" * 501}, 400),
        ({"drift": "?", "stage": "training", "links": {"run": "javascript:alert(1)"}}, 400),
        ({"drift": "?", "stage": "training", "more": 1}, 400),
    ],
)
def test_a_report_that_does_not_fit_is_refused(stepped: Stepped, report: dict[str, Any], status: int) -> None:
    drift = reversed_motor(stepped)
    answer = stepped.client.post(
        "/api/adaptation", json=report | ({"drift": drift} if report.get("drift") == "?" else {})
    )
    assert answer.status_code == status
    assert stepped.loop.untold.is_set()


def test_no_drift_can_be_reported_on_before_there_was_one(stepped: Stepped) -> None:
    answer = stepped.client.post("/api/adaptation", json={"drift": "d", "stage": "started"})
    assert (answer.status_code, answer.json()["error"]) == (409, "there is no drift 'd': there was none yet")
    assert stepped.get("/api/adaptation") == {"drift": None, "stages": [], "playing": None}


def test_stages_are_bounded(stepped: Stepped) -> None:
    drift = reversed_motor(stepped)
    answers = [
        stepped.client.post("/api/adaptation", json={"drift": drift, "stage": stage}).status_code
        for _ in range(21)
        for stage in ("training", "gate")
    ]
    assert answers == [200] * 40 + [409, 200]


def test_a_token_protects_reports(tmp_path: Path) -> None:
    stepped = Stepped(tmp_path, token="t")
    assert stepped.client.post("/api/adaptation", json={}).status_code == 401
    assert stepped.client.get("/api/experience").status_code == 200


def test_a_report_on_an_older_drift_names_the_latest(stepped: Stepped) -> None:
    latest = reversed_motor(stepped)
    answer = stepped.client.post("/api/adaptation", json={"drift": "d" * 41, "stage": "started"})
    assert answer.json()["error"] == f"there is no drift '{'d' * 40}': the latest is {latest}"


@pytest.mark.parametrize(("since", "status"), [(2**53, 200), (2**53 + 1, 400)])
def test_an_id_is_a_number_that_every_client_can_hold(stepped: Stepped, since: int, status: int) -> None:
    assert stepped.client.get(f"/api/experience?since={since}").status_code == status


def test_experience_is_unavailable_while_no_version_plays(stepped: Stepped) -> None:
    stepped.app.models.current = None
    answer = stepped.client.get("/api/experience")
    assert (answer.status_code, answer.json()["error"]) == (503, "nothing plays: ")
