"""A server that plays in memory for an adaptation, and the registry beside it."""

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from dqn.environments.world import NOMINAL, World
from dqn.evaluation.returns import episodic_returns
from dqn.identification.record import Experience
from flows.adaptation import identify, watch
from flows.registry import versions as registry
from flows.registry.evaluation import evaluate
from flows.registry.versions import CHAMPION, WORLD_TAG
from tests.support.dqn.living import balancing, live
from tests.support.serving.policies import BALANCES, PROPERTIES, linear_model

MODEL = "dqn-CartPole-v1"
REVERSED = World(force_mag=-10.0)
UPRIGHT, REVERSING = 1, 2
"""Versions: one that holds the nominal world, and one that holds it with the motor reversed."""
BACKWARDS = (-0.05, -0.3, -6.0, -1.2)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("adaptations")


@pytest.fixture
def store(directory: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    """A store of this module's own, with its two versions."""
    monkeypatch.chdir(directory)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{directory}/mlflow.db")
    monkeypatch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    monkeypatch.setattr(watch, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(identify, "PATIENCE", 0.2)
    monkeypatch.setattr(watch, "WATCHED_SECONDS", 20.0)
    client = MlflowClient()
    if registry.resolve(client, MODEL, str(REVERSING)) is None:
        assert register(client, BALANCES, NOMINAL) == UPRIGHT
        assert register(client, BACKWARDS, REVERSED) == REVERSING
    registry.set_alias(client, MODEL, CHAMPION, UPRIGHT)
    for version in (UPRIGHT, REVERSING):
        registry.set_tags(client, MODEL, version, {"gate": "passed"})
    return client


def register(client: MlflowClient, gains: tuple[float, ...], world: World) -> int:
    found = client.get_experiment_by_name("by hand")
    experiment = found.experiment_id if found else client.create_experiment("by hand")
    run_id = client.create_run(experiment, tags={"population": "1 agents"}).info.run_id
    properties = PROPERTIES | {"run_id": run_id, "world": json.dumps(world.to_dict())}
    model_id = registry.log_model(run_id, linear_model(gains, properties=properties))
    tags = {WORLD_TAG: json.dumps(world.to_dict()), "world": str(world)}
    version = registry.register(client, MODEL, model_id=model_id, run_id=run_id, tags=tags)
    evaluate(MODEL, version, stressed=False)
    return version


@dataclass(kw_only=True)
class Playing:
    """A server as an adaptation sees it: the champion plays in a world that is not told."""

    client: MlflowClient
    really: World
    lived: list[Experience]
    """What it hands out, one after another; the last one again and again."""
    home: World = NOMINAL
    told: list[dict[str, Any]] = field(default_factory=list)
    asked: list[int] = field(default_factory=list)
    episodes: list[dict[str, Any]] = field(default_factory=list)
    watched: bool = True
    broken: bool = False
    over: bool = False
    undone: bool = False
    """Whether a change of the world is undone in front of the champion, which then balances."""
    drift: str = ""
    noticed_at: float = field(default_factory=time.time)
    url: str = ""

    def experience(self, since: int) -> dict[str, Any]:
        self.asked.append(since)
        lived = self.lived.pop(0) if len(self.lived) > 1 else self.lived[0]
        columns = {name: getattr(lived, name).tolist() for name in vars(lived)}
        columns["id"] = list(range(since + 1, since + 1 + len(lived.action)))
        world = self.home.to_dict()
        return {"env_id": "CartPole-v1", "world": world, "next": since + len(lived.action), "transitions": columns}

    def status(self) -> dict[str, Any]:
        champion = registry.version_of(self.client, MODEL, CHAMPION)
        assert champion
        if self.watched:
            policy = registry.download(MODEL, champion).policy
            seed = len(self.episodes)
            world = policy.metadata.world if self.undone else self.really
            (returned,) = episodic_returns(policy.act, "CartPole-v1", world, num_episodes=1, seed=seed)
            self.episodes.append(
                {
                    "version": str(champion),
                    "episodic_return": float(returned),
                    "disturbed": False,
                    "ended_at": time.time(),
                    "truncated": bool(returned == 500),
                }
            )
        drift = None if self.over else {"id": self.drift, "noticed_at": self.noticed_at}
        return {
            "drift": drift,
            "current": {"version": str(champion)},
            "recent_episodes": self.episodes[-32:],
            "episode": None,
        }


@pytest.fixture
def playing(store: MlflowClient) -> Iterator[Playing]:
    """In the reversed world, where its champion has played."""
    server = Playing(client=store, really=REVERSED, lived=[live(REVERSED, balancing(), 100)])

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path, _, query = self.path.partition("?since=")
            self._answer(server.experience(int(query)) if path == "/api/experience" else server.status())

        def do_POST(self) -> None:
            assert self.path == "/api/adaptation"
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            server.told.append(body | {"token": self.headers.get("Authorization")})
            self.send_response(500 if server.broken else 200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def _answer(self, content: dict[str, Any]) -> None:
            body = json.dumps(content).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        server.url = f"http://127.0.0.1:{http.server_address[1]}"
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield server
        http.shutdown()
        thread.join()
