"""Action masks between the environment and the replay buffer, and in exploration."""

import copy

import pytest
import torch

from dqn.experience.buffer import ReplayBuffer, replay_bytes
from dqn.experience.exploration import epsilon_greedy
from dqn.experience.masking import allows, masked, random_action
from dqn.experience.nstep import NStepAccumulator
from dqn.experience.transitions import Batch, Transition
from tests.support.dqn.masked import CORRIDOR, counted
from tests.support.dqn.vector import make


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_random_actions_are_uniform_among_the_allowed_ones() -> None:
    mask = torch.tensor([[0, 1, 0, 1, 1], [1, 0, 0, 0, 0], [1, 1, 1, 1, 1]], dtype=torch.bool)
    action = random_action(mask.repeat(30_000, 1, 1), generator())
    for row, allowed in enumerate(mask):
        share = torch.bincount(action[:, row], minlength=5) / len(action)
        torch.testing.assert_close(share, allowed / allowed.sum(), atol=0.01, rtol=0)


@pytest.mark.parametrize("epsilon", [0.0, 0.5, 1.0])
def test_no_action_is_taken_that_is_not_allowed(epsilon: float) -> None:
    mask = torch.rand(1, 10_000, 4, generator=generator()) < 0.4
    mask[..., 2] |= ~mask.any(-1)
    q_values = torch.randn(1, 10_000, 4, generator=generator())
    action = epsilon_greedy(q_values, torch.tensor([epsilon]), generator(), mask=mask)
    assert allows(mask, action).all()
    assert not allows(mask, torch.full_like(action, -1)).any()
    greedy = q_values.where(mask, -torch.inf).argmax(-1)
    by_chance = float((1 / mask.sum(-1)).mean())
    assert (action == greedy).float().mean() == pytest.approx(1 - epsilon + epsilon * by_chance, abs=0.02)


def test_masked_q_values_are_finite() -> None:
    q_values = torch.tensor([1e9, -1e9])
    assert masked(q_values, torch.tensor([False, True])).tolist() == [torch.finfo(torch.float32).min, -1e9]
    assert masked(q_values, None) is q_values


def test_a_vector_environment_has_the_masks_of_the_next_actions() -> None:
    with counted():
        environment = make(CORRIDOR, num_agents=2, num_envs=3)
        assert environment.spaces.mask_size == 6
        for _ in range(100):
            assert environment.action_mask is not None
            assert environment.action_mask.sum(-1).min() >= 2
            previous = environment.action_mask
            transition = environment.step(random_action(previous, generator()))
            assert transition.next_mask is environment.action_mask
        mask = environment.action_mask
        environment.select(torch.tensor([1]))
        assert mask is not None
        assert environment.action_mask is not None
        assert torch.equal(environment.action_mask, mask[1:])
        assert environment.action_mask.shape == (1, 3, 6)
        environment.close()
    assert make("CartPole-v1").spaces.mask_size == 0


def transition(number: int, *, terminated: bool = False, truncated: bool = False) -> Transition:
    """Step `number`, after which only action `number` is allowed."""
    shape = (1, 1)
    return Transition(
        observation=torch.zeros(1, 1, 1),
        action=torch.zeros(shape, dtype=torch.int64),
        reward=torch.zeros(shape),
        next_observation=torch.full((1, 1, 1), float(number)),
        terminated=torch.full(shape, terminated),
        truncated=torch.full(shape, truncated),
        valid=torch.full(shape, number != 3),
        next_mask=torch.arange(7).eq(number).view(1, 1, 7),
    )


@pytest.mark.parametrize("n_step", [1, 2, 3])
@pytest.mark.parametrize("truncated", [True, False])
def test_the_mask_belongs_to_the_next_observation(n_step: int, truncated: bool) -> None:
    """An episode of steps 0 to 2, the reset in step 3, and an episode from step 4 on."""
    accumulator = NStepAccumulator(
        n_step=n_step, gamma=0.5, bootstrap_on_truncation=True, num_agents=1, num_envs=1, obs=1, mask=7
    )
    found = {}
    for number in range(7):
        ends = {"truncated": truncated, "terminated": not truncated} if number == 2 else {}
        batch, valid = accumulator.push(transition(number, **ends))
        if valid.all():
            assert batch.next_mask is not None
            assert batch.next_mask.sum() == 1
            assert int(batch.next_mask.long().argmax()) == int(batch.next_observation)
            found[number - n_step + 1] = int(batch.next_observation)
    expected = {start: min(start + n_step - 1, 2) for start in range(3)}
    expected |= {start: start + n_step - 1 for start in range(4, 7) if start + n_step - 1 < 7}
    assert found == expected


@pytest.mark.parametrize("actions", [1, 4, 5, 9])
def test_masks_go_into_the_buffer_and_out_again(actions: int) -> None:
    def buffer() -> ReplayBuffer:
        return ReplayBuffer(num_agents=3, capacity=20, obs=2, mask=actions, generator=generator())

    replay, draw = buffer(), generator()
    for number in range(9):  # the ring overflows
        mask = torch.rand(3, 4, actions, generator=draw) < 0.5
        identity = torch.zeros(3, 4, 2)
        identity[..., 0] = mask.long() @ 2 ** torch.arange(actions)
        batch = Batch(
            observation=identity,
            action=torch.full((3, 4), number),
            reward=torch.ones(3, 4),
            next_observation=identity + 0.5,
            discount=torch.full((3, 4), 0.25),
            next_mask=mask,
        )
        replay.insert(batch, torch.ones(3, 4, dtype=torch.bool))
    assert replay.nbytes == replay_bytes(num_agents=3, capacity=20, obs=2, mask=actions)
    assert replay.nbytes - replay_bytes(num_agents=3, capacity=20, obs=2) == 60 * 4 * -(-actions // 4)
    state, chunks = copy.deepcopy(replay.state_dict()), [chunk.clone() for chunk in replay.chunks()]
    again = buffer()
    again.load_state_dict(state)
    for mine, chunk in zip(again.chunks(), chunks, strict=True):
        mine.copy_(chunk)
    for each in (replay, again):
        each.select(torch.tensor([0, 2]))
        sample = each.sample(50)
        assert sample.next_mask is not None
        assert sample.next_mask.shape == (2, 50, actions)
        assert torch.equal((sample.next_mask.long() @ 2 ** torch.arange(actions)).float(), sample.observation[..., 0])
        assert sample.reward.eq(1).all()
        assert sample.discount.eq(0.25).all()
        assert torch.equal(sample.next_observation, sample.observation + 0.5)


def test_without_masks_a_row_is_no_longer() -> None:
    replay = ReplayBuffer(num_agents=1, capacity=20, obs=2, generator=generator())
    assert replay.nbytes == 20 * (2 + 2 + 3) * 4
