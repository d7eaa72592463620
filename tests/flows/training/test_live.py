"""What a running training shows of itself: what is taken when, what is sent, and what it costs."""

import base64
import json
from typing import Any

import msgspec
import pytest
import torch

from dqn.config import DQNConfig
from dqn.training.metrics import Metrics
from dqn.training.milestones import milestones_due
from dqn.training.state import TrainingState
from flows.tracking.attempt import Attempt, FencedClient
from flows.training.live import AGAIN_SECONDS, FILE, LIVE_TAG, POINTS, Live
from serving.episodes.training import Population
from serving.policy import OnnxPolicy


class Client:
    """A run; `fault` is what writing to it raises."""

    def __init__(self) -> None:
        self.files: list[dict[str, Any]] = []
        self.tags: list[str] = []
        self.confirmed = True
        self.fault: Exception | None = None

    def log_text(self, run_id: str, content: str, file: str) -> None:
        if self.fault:
            raise self.fault
        assert (run_id, file) == ("r", FILE)
        self.files.append(json.loads(content))

    def set_tag(self, run_id: str, name: str, value: str) -> None:
        assert (run_id, name) == ("r", LIVE_TAG)
        self.tags.append(value)


class Times:
    """A clock, and the CPU seconds of each piece of work."""

    def __init__(self) -> None:
        self.now = 0.0
        self.used = 0.0
        self.cost = 0.0

    def use(self) -> float:
        self.used += self.cost / 2  # it is read before and after each piece
        return self.used


def evaluated(*returns: float, step: int = 1_000) -> list[Metrics]:
    agents = torch.arange(len(returns))
    mean = Metrics(
        name="train/episodic_return", agent=agents, step=torch.full_like(agents, step), value=torch.tensor(returns)
    )
    one = torch.tensor([-1])
    return [mean, Metrics(name="eval/solved_fraction", agent=one, step=one, value=one.double())]


@pytest.fixture
def state() -> TrainingState:
    return TrainingState.begin(DQNConfig(num_agents=3, hidden_sizes=(4,), num_envs=1))


def live_of(state: TrainingState) -> tuple[Live, Client, Times]:
    client, times = Client(), Times()
    fenced = FencedClient(client=client, attempt=Attempt(run_id="r", token="t"))  # type: ignore[arg-type]
    return Live(fenced, state, confirmed=lambda: client.confirmed, now=lambda: times.now, used=times.use), client, times


def test_the_untrained_networks_and_those_of_each_evaluation_are_sent_once_and_play(state: TrainingState) -> None:
    live, client, _ = live_of(state)
    live.take([])
    live.send()
    live.send()
    state.learner.updates, state.evaluations = 300, 1
    state.last_return[:] = torch.tensor([11.0, 21.0, 31.0])
    live.take([])
    live.send()
    live.take(evaluated(10.0, 20.0, 30.0))
    state.learner.evaluated.weights[0].data.fill_(9.0)  # training goes on before it is sent
    live.send()
    assert [content["updates"] for content in client.files] == [0, 300]
    assert [tag.split()[0] for tag in client.tags] == ["0", "300"]
    told = msgspec.json.decode(json.dumps(client.files[1]), type=Population)
    assert [(agent.agent, agent.state, agent.curve) for agent in told.agents] == [
        (0, "learning", [(1_000, 10.0)]), (1, "learning", [(1_000, 20.0)]), (2, "learning", [(1_000, 30.0)]),
    ]  # fmt: skip
    assert (told.num_agents, told.solved, told.max_updates) == (3, None, state.config.max_updates)
    assert [agent.mean_return for agent in told.agents] == [11.0, 21.0, 31.0]
    models = [base64.b64decode(agent["model"]) for agent in client.files[1]["agents"]]
    assert OnnxPolicy.load(models[1]).metadata.env_id == "CartPole-v1"
    assert models == [base64.b64decode(agent["model"]) for agent in client.files[0]["agents"]], "a copy was taken"


def test_of_an_agent_that_has_left_the_best_network_is_shown(state: TrainingState) -> None:
    live, client, _ = live_of(state)
    state.solved[1], state.diverged = True, {2: (7, "loss is not finite")}
    state.best.weights[0].data[1].fill_(5.0)
    state.select(torch.tensor([0]))
    live.take([])
    assert live._taken
    networks = live._taken[1]
    assert networks
    assert float(networks.weights[0][1].min()) == 5.0
    assert torch.equal(networks.weights[0][0], state.learner.evaluated.weights[0][0])
    live.send()
    assert [agent["state"] for agent in client.files[0]["agents"]] == ["learning", "solved", "diverged"]


def test_it_takes_at_most_a_hundredth_of_the_time(state: TrainingState) -> None:
    live, client, times = live_of(state)
    times.cost = 0.2
    for second in range(100):
        times.now = float(second)
        state.learner.updates = second
        live.take(evaluated(1.0))
        times.cost = 0.0  # steps without anything to take cost nothing that counts
        live.take([])
        times.cost = 0.2
        live.send()
    assert live.seconds <= 0.01 * 100 + 100 * 0.2, "what is noted of every evaluation counts too"
    assert len(client.files) < 10
    free, client, times = live_of(state)
    for second in range(100):
        times.now = float(second)
        free.take(evaluated(1.0))
        free.send()
    assert len(client.files) == 100


def test_other_environments_have_curves_and_no_networks() -> None:
    state = TrainingState.begin(DQNConfig(env_id="Acrobot-v1", num_agents=20, hidden_sizes=(4,), num_envs=1))
    live, client, _ = live_of(state)
    live.take(evaluated(*range(20)))
    live.send()
    assert [agent["model"] for agent in client.files[0]["agents"]] == [""] * 16
    assert client.files[0]["num_agents"] == 20


def test_a_return_that_is_not_finite_is_left_out(state: TrainingState) -> None:
    live, client, _ = live_of(state)
    state.evaluations = 1
    state.last_return[:] = torch.tensor([torch.nan, -torch.inf, 1.0])
    live.take(evaluated(torch.nan, torch.inf, 2.0))
    live.send()
    told = msgspec.json.decode(json.dumps(client.files[0]), type=Population)
    assert [(agent.mean_return, agent.curve) for agent in told.agents] == [
        (None, []),
        (None, []),
        (1.0, [(1_000, 2.0)]),
    ]
    assert told.mean_return is None


def test_a_curve_is_thinned_out_and_keeps_its_newest_value(state: TrainingState) -> None:
    live, client, _ = live_of(state)
    for step in range(1_000):
        live.take(evaluated(float(step), step=step))
        assert live._curves[0][-1] == (step, float(step))
    live.send()
    curve = client.files[0]["agents"][0]["curve"]
    assert POINTS / 2 <= len(curve) <= POINTS
    assert curve == sorted(curve)
    assert curve[-1] == [999, 999.0]


def test_a_training_is_heard_of_without_a_new_state(state: TrainingState, monkeypatch: pytest.MonkeyPatch) -> None:
    live, client, times = live_of(state)
    monkeypatch.setattr("flows.training.live.time.time", lambda: 1_000.0 + times.now)
    live.take([])
    for times.now in (1.0, AGAIN_SECONDS, AGAIN_SECONDS + 1, AGAIN_SECONDS + 2):
        live.send()
    assert client.tags == ["0 1001", "0 1031"]
    assert len(client.files) == 1


def test_a_store_that_is_away_costs_a_warning_and_a_stale_attempt_writes_nothing(
    state: TrainingState, caplog: pytest.LogCaptureFixture
) -> None:
    live, client, _ = live_of(state)
    client.fault = ConnectionError("gone")
    for _ in range(2):
        live.take(evaluated(1.0))
        live.send()
    assert [record.message for record in caplog.records] == ["this training cannot be watched while it runs: gone"]
    client.fault, client.confirmed = None, False
    live.take(evaluated(1.0))
    live.send()
    assert not client.files
    client.confirmed = True
    live.send()
    assert len(client.files) == 1


def test_a_milestone_is_taken_without_an_evaluation(state: TrainingState) -> None:
    live, client, _ = live_of(state)
    due = sorted(milestones_due(state.config.max_updates))[1]
    for state.learner.updates in (0, due - 1, due):
        state.keep_milestone()
        live.take([])
        live.send()
    assert [content["updates"] for content in client.files] == [0, due]
