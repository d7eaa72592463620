"""NaN and both infinities, wherever they enter: they are named, and nothing else changes."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dqn.evaluation.greedy import greedy_returns
from dqn.experience.priorities import Priorities
from dqn.experience.transitions import Batch
from dqn.finite import DivergedError
from dqn.learning.losses import td_loss
from dqn.networks.onnx import ExportError, ModelProperties, by_reference, export_onnx
from dqn.networks.population import QNetworks
from dqn.training import loop, selection
from dqn.training.checkpoint import load_checkpoint, save_checkpoint
from dqn.training.loop import train
from dqn.training.result import AgentResult
from dqn.training.selection import diverge, evaluate, leave
from dqn.training.state import TrainingState
from dqn.training.steps import advance, learn
from tests.support.dqn.finite import (
    AGENTS,
    CONFIGS,
    UPDATES,
    VALUES,
    agents,
    configs,
    nothing_else_is,
    others_alike,
    values,
)


def leaving(agent: int, update: int, after: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent leaves right after an update, or after the evaluation that follows it, for no fault of its own."""
    original = getattr(loop, after)

    def call(state: TrainingState, *arguments: Any) -> None:
        original(state, *arguments)
        rows = (state.agents == agent).nonzero().squeeze(1)
        if state.learner.updates == update and len(rows):
            leave(state, rows)

    monkeypatch.setattr(loop, after, call)


def row_of(state: TrainingState, agent: int) -> int | None:
    rows = (state.agents == agent).nonzero().flatten().tolist()
    return rows[0] if rows else None


def injected(state: TrainingState, kind: str, agent: int, update: int, value: float, entry: int) -> None:
    """Put a value into the loss, a weight or a gradient's moment of an agent in its n-th update."""
    learner = state.learner
    original = learner.update

    def wrapped(batch: Batch, loss: Any = None) -> Any:
        row = row_of(state, agent)
        if kind == "loss" and learner.updates + 1 == update and row is not None:
            batch.reward[row, entry % batch.reward.shape[1]] = value  # a copy of what is in the memory
        statistics = original(batch, loss)
        if learner.updates != update or row is None:
            return statistics
        if kind == "loss":
            return statistics
        tensors = learner._optimizer.moments if kind == "moment" else learner.online.tensors
        tensor = tensors[entry % len(tensors)][row]
        tensor.view(-1)[entry % tensor.numel()] = value
        return statistics

    learner.update = wrapped  # type: ignore[method-assign]


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(
    name=configs,
    kind=st.sampled_from(["loss", "weight", "moment"]),
    agent=agents,
    update=st.integers(1, UPDATES),
    value=values,
    entry=st.integers(0, 10_000),
)
def test_an_agent_that_diverges_leaves_and_the_others_never_notice(
    name: str, kind: str, agent: int, update: int, value: float, entry: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    if name == "cartpole" and kind in ("weight", "moment"):
        name = "plain"  # in CartPole all agents draw from one generator: what one does shows in the others
    config = CONFIGS[name]
    state = TrainingState.begin(config)
    injected(state, kind, agent, update, value, entry)
    faulty = train(config, state=state)
    nothing_else_is(faulty, agent, tmp_path_factory.mktemp("finite"))
    noticed = faulty.agents[agent].diverged
    assert noticed is not None
    assert update <= noticed <= update + config.eval_interval
    assert kind != "loss" or noticed == update
    with pytest.MonkeyPatch.context() as monkeypatch:
        leaving(agent, noticed, "learn", monkeypatch)
        others_alike(faulty, train(config), agent)


@pytest.mark.slow
@settings(max_examples=12, deadline=None)
@given(name=configs, agent=agents, look=st.integers(0, 2), value=values)
def test_a_return_that_is_not_finite_is_never_the_best(
    name: str, agent: int, look: int, value: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    config, looks = CONFIGS[name], list[int]()
    original = greedy_returns
    with pytest.MonkeyPatch.context() as monkeypatch:

        def returns(networks: QNetworks, *arguments: Any, **options: Any) -> torch.Tensor:
            played = original(networks, *arguments, **options)
            if networks.num_agents == AGENTS:
                looks.append(len(looks))
                if looks[-1] == look:
                    played[agent, 0] = value
            return played

        monkeypatch.setattr(selection, "greedy_returns", returns)
        faulty = train(config)
    nothing_else_is(faulty, agent, tmp_path_factory.mktemp("finite"))
    assert faulty.agents[agent].diverged == 8 * (look + 1)
    with pytest.MonkeyPatch.context() as monkeypatch:
        leaving(agent, 8 * (look + 1), "evaluate", monkeypatch)
        others_alike(faulty, train(config), agent)


@pytest.mark.parametrize("value", VALUES)
def test_an_agent_with_an_acceptance_return_that_is_not_finite_is_named_and_not_the_best(
    value: float, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    original, judged = greedy_returns, list[int]()

    def returns(networks: QNetworks, *arguments: Any, **options: Any) -> torch.Tensor:
        played = original(networks, *arguments, **options)
        if networks.num_agents == 1:
            judged.append(1)
            if len(judged) == 1:
                played[0, 1] = value
        return played

    monkeypatch.setattr(selection, "greedy_returns", returns)
    result = train(CONFIGS["plain"])
    (agent,) = (each.agent for each in result.agents if each.diverged is not None)
    nothing_else_is(result, agent, tmp_path)


@pytest.mark.parametrize("value", [*VALUES, 3e38])
@pytest.mark.parametrize("exponent", [0.6, 1.0])
def test_no_error_poisons_the_priorities(value: float, exponent: float) -> None:
    priorities = Priorities(num_agents=2, capacity=16, exponent=exponent)
    priorities.insert(torch.arange(32))
    index = torch.tensor([[0, 1, 2, 3], [16, 17, 18, 19]])
    error = torch.ones(2, 4)
    error[0, 1:3] = value
    priorities.update(index, error)
    priorities.insert(torch.tensor([5, 6]))
    assert bool(priorities._tree.isfinite().all())
    assert bool(priorities._greatest.isfinite().all())
    slot, weight = priorities.sample(torch.rand(2, 1000, dtype=torch.float64), 0.5)
    assert bool(weight.isfinite().all())
    assert len(set(slot[1].tolist())) == 16
    assert len(set(slot[0].tolist())) > 1


def own(outputs: torch.Tensor, batch: Batch, online: QNetworks, target: QNetworks) -> torch.Tensor:
    return td_loss(outputs.squeeze(3).gather(2, batch.action.unsqueeze(2)).squeeze(2) - batch.reward, loss="squared")


def test_a_loss_of_ones_own_is_watched_too(tmp_path: Path) -> None:
    calls = list[int]()

    def faulty(*arguments: Any) -> torch.Tensor:
        calls.append(1)
        losses = own(*arguments)
        return losses * torch.tensor([1.0, math.nan, 1.0])[:, None] if len(calls) == 5 else losses

    result = train(CONFIGS["plain"], loss=faulty)
    nothing_else_is(result, 1, tmp_path)
    assert (result.agents[1].diverged, result.agents[1].selection_return) == (5, None)


@pytest.mark.parametrize("factor", VALUES)
def test_a_population_that_diverged_as_a_whole_is_an_error(factor: float) -> None:
    def faulty(*arguments: Any) -> torch.Tensor:
        return own(*arguments) * factor

    with pytest.raises(DivergedError, match=r"all 3 agents diverged, the first was agent 0\d after update \d+ \(") as e:
        train(CONFIGS["plain"], loss=faulty)
    assert e.value.diverged.keys() == {0, 1, 2}


def test_a_checkpoint_keeps_which_agents_diverged(tmp_path: Path) -> None:
    config = CONFIGS["prioritised"]
    state = TrainingState.begin(config)
    advance(state, 3)
    diverge(state, torch.tensor([True, False, True]), "the loss is not finite")
    save_checkpoint(tmp_path / "run.ckpt", state)
    resumed, continues = load_checkpoint(tmp_path / "run.ckpt", config)
    assert continues
    assert resumed.diverged == {1: (3, "the loss is not finite")}
    first, second = train(config, state=state), train(config, state=resumed)
    assert first.agents == second.agents
    assert first.agents[1].diverged == 3
    others_alike(first, second, 1)


def test_all_that_hides_behind_relu_is_found_at_an_evaluation_or_where_a_rung_ends() -> None:
    for look in (evaluate, lambda state: advance(state, 1)):
        state = TrainingState.begin(CONFIGS["plain"])
        advance(state, 1)
        state.learner.online.biases[0][2, 0] = -torch.inf
        look(state)
        assert state.diverged == {2: (1, "weights or moments are not finite")}


def test_huge_finite_sums_are_no_divergence() -> None:
    state = TrainingState.begin(CONFIGS["plain"])
    advance(state, 1)
    original = state.learner.update

    def huge(batch: Batch, loss: Any = None) -> Any:
        statistics = original(batch, loss)
        return dataclasses.replace(statistics, loss=torch.full_like(statistics.loss, 6e37), finite=False)

    state.learner.update = huge  # type: ignore[method-assign]
    learn(state)
    assert state.diverged == {}


def agent(k: int, **fields: Any) -> AgentResult:
    given = {"solved": False, "selection_return": 0.0, "updates": 1, "environment_steps": 1, "episodes": 1}
    return AgentResult(agent=k, **(given | fields))


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("field", ["judged_return", "robustness"])
def test_what_is_not_finite_wins_nothing(value: float, field: str) -> None:
    result = train(CONFIGS["plain"])
    both = (agent(0, **{"judged_return": 1.0, field: value}), agent(1, **{"judged_return": 100.0, field: 0.5}))
    assert dataclasses.replace(result, agents=both).best_agent == 1
    none = dataclasses.replace(result, agents=(agent(0, judged_return=value), agent(1, judged_return=5.0, diverged=7)))
    with pytest.raises(DivergedError, match="there is no best agent"):
        _ = none.best_agent
    with pytest.raises(DivergedError):
        none.export("nowhere.onnx")


@pytest.mark.parametrize("value", VALUES)
def test_weights_that_are_not_finite_are_not_exported(value: float) -> None:
    config = CONFIGS["plain"]
    networks = TrainingState.begin(config).learner.online
    networks.biases[0][1, 0] = value  # minus infinity never shows in a Q-value
    properties = ModelProperties.of(config, num_actions=2, run_id="", agent=1)
    with pytest.raises(ExportError, match="the network of agent 01 has weights that are not finite"):
        export_onnx(networks, properties, load=by_reference)
    export_onnx(networks, dataclasses.replace(properties, agent=0), load=by_reference)
