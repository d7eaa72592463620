"""Transitions of several steps: where they begin and end, and what is pending in between."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dqn.experience.nstep import NStepAccumulator
from dqn.experience.transitions import Transition

GAMMA = 0.5
Step = tuple[float, bool, bool, bool]  # reward, terminated, truncated, valid


def steps_of(ends: list[int], rewards: list[float], *, truncate: bool) -> list[Step]:
    """Episodes of the given lengths, each followed by the reset step that is no transition."""
    steps: list[Step] = []
    for length in ends:
        for i in range(length):
            last = i == length - 1
            steps.append((rewards[len(steps) % len(rewards)], last and not truncate, last and truncate, True))
        steps.append((0.0, False, False, False))
    return steps


def reference(steps: list[Step], n_step: int, *, bootstrap_on_truncation: bool) -> dict[int, tuple[float, int, float]]:
    """For each valid start: return, the step with the next observation to bootstrap from, and its discount."""
    expected = {}
    for start, (_, _, _, valid) in enumerate(steps[: max(len(steps) - n_step + 1, 0)]):
        if not valid:
            continue
        total, weight = 0.0, 1.0
        for k in range(start, start + n_step):
            reward, terminated, truncated, _ = steps[k]
            total += weight * reward
            weight *= GAMMA
            if terminated or truncated:
                break
        cut = terminated or (truncated and not bootstrap_on_truncation)
        expected[start] = (total, k, 0.0 if cut else weight)
    return expected


@settings(deadline=None, max_examples=100)
@given(
    n_step=st.integers(1, 5),
    ends=st.lists(st.integers(1, 7), min_size=1, max_size=6),
    rewards=st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=5),
    truncate=st.booleans(),
    bootstrap=st.booleans(),
)
def test_n_step_transitions_never_join_two_episodes(
    n_step: int, ends: list[int], rewards: list[float], truncate: bool, bootstrap: bool
) -> None:
    steps = steps_of(ends, rewards, truncate=truncate)
    accumulator = NStepAccumulator(
        n_step=n_step, gamma=GAMMA, bootstrap_on_truncation=bootstrap, num_agents=1, num_envs=1, obs=1
    )
    actual = {}
    for time, (reward, terminated, truncated, valid) in enumerate(steps):
        batch, complete = accumulator.push(
            Transition(
                observation=torch.full((1, 1, 1), float(time)),
                action=torch.full((1, 1), time),
                reward=torch.full((1, 1), reward),
                next_observation=torch.full((1, 1, 1), time + 0.5),
                terminated=torch.full((1, 1), terminated),
                truncated=torch.full((1, 1), truncated),
                valid=torch.full((1, 1), valid),
            )
        )
        if bool(complete):
            start = int(batch.action)
            assert float(batch.observation) == start
            actual[start] = (float(batch.reward), int(batch.next_observation), float(batch.discount))
    assert actual == reference(steps, n_step, bootstrap_on_truncation=bootstrap)


T, A, E = 10, 2, 3


@settings(deadline=None, max_examples=60)
@given(
    ends=st.lists(st.integers(0, 9), min_size=T * A * E, max_size=T * A * E),
    n_step=st.integers(1, 4),
    bootstrap_on_truncation=st.booleans(),
)
def test_every_sub_environment_has_transitions_of_its_own(
    ends: list[int], n_step: int, bootstrap_on_truncation: bool
) -> None:
    """Of all agents and sub-environments, with steps that terminate, are truncated, or both at once."""
    kind = torch.tensor(ends).view(T, A, E)
    ended = (kind >= 1) & (kind <= 3)
    valid = torch.ones_like(ended)
    for t in range(1, T):  # a reset takes the step after an end, and ends nothing
        valid[t] = ~(ended[t - 1] & valid[t - 1])
        ended[t] &= valid[t]
    terminated, truncated = ended & (kind != 2), ended & (kind != 1)
    reward = torch.arange(1.0, T * A * E + 1).view(T, A, E)
    accumulator = NStepAccumulator(
        n_step=n_step,
        gamma=0.5,
        reward_scale=2.0,
        bootstrap_on_truncation=bootstrap_on_truncation,
        num_agents=A,
        num_envs=E,
        obs=1,
    )
    for t in range(T):
        batch, mask = accumulator.push(step(reward[t], terminated[t], truncated[t], valid[t]))
        start = t - n_step + 1
        assert torch.equal(mask, valid[start] if start >= 0 else torch.zeros(A, E, dtype=torch.bool))
        for agent, env in mask.nonzero().tolist():
            column = slice(start, t + 1), agent, env
            length = next((k + 1 for k, end in enumerate(ended[column].tolist()) if end), n_step)
            last = start + length - 1, agent, env
            cut = bool(terminated[last]) or (bool(truncated[last]) and not bootstrap_on_truncation)
            rewards = [2.0 * 0.5**k * float(reward[start + k, agent, env]) for k in range(length)]
            assert float(batch.reward[agent, env]) == pytest.approx(sum(rewards))
            assert float(batch.discount[agent, env]) == (0.0 if cut else 0.5**length)
            assert float(batch.observation[agent, env, 0]) == float(reward[start, agent, env])
            assert float(batch.next_observation[agent, env, 0]) == -float(reward[last])
            assert int(batch.action[agent, env]) == int(reward[start, agent, env]) % 5


def step(reward: Tensor, terminated: Tensor, truncated: Tensor, valid: Tensor) -> Transition:
    """A step with observations and actions that tell its reward."""
    return Transition(
        observation=reward.unsqueeze(-1),
        action=(reward % 5).long(),
        reward=reward,
        next_observation=-reward.unsqueeze(-1),
        terminated=terminated,
        truncated=truncated,
        valid=valid,
    )


def pending(steps: int = 2) -> NStepAccumulator:
    accumulator = NStepAccumulator(n_step=3, gamma=0.5, bootstrap_on_truncation=True, num_agents=A, num_envs=E, obs=1)
    for number in range(steps):
        accumulator.push(plain_step(number))
    return accumulator


def plain_step(number: int, agents: slice = slice(None)) -> Transition:
    reward = 10.0 * number + torch.arange(float(A * E)).view(A, E)[agents]
    nothing = torch.zeros(reward.shape, dtype=torch.bool)
    return step(reward, nothing, nothing, ~nothing)


def test_pending_transitions_go_on_after_they_were_saved_and_for_the_agents_that_stay() -> None:
    expected, mask = pending().push(plain_step(2))
    assert mask.all()
    loaded = pending(steps=0)
    loaded.load_state_dict(copy.deepcopy(pending().state_dict()))
    narrowed = pending()
    narrowed.select(torch.tensor([1]))
    for accumulator, agents in ((loaded, slice(None)), (narrowed, slice(1, 2))):
        batch, mask = accumulator.push(plain_step(2, agents))
        assert mask.all()
        for name in ("observation", "action", "reward", "next_observation", "discount"):
            assert torch.equal(getattr(batch, name), getattr(expected, name)[agents]), name


def test_what_was_pending_is_forgotten_where_environments_began_anew() -> None:
    accumulator = pending()
    accumulator.clear()
    masks = [bool(accumulator.push(plain_step(number))[1].any()) for number in (2, 3)]
    assert masks == [False, False]
    batch, mask = accumulator.push(plain_step(4))
    assert mask.all()
    torch.testing.assert_close(batch.reward[0, 0], torch.tensor(20.0 + 0.5 * 30 + 0.25 * 40))
