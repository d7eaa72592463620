import pytest
import torch

from dqn.experience.priorities import Priorities, leaves


def stored(num_agents: int = 2, capacity: int = 10, exponent: float = 0.5) -> Priorities:
    priorities = Priorities(num_agents=num_agents, capacity=capacity, exponent=exponent)
    priorities.insert(torch.tensor([0, 1, 2, 10, 11, 12]))  # three transitions an agent
    return priorities


def draw(priorities: Priorities, count: int = 60_000, beta: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    draws = torch.rand(2, count, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return priorities.sample(draws, beta)


def test_transitions_are_sampled_by_their_error_to_the_exponent() -> None:
    priorities = stored()
    priorities.update(torch.tensor([[0, 1, 2], [10, 11, 12]]), torch.tensor([[1.0, 4.0, 9.0], [-4.0, 4.0, 0.0]]))
    slot, _ = draw(priorities)
    shares = torch.stack([agent.bincount(minlength=3) / agent.numel() for agent in slot])
    expected = torch.tensor([[1 / 6, 2 / 6, 3 / 6], [0.5, 0.5, 0.0]])
    torch.testing.assert_close(shares, expected, atol=0.01, rtol=0.0)


def test_importance_weights_undo_the_priorities() -> None:
    priorities = stored(exponent=1.0)
    priorities.update(torch.tensor([[0, 1, 2], [10, 11, 12]]), torch.tensor([[1.0, 2.0, 5.0], [3.0, 3.0, 3.0]]))
    slot, weight = draw(priorities)
    for agent in range(2):  # weighted, every transition counts the same
        counts = torch.stack([weight[agent][slot[agent] == k].sum() for k in range(3)])
        torch.testing.assert_close(counts / counts.sum(), torch.full((3,), 1 / 3), atol=0.01, rtol=0.0)
    torch.testing.assert_close(weight.amax(1), torch.ones(2))
    _, unweighted = draw(priorities, beta=0.0)
    assert bool((unweighted == 1).all())


def test_new_transitions_have_the_greatest_priority_of_their_agent() -> None:
    priorities = stored(exponent=1.0)
    priorities.update(torch.tensor([[0, 1, 2], [10, 11, 12]]), torch.tensor([[6.0, 1.0, 1.0], [0.1, 0.1, 0.1]]))
    priorities.insert(torch.tensor([3, 13]))
    slot, _ = draw(priorities)
    shares = [float((slot[agent] == 3).double().mean()) for agent in range(2)]
    assert shares == pytest.approx([6 / 14, 1 / 1.3], abs=0.01)


def test_nothing_is_sampled_where_nothing_is_stored() -> None:
    slot, _ = stored().sample(torch.tensor([[0.0, 1 - 1e-16], [0.0, 1 - 1e-16]], dtype=torch.float64), 1)
    assert slot.tolist() == [[0, 2], [0, 2]]


def test_agents_that_stay_keep_their_priorities() -> None:
    priorities = stored()
    priorities.update(torch.tensor([[0], [11]]), torch.tensor([[100.0], [100.0]]))
    priorities.select(torch.tensor([1]))
    slot, _ = priorities.sample(torch.full((1, 1), 0.5, dtype=torch.float64), 1.0)
    assert slot.tolist() == [[1]]


@pytest.mark.parametrize("capacity", [1, 2, 5, 8, 13])
def test_the_tree_samples_as_cumulative_sums_do(capacity: int) -> None:
    generator = torch.Generator().manual_seed(capacity)
    priorities = Priorities(num_agents=3, capacity=capacity, exponent=1.0)
    priorities.insert(torch.arange(3 * capacity))
    expected = torch.ones(3, capacity)
    for _ in range(20):
        slot = torch.randint(capacity, (3, 4), generator=generator)
        error = torch.randint(1, 50, (3, capacity), generator=generator).float()  # sums are exact in float32
        priorities.update(slot + capacity * torch.arange(3).unsqueeze(1), error.gather(1, slot))  # some of them twice
        expected.scatter_(1, slot, error.gather(1, slot))
    assert torch.equal(priorities.state_dict()["scaled"], expected)
    loaded = Priorities(num_agents=3, capacity=capacity, exponent=1.0)
    loaded.load_state_dict(priorities.state_dict())
    draws = torch.rand(3, 500, dtype=torch.float64, generator=generator)
    total = expected.double().cumsum(1)
    oracle = torch.searchsorted(total, draws * total[:, -1:], right=True)
    for tree in (priorities, loaded):
        slot, weight = tree.sample(draws, 1.0)
        assert torch.equal(slot, oracle)
        inverse = 1 / expected.gather(1, oracle)
        torch.testing.assert_close(weight, inverse / inverse.amax(1, keepdim=True))


def test_a_draw_on_the_border_of_two_transitions_is_the_second_ones() -> None:
    priorities = Priorities(num_agents=1, capacity=4, exponent=1.0)
    priorities.insert(torch.arange(4))
    slot, _ = priorities.sample(torch.tensor([[0.0, 0.25, 0.5, 0.75]], dtype=torch.float64), 1.0)
    assert slot.tolist() == [[0, 1, 2, 3]]


def test_a_sum_rounded_up_leads_to_no_empty_slot() -> None:
    priorities = Priorities(num_agents=1, capacity=4, exponent=1.0)
    priorities.insert(torch.arange(3))
    last = 0.75 * 2**-16  # of float32's step at 128: the total is 128 and a whole step
    priorities.update(torch.tensor([[0, 1, 2]]), torch.tensor([[64.0, 64.0, last]]))
    slot, _ = priorities.sample(torch.tensor([[1 - 1e-16]], dtype=torch.float64), 1.0)
    assert slot.tolist() == [[2]]


def test_a_tree_is_no_larger_than_it_must_be() -> None:
    assert [leaves(capacity) for capacity in (1, 2, 3, 4, 5, 8, 9)] == [1, 2, 4, 4, 8, 8, 16]


def test_the_greatest_priority_is_loaded_too() -> None:
    priorities, loaded = stored(exponent=1.0), stored(exponent=1.0)
    priorities.update(torch.tensor([[0], [10]]), torch.tensor([[6.0], [9.0]]))
    loaded.load_state_dict(priorities.state_dict())
    loaded.insert(torch.tensor([3, 13]))
    assert loaded.state_dict()["scaled"][:, 3].tolist() == [6.0, 9.0]


def test_what_was_saved_goes_on_as_it_was() -> None:
    saved, loaded = stored(exponent=1.0), Priorities(num_agents=2, capacity=10, exponent=1.0)
    saved.update(torch.tensor([[0, 1, 2], [10, 11, 12]]), torch.tensor([[6.0, 1.0, 1.0], [0.1, 0.1, 0.1]]))
    loaded.load_state_dict(saved.state_dict())
    for priorities in (saved, loaded):
        priorities.insert(torch.tensor([3, 13]))  # with the greatest priority of their agent so far
    for one, other in zip(draw(saved), draw(loaded), strict=True):
        assert torch.equal(one, other)


def test_the_memory_of_priorities_is_that_of_their_tree() -> None:
    assert stored(capacity=10).nbytes == 2 * 2 * 16 * 4  # of two agents, twice as many nodes as leaves, in float32
