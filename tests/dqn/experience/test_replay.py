import copy
import mmap
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dqn.experience.buffer import ReplayBuffer, replay_bytes, row_width
from dqn.experience.priorities import Priorities
from dqn.experience.transitions import Batch

OBS = 2


def numbered(identity: Tensor) -> Batch:
    """Transitions that carry their identity in every field, so that a field that goes astray shows."""
    value = identity.float()
    return Batch(
        observation=torch.stack([value, value + 0.1], -1),
        action=identity % 7,
        reward=value + 0.2,
        next_observation=torch.stack([value + 0.3, value + 0.4], -1),
        discount=value + 0.5,
    )


def buffer(num_agents: int, capacity: int, seed: int = 0, priorities: Priorities | None = None) -> ReplayBuffer:
    generator = torch.Generator().manual_seed(seed)
    return ReplayBuffer(num_agents=num_agents, capacity=capacity, obs=OBS, generator=generator, priorities=priorities)


@settings(deadline=None, max_examples=50)
@given(
    capacity=st.integers(4, 12),
    valid=st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=1, max_size=12),
)
def test_the_buffer_holds_each_agents_latest_valid_transitions(capacity: int, valid: list[list[bool]]) -> None:
    replay = buffer(num_agents=2, capacity=capacity)
    kept: list[list[int]] = [[], []]
    for step, flags in enumerate(valid):
        identity, mask = torch.arange(4).view(2, 2) + 4 * step, torch.tensor(flags).view(2, 2)
        replay.insert(numbered(identity), mask)
        for agent in range(2):
            kept[agent] += identity[agent][mask[agent]].tolist()
    assert replay.size.tolist() == [min(len(ids), capacity) for ids in kept]
    if not all(kept):
        return
    sample = replay.sample(200)
    identity = sample.observation[..., 0].long()
    for agent in range(2):
        assert set(identity[agent].tolist()) <= set(kept[agent][-capacity:])
    expected = numbered(identity)
    for field in ("observation", "action", "reward", "next_observation", "discount"):
        torch.testing.assert_close(getattr(sample, field), getattr(expected, field))


def test_what_was_observed_lies_between_the_least_and_the_greatest_that_is_held() -> None:
    replay = buffer(num_agents=3, capacity=4)
    numbers = torch.tensor([[5, 2, 9, 4, 3, 7]] * 3)
    valid = torch.tensor([[True] * 6, [True, True, False, False, False, False], [False] * 6])
    for first in range(0, 6, 2):  # of six the last four stay
        replay.insert(numbered(numbers[:, first : first + 2]), valid[:, first : first + 2])
    ranges = replay.observation_range(torch.tensor([0, 1, 2]))
    assert torch.equal(ranges[0], torch.tensor([[3, 9], [3.1, 9.1]]))
    assert torch.equal(ranges[1], torch.tensor([[2, 5], [2.1, 5.1]]))
    assert ranges[2].tolist() == [[torch.inf, -torch.inf]] * OBS
    assert torch.equal(replay.observation_range(torch.tensor([1])), ranges[1:2])


def test_sampling_is_uniform_and_seeded() -> None:
    replays = [buffer(num_agents=1, capacity=10, seed=3) for _ in range(2)]
    for replay in replays:
        replay.insert(numbered(torch.arange(10).view(1, 10)), torch.ones(1, 10, dtype=torch.bool))
    first, second = (replay.sample(50_000).action for replay in replays)
    assert torch.equal(first, second)
    drawn = replays[0].sample(50_000).observation[0, :, 0].long().bincount(minlength=10)
    assert float((drawn / 5_000 - 1).abs().max()) < 0.06


def test_sampling_waits_for_every_agent() -> None:
    replay = buffer(num_agents=2, capacity=100)
    valid = torch.zeros(2, 40, dtype=torch.bool)
    valid[0] = True
    replay.insert(numbered(torch.arange(80).view(2, 40)), valid)
    assert not replay.can_sample(4, min_batches=10)
    replay.insert(numbered(torch.arange(80).view(2, 40)), ~valid)
    assert replay.can_sample(4, min_batches=10)
    assert not replay.can_sample(5, min_batches=10)


def test_more_transitions_at_once_than_the_ring_holds_are_refused() -> None:
    with pytest.raises(ValueError, match="5 transitions at once do not fit a capacity of 4"):
        buffer(num_agents=1, capacity=4).insert(
            numbered(torch.arange(5).view(1, 5)), torch.ones(1, 5, dtype=torch.bool)
        )


def test_the_memory_announced_is_the_memory_taken() -> None:
    for exponent in (0.0, 0.6):
        priorities = Priorities(num_agents=3, capacity=50, exponent=exponent) if exponent else None
        replay = buffer(num_agents=3, capacity=50, priorities=priorities)
        assert replay.nbytes == replay_bytes(num_agents=3, capacity=50, obs=OBS, prioritised=exponent > 0)


def resident_bytes(address: int, size: int) -> int:
    """How much of a range of this process's memory is there; what the rest of the process does is of no account."""
    first, last = address // mmap.PAGESIZE, (address + size - 1) // mmap.PAGESIZE
    with Path("/proc/self/pagemap").open("rb") as pagemap:  # 8 bytes a page, the highest bit for one that is present
        pagemap.seek(8 * first)
        pages = np.frombuffer(pagemap.read(8 * (last - first + 1)), dtype=np.uint64)
    return int((pages >> np.uint64(63)).sum()) * mmap.PAGESIZE


def test_agents_that_leave_give_back_their_memory_and_the_others_keep_their_transitions() -> None:
    A, capacity = 4, 500_000
    replay = ReplayBuffer(num_agents=A, capacity=capacity, obs=OBS, generator=torch.Generator())
    shape = (A, capacity)
    batch = Batch(
        observation=torch.rand(*shape, OBS),
        action=torch.zeros(shape, dtype=torch.int64),
        reward=torch.rand(shape),
        next_observation=torch.rand(*shape, OBS),
        discount=torch.rand(shape),
    )
    replay.insert(batch, torch.ones(shape, dtype=torch.bool))
    before, size, address = replay._rows.clone(), replay.nbytes, replay._rows.data_ptr()
    assert resident_bytes(address, size) == pytest.approx(size, rel=0.01)
    replay.select(torch.tensor([1, 2, 3]))
    assert torch.equal(replay._rows, before[[1, 2, 3]])
    assert resident_bytes(address, size) == pytest.approx(size * 3 / 4, rel=0.01)
    assert replay.nbytes == size * 3 / 4
    replay.select(torch.tensor([0, 2]))
    assert torch.equal(replay._rows, before[[1, 3]])
    assert replay.size.tolist() == [capacity] * 2
    assert resident_bytes(address, size) == pytest.approx(size / 2, rel=0.01)
    with pytest.raises(ValueError, match=r"ascending order, got \[1, 0\]"):
        replay.select(torch.tensor([1, 0]))
    with pytest.raises(ValueError, match=r"ascending order, got \[0, 0\]"):
        replay.select(torch.tensor([0, 0]))
    replay.select(torch.tensor([], dtype=torch.int64))
    assert resident_bytes(address, size) == 0


def test_transitions_go_out_and_in_again_chunk_by_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dqn.experience.buffer._CHUNK_BYTES", 4 * row_width(OBS) * 4 - 1)
    source, copy = (ReplayBuffer(num_agents=2, capacity=10, obs=OBS, generator=torch.Generator()) for _ in range(2))
    assert list(source.chunks()) == []
    source._rows[:] = torch.rand(2, 10, source._rows.shape[2])
    source._size = torch.tensor([7, 5])
    copy.load_state_dict(source.state_dict())
    chunks = list(source.chunks())
    assert [len(chunk) for chunk in chunks] == [3, 3, 1] * 2
    for chunk, other in zip(copy.chunks(), chunks, strict=True):
        chunk.copy_(other)
    assert torch.equal(copy._rows[:, :7], source._rows[:, :7])
    assert not bool(copy._rows[:, 7:].any())


def prioritised() -> ReplayBuffer:
    replay = buffer(num_agents=2, capacity=8, priorities=Priorities(num_agents=2, capacity=8, exponent=1.0))
    replay.insert(numbered(torch.arange(8).view(2, 4)), torch.ones(2, 4, dtype=torch.bool))
    return replay


def test_errors_decide_what_is_sampled_of_each_agent() -> None:
    replay = prioritised()
    batch = replay.sample(64)
    assert batch.weight is not None
    assert batch.slot is not None
    assert bool((batch.weight == 1).all()), "new transitions are alike"
    replay.prioritise(numbered(torch.arange(8).view(2, 4)), torch.ones(2, 4))  # it was not sampled: nothing to do
    replay.prioritise(batch, (batch.slot == torch.tensor([[1], [3]])).float() * 1e6)
    assert {tuple(set(ids)) for ids in replay.sample(64).observation[..., 0].tolist()} == {(1.0,), (7.0,)}
    saved = copy.deepcopy(replay.state_dict())
    loaded = buffer(2, 8, seed=5, priorities=Priorities(num_agents=2, capacity=8, exponent=1.0))
    loaded.load_state_dict(saved)
    for mine, theirs in zip(loaded.chunks(), replay.chunks(), strict=True):
        mine.copy_(theirs)
    assert {tuple(set(ids)) for ids in loaded.sample(64).observation[..., 0].tolist()} == {(1.0,), (7.0,)}
    replay.select(torch.tensor([1]))
    assert set(replay.sample(64).observation[..., 0].flatten().tolist()) == {7.0}


def test_importance_weights_undo_priorities_in_full_unless_told_otherwise() -> None:
    def weights(**exponent: float) -> Tensor:
        replay = prioritised()
        batch = replay.sample(64)
        replay.prioritise(batch, batch.observation[..., 0] + 1)
        weight = replay.sample(64, **exponent).weight
        assert weight is not None
        return weight

    assert torch.equal(weights(), weights(importance_exponent=1.0))
    assert not torch.equal(weights(), weights(importance_exponent=0.5))


def test_without_priorities_nothing_is_weighed() -> None:
    replay = buffer(num_agents=1, capacity=10)
    replay.insert(numbered(torch.arange(10).view(1, 10)), torch.ones(1, 10, dtype=torch.bool))
    batch = replay.sample(4)
    assert batch.weight is None
    replay.prioritise(batch, torch.ones(1, 4))
    assert replay.can_sample(1)
    assert not replay.can_sample(2)
    assert replay_bytes(num_agents=2, capacity=10, obs=2) == 2 * 10 * 7 * 4
