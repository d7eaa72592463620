"""The closed loop as a run that adapts sees it: experience, drift, event, reports. In process."""

import asyncio
import base64
import dataclasses
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

import pytest
from prefect.events import Event

from dqn.world import World
from serving.episodes.environment import Step
from serving.live.closed_loop import CALM_STEPS, Report
from serving.live.commands import PushCart
from serving.live.events import EventSender
from serving.live.finding import Finding
from serving.live.show import Show
from serving.models.served import ServedModel
from tests.policies import ACROBOT, BALANCES, FALLS, PROPERTIES, SWINGS, linear_model
from tests.serving.test_bounds import client_of, play_to_the_end
from tests.serving.test_world import joined


class Theatre:
    """An app whose show is stepped by hand."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.app, self.client = client_of(folder, **options)
        assert self.app.live
        self.loop = self.app.live.shows.loop
        self.now = 1000.0
        self.loop._clock = lambda: self.now
        self.show: Show = joined(self.app)

    def play(self, steps: int) -> None:
        """Take some steps; the breaks between episodes are left out."""
        until = self.loop.experience.newest + steps
        while self.loop.experience.newest < until:
            self.show._tick(0.02)
            self.now += 0.02

    def swap(
        self, gains: tuple[float, ...], world: World, properties: dict[str, str] = PROPERTIES, actions: int = 2
    ) -> None:
        assert self.app.models.current
        version = self.app.models.current.version
        trained = properties | {"world": json.dumps(world.to_dict())}
        content = linear_model(gains, properties=trained, actions=actions)
        newer = dataclasses.replace(version, number=str(int(version.number) + 1))
        self.app.models.current = ServedModel.load("p", newer, content)

    def get(self, path: str) -> Any:
        return self.client.get(path).json()


@pytest.fixture
def theatre(tmp_path: Path) -> Theatre:
    return Theatre(tmp_path)


def reversed_motor(theatre: Theatre) -> str:
    """Break the world; returns the id of the drift that is noticed."""
    theatre.client.put("/api/world", json={"force_mag": -10.0})
    theatre.play(100)
    assert theatre.loop.drift
    return theatre.loop.drift.id


def test_experience_is_what_policy_and_world_produced(theatre: Theatre) -> None:
    theatre.play(30)
    theatre.show.command(PushCart(40.0))
    theatre.play(1)
    lived = theatre.get("/api/experience")
    assert (lived["model"], lived["version"], lived["env_id"], lived["world"]) == ("p", "1", "CartPole-v1", {})
    transitions = lived["transitions"]
    assert lived["next"] == transitions["id"][-1] == len(transitions["id"])
    assert transitions["push"][-1] == 40.0
    assert sum(map(bool, transitions["push"])) == 1
    assert transitions["observation"][5] == transitions["next_observation"][4]
    assert transitions["step"] == list(range(len(transitions["id"])))
    assert set(transitions["version"]) == {"1"}
    later = theatre.get(f"/api/experience?since={lived['next'] - 3}")
    assert later["transitions"]["id"] == transitions["id"][-3:]
    for wrong in ("-1", "x", "1.5"):
        assert theatre.client.get(f"/api/experience?since={wrong}").status_code == 400
    assert theatre.client.get("/api/experience?from=1").status_code == 400


def test_the_real_world_is_not_told_to_who_adapts(theatre: Theatre) -> None:
    theatre.client.put("/api/world", json={"gravity": 31.25, "length": 0.1})
    theatre.play(100)
    assert theatre.get("/api/experience")["world"] == {}
    told = [theatre.client.get(path).text for path in ("/api/status", "/api/adaptation")]
    assert not any('"gravity":31.25' in text or '"changed"' in text for text in told)


def test_a_reversed_motor_is_noticed_and_said(theatre: Theatre) -> None:
    theatre.play(200)
    assert theatre.get("/api/status")["drift"] is None
    changed = theatre.loop.experience.newest
    reversed_motor(theatre)
    drift = theatre.get("/api/status")["drift"]
    assert drift["finding"] == "the motor answers the other way"
    assert drift["version"] == "1"
    assert changed < drift["since"] <= changed + 10, "surely after the change, and not long"
    assert drift["evidence"]["force_ratio"] == pytest.approx(-1.0, abs=1e-3)
    assert 1004 <= drift["noticed_at"] <= 1007
    assert theatre.get("/api/adaptation") == {"drift": drift, "stages": []}
    metrics = theatre.client.get("/metrics").text
    assert "serving_drift_noticed_total 1.0" in metrics
    assert "serving_drift 1.0" in metrics
    status = theatre.show.status()["loop"]
    assert (status["drift"].id, status["over"], status["heals"]) == (drift["id"], False, False)


def test_a_fall_is_noticed_before_the_break_that_follows(theatre: Theatre) -> None:
    theatre.play(1)
    theatre.client.put("/api/world", json={"force_mag": -10.0})
    play_to_the_end(theatre.show)
    assert theatre.loop.experience.newest < 12
    assert theatre.loop.drift
    assert "the motor answers the other way" in theatre.loop.drift.finding


def test_a_drift_is_over_when_steps_are_as_predicted_again(theatre: Theatre) -> None:
    theatre.play(50)
    reversed_motor(theatre)
    theatre.client.put("/api/world", json={})
    theatre.play(CALM_STEPS - 50)
    assert theatre.loop.drift
    theatre.play(100)
    assert theatre.get("/api/status")["drift"] is None
    adaptation = theatre.get("/api/adaptation")
    assert adaptation["drift"]["finding"] == "the motor answers the other way", "what it was can still be read"
    assert [stage["stage"] for stage in adaptation["stages"]] == ["as predicted"]
    assert "serving_drift 0.0" in theatre.client.get("/metrics").text
    first = adaptation["drift"]["id"]
    assert reversed_motor(theatre) != first, "and it is noticed again"
    assert theatre.get("/api/adaptation")["stages"] == []


class Noticing:
    """A test of steps that tells, at its first step, how long a change has lasted, and nothing more after that."""

    def __init__(self, lasted: int) -> None:
        self._told = iter([lasted])

    def update(self, step: Step) -> int:
        return next(self._told, 0)


@pytest.mark.parametrize(("lasted", "calm"), [(10, CALM_STEPS), (84, 252), (100, 300)])
def test_what_took_long_to_notice_takes_three_times_as_long_to_be_over(
    theatre: Theatre, lasted: int, calm: int
) -> None:
    theatre.play(120)
    watch: Any = Noticing(lasted)
    theatre.loop._steps = watch
    theatre.play(1)
    assert theatre.loop.drift
    assert theatre.loop.drift.since == theatre.loop.experience.newest
    theatre.play(calm - 1)
    assert theatre.loop.drift
    theatre.play(1)
    assert theatre.loop.drift is None
    assert [(stage.stage, stage.text) for stage in theatre.loop.stages] == [
        ("as predicted", "steps are as predicted again")
    ]


@pytest.mark.parametrize(
    ("lasted", "looks"), [(1, [10, 20, 40, 80, 160]), (10, [10, 20, 40, 80, 160]), (30, [30, 40, 80, 160])]
)
def test_it_is_looked_at_what_has_changed_ever_more_seldom(
    theatre: Theatre, lasted: int, looks: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    sure = (False, False, True, False, True)
    told = iter([Finding(sentence=f"{i} {each}", evidence={"at": i}, sure=each) for i, each in enumerate(sure)])
    seen: list[tuple[int, int]] = []
    shown: list[str] = []

    def explain(columns: dict[str, Any], world: World, since: int) -> Finding:
        seen.append((int(columns["id"][0]) - since, int(columns["id"][-1]) - since))
        return next(told)

    monkeypatch.setattr("serving.live.closed_loop.explain", explain)
    theatre.play(200)
    watch: Any = Noticing(lasted)
    theatre.loop._steps = watch
    for _ in range(200):
        theatre.play(1)
        if theatre.loop.drift and theatre.loop.drift.finding not in shown:
            shown.append(theatre.loop.drift.finding)
            assert theatre.loop.drift.evidence == {"at": int(shown[-1][0])}
    assert seen == [(-127, count) for count in looks]
    assert shown == ["0 False", "1 False", "2 True", "4 True"][: len(looks) - 1], "who is sure is not unsettled"


def test_an_adaptation_is_reported_stage_by_stage(theatre: Theatre) -> None:
    drift = reversed_motor(theatre)
    assert theatre.loop.untold.is_set()

    def report(stage: str, **more: Any) -> Any:
        theatre.now += 1
        answer = theatre.client.post("/api/adaptation", json={"drift": drift, "stage": stage, **more})
        assert answer.status_code == 200, answer.text
        return answer.json()["stages"][-1]

    began = theatre.now + 1
    links = {"flow run": "http://127.0.0.1:4200/runs/1"}
    assert report("started", text="a run began", links=links) == {
        "stage": "started",
        "text": "a run began",
        "at": pytest.approx(began),
        "progress": None,
        "links": links,
    }
    assert not theatre.loop.untold.is_set()
    report("training", progress=0.1)
    assert report("training", progress=0.7)["at"] == pytest.approx(began + 1), "it began then"
    stages = theatre.get("/api/adaptation")["stages"]
    assert [(stage["stage"], stage["progress"]) for stage in stages] == [("started", None), ("training", 0.7)]
    theatre.swap(tuple(-gain for gain in BALANCES), World(force_mag=(-11.0, -9.0)))
    theatre.play(20)
    assert theatre.get("/api/adaptation")["stages"][-1]["stage"] == "swapped"
    assert theatre.loop.drift
    report("recovered")
    assert theatre.get("/api/status")["drift"] is None
    theatre.play(600)
    assert theatre.get("/api/status")["drift"] is None, "the new version is at home in this world"
    theatre.client.put("/api/world", json={})
    theatre.play(100)
    again = theatre.get("/api/status")["drift"]
    assert (again["version"], again["finding"]) == ("2", "the motor answers the other way")


def test_a_version_that_copes_with_a_world_is_not_noticed_again_for_the_same(theatre: Theatre) -> None:
    theatre.play(20)
    theatre.client.put("/api/world", json={"force_mag": 5.0})
    theatre.play(300)
    drift = theatre.get("/api/status")["drift"]
    report = {"drift": drift["id"], "stage": "recovered", "text": "holds", "world": {"force_mag": "x"}}
    assert theatre.client.post("/api/adaptation", json=report).status_code == 400
    assert theatre.get("/api/status")["drift"]
    theatre.client.post("/api/adaptation", json=report | {"world": {"force_mag": 5.0}})
    theatre.play(600)
    assert theatre.get("/api/status")["drift"] is None
    theatre.client.put("/api/world", json={})
    theatre.play(300)
    assert "2.0 times" in theatre.get("/api/status")["drift"]["finding"], "what is found is told of the world before"
    theatre.swap(BALANCES, World())
    theatre.client.put("/api/world", json={"force_mag": 5.0})
    theatre.play(300)
    assert theatre.get("/api/status")["drift"]["version"] == "2", "the next version has its own world"


def test_a_version_that_is_swapped_in_for_a_world_is_expected_to_know_it(theatre: Theatre) -> None:
    theatre.play(20)
    drift = reversed_motor(theatre)
    report = {"drift": drift, "stage": "identified", "text": "reversed", "world": {"force_mag": -10.0}}
    assert theatre.client.post("/api/adaptation", json=report).status_code == 200
    theatre.swap(tuple(-gain for gain in BALANCES), World())
    theatre.play(600)
    latest = theatre.get("/api/adaptation")
    assert latest["drift"]["id"] == drift, "there is no second one for who holds the world and was trained for another"
    assert [stage["stage"] for stage in latest["stages"]] == ["identified", "swapped", "as predicted"]
    theatre.client.put("/api/world", json={})
    theatre.play(100)
    put_right = theatre.loop.drift
    assert put_right
    theatre.swap(BALANCES, World())
    theatre.play(300)
    assert theatre.loop.latest
    assert (theatre.loop.latest.id, theatre.loop.drift) == (put_right.id, None), "nothing was identified for this one"


def test_while_a_drift_lasts_the_breaks_are_short(theatre: Theatre) -> None:
    def break_after_a_fall() -> float:
        while theatre.show._break_left <= 0:
            theatre.show._tick(0.02)
        left = theatre.show._break_left
        while theatre.show._break_left > 0:
            theatre.show._tick(0.02)
        return left

    reversed_motor(theatre)
    lasting = break_after_a_fall()
    theatre.loop._end()
    theatre.loop._steps = None  # nothing is noticed
    assert lasting < break_after_a_fall() / 2


def test_a_new_version_that_is_at_home_ends_the_drift_by_itself(theatre: Theatre) -> None:
    drift = reversed_motor(theatre)
    theatre.swap(tuple(-gain for gain in BALANCES), World(force_mag=-10.0))
    theatre.play(CALM_STEPS + 5)
    assert theatre.loop.drift is None
    assert theatre.loop.latest
    assert theatre.loop.latest.id == drift


def test_a_new_version_that_is_not_at_home_is_a_new_drift(theatre: Theatre) -> None:
    drift = reversed_motor(theatre)
    theatre.swap(BALANCES, World(gravity=20.0))
    theatre.play(100)
    assert theatre.loop.drift
    assert theatre.loop.drift.id != drift
    assert theatre.loop.drift.version == "2"


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
def test_a_report_that_does_not_fit_is_refused(theatre: Theatre, report: dict[str, Any], status: int) -> None:
    drift = reversed_motor(theatre)
    answer = theatre.client.post(
        "/api/adaptation", json=report | ({"drift": drift} if report.get("drift") == "?" else {})
    )
    assert answer.status_code == status
    assert theatre.loop.untold.is_set()


def test_no_drift_can_be_reported_on_before_there_was_one(theatre: Theatre) -> None:
    answer = theatre.client.post("/api/adaptation", json={"drift": "d", "stage": "started"})
    assert (answer.status_code, answer.json()["error"]) == (409, "there is no drift 'd': there was none yet")
    assert theatre.get("/api/adaptation") == {"drift": None, "stages": []}


def test_stages_are_bounded(theatre: Theatre) -> None:
    drift = reversed_motor(theatre)
    answers = [
        theatre.client.post("/api/adaptation", json={"drift": drift, "stage": stage}).status_code
        for _ in range(21)
        for stage in ("training", "gate")
    ]
    assert answers == [200] * 40 + [409, 200]


def test_a_token_protects_reports(tmp_path: Path) -> None:
    theatre = Theatre(tmp_path, token="t")
    assert theatre.client.post("/api/adaptation", json={}).status_code == 401
    assert theatre.client.get("/api/experience").status_code == 200


def test_recent_episodes_tell_who_played_and_whether_it_was_pushed(theatre: Theatre) -> None:
    play_to_the_end(theatre.show)
    theatre.play(3)
    theatre.show.command(PushCart(10.0))
    theatre.play(2)
    assert theatre.get("/api/status")["episode"] == {"version": "1", "step": 4, "disturbed": True}
    theatre.swap(FALLS, World())
    theatre.play(700)
    episodes = theatre.get("/api/status")["recent_episodes"]
    assert [(each["version"], each["disturbed"]) for each in episodes[:2]] == [("1", False), ("2", False)]
    assert (episodes[0]["episodic_return"], episodes[0]["truncated"]) == (500.0, True)
    assert (episodes[1]["episodic_return"] < 100, episodes[1]["truncated"]) == (True, False)
    assert episodes[0]["ended_at"] < episodes[1]["ended_at"]


def test_returns_that_fall_are_a_drift_in_any_environment(theatre: Theatre, monkeypatch: pytest.MonkeyPatch) -> None:
    theatre.swap(SWINGS, World(), properties=ACROBOT, actions=3)
    theatre.play(1)
    assert theatre.loop._steps is None
    played = iter(
        [-100.0] * 15 + [-500.0] * 12 + [-300.0] + [-500.0] * 2 + [-110.0, -110.0, -111.0, -110.0, -110.0, -110.0]
    )
    template = theatre.show.players[0].last
    served = theatre.show.players[0].served
    assert template

    def end_episode(push: float = 0.0) -> None:
        last = dataclasses.replace(template, index=9, episodic_return=next(played), terminated=True)
        first = dataclasses.replace(template, index=0, push=push, terminated=False, truncated=False)
        theatre.loop.observe(served, 1, first)
        theatre.loop.observe(served, 1, last)

    for _ in range(15):
        end_episode()
    assert theatre.loop.drift is None
    for push in [9.0] * 8 + [0.0] * 4 + [-9.0]:
        end_episode(push)
    assert theatre.loop.drift is None, "who is pushed may fall"
    for _ in range(2):
        end_episode()
    assert theatre.loop.drift
    assert theatre.loop.drift.finding == "returns have fallen: -500, -500, -500 lately, -100 is usual"
    assert theatre.loop.drift.evidence == {"usual_return": -100.0}
    assert theatre.loop.drift.since == theatre.loop.experience.newest - 2, "noticed at the fifth of them"
    for _ in range(6):
        assert theatre.loop.drift
        end_episode()
    assert theatre.loop.drift is None
    assert theatre.loop.stages[-1].text == "3 episodes as usual"


def test_a_detector_that_fails_is_told_and_counted_and_the_show_goes_on(
    theatre: Theatre, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> int:
        raise ArithmeticError("too much")

    theatre.play(1)
    with monkeypatch.context() as patch:
        patch.setattr(theatre.loop._steps, "update", fail)
        step = theatre.show._step
        for _ in range(10):
            theatre.show._tick(0.02)
        assert theatre.show._step == step + 10
        assert theatre.show.status()["loop"]["trouble"] == "too much"
    assert "serving_drift_errors_total 10.0" in theatre.client.get("/metrics").text
    assert sum("watching for drift failed" in record.message for record in caplog.records) == 1
    theatre.play(1)
    assert theatre.show.status()["loop"]["trouble"] == ""


class Prefect(BaseHTTPRequestHandler):
    """Takes events as Prefect's API does."""

    events: ClassVar[list[tuple[str, dict[str, str], Any]]] = []
    status: ClassVar[int] = 204

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.events.append((self.path, dict(self.headers), json.loads(body)))
        self.send_response(self.status)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def prefect() -> Iterator[HTTPServer]:
    Prefect.events, Prefect.status = [], 204
    with HTTPServer(("127.0.0.1", 0), Prefect) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def sender_of(theatre: Theatre, server: HTTPServer, **options: Any) -> EventSender:
    url = f"http://127.0.0.1:{server.server_port}/api/"
    return EventSender(
        theatre.loop,
        theatre.app.models,
        theatre.app.metrics,
        api_url=url,
        auth="admin:secret",
        serving_url="http://serving:8000",
        **options,
    )


def test_a_drift_is_an_event_for_prefect(theatre: Theatre, prefect: HTTPServer) -> None:
    sender = sender_of(theatre, prefect)
    asyncio.run(sender.send())
    assert Prefect.events == [], "there is nothing to tell"
    drift = reversed_motor(theatre)
    asyncio.run(sender.send())
    ((path, headers, (event,)),) = Prefect.events
    assert path == "/api/events"
    assert headers["Authorization"] == f"Basic {base64.b64encode(b'admin:secret').decode()}"
    assert headers["Content-Type"] == "application/json"
    assert event["event"] == "dqn.policy.drifted"
    assert event["resource"] == {
        "prefect.resource.id": "dqn.policy.p",
        "prefect.resource.name": "p",
        "dqn.drift": event["payload"]["drift"],
    }
    assert event["payload"] == {
        "drift": drift,
        "model": "p",
        "version": "1",
        "env_id": "CartPole-v1",
        "since": theatre.loop.drift.since if theatre.loop.drift else None,
        "finding": "the motor answers the other way",
        "serving": "http://serving:8000",
    }
    assert Event.model_validate(event).resource.id == "dqn.policy.p"


def test_an_event_is_sent_again_until_it_is_acknowledged(theatre: Theatre, prefect: HTTPServer) -> None:
    drift = reversed_motor(theatre)
    Prefect.status = 503

    async def story() -> None:
        running = asyncio.create_task(sender_of(theatre, prefect, again_seconds=0.01).run())
        while len(Prefect.events) < 2:
            await asyncio.sleep(0.01)
        Prefect.status = 204
        while len(Prefect.events) < 4:
            await asyncio.sleep(0.01)
        theatre.loop.report(Report(drift=drift, stage="started"))
        await asyncio.sleep(0.05)
        told = len(Prefect.events)
        await asyncio.sleep(0.1)
        assert len(Prefect.events) == told
        running.cancel()

    asyncio.run(asyncio.wait_for(story(), 30))
    events = [event for _, _, (event,) in Prefect.events]
    assert len({event["id"] for event in events}) == len(events), "one with an id that is known would be dropped"


def test_an_api_that_does_not_answer_is_told_and_counted(theatre: Theatre, caplog: pytest.LogCaptureFixture) -> None:
    reversed_motor(theatre)
    server = HTTPServer(("127.0.0.1", 0), Prefect)
    server.server_close()
    sender = sender_of(theatre, server)
    theatre.loop.sender = sender
    for _ in range(2):
        asyncio.run(sender.send())
    assert "Prefect's API does not take the event" in theatre.show.status()["loop"]["trouble"]
    assert "serving_event_errors_total 2.0" in theatre.client.get("/metrics").text
    assert sum("does not take the event" in record.message for record in caplog.records) == 1


def test_events_are_sent_where_prefect_is_known(tmp_path: Path) -> None:
    app, _ = client_of(tmp_path, prefect_url="http://127.0.0.1:9/api", serving_url="http://s")
    assert app.events
    assert app.live
    assert app.live.shows.loop.status()["heals"]
    with pytest.raises(ValueError, match="PREFECT_API_URL must be an address"):
        client_of(tmp_path, prefect_url="ftp://x")
