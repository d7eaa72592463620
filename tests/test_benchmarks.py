"""What the measurements compute; the measurements themselves are run by `make bench`."""

import dataclasses

import numpy as np
import pytest

from benchmarks.__main__ import summary
from benchmarks.ablation import ARTICLE, VARIANTS, configuration
from benchmarks.contestants import FIXED_BUDGET, Outcome
from benchmarks.limits import update_flops
from benchmarks.mutants import mutants_of
from dqn.presets import PRESETS


@pytest.mark.parametrize("name", [*VARIANTS, ARTICLE])
def test_every_variant_can_be_trained(name: str) -> None:
    assert configuration(name).num_agents == 16


def test_every_variant_changes_what_it_names_and_nothing_else() -> None:
    for changes in VARIANTS.values():
        variant = dataclasses.replace(FIXED_BUDGET, **changes)
        differing = {k for k, v in variant.to_dict().items() if v != FIXED_BUDGET.to_dict()[k]}
        assert differing == changes.keys()


def test_the_operations_of_an_update_are_counted() -> None:
    config = dataclasses.replace(
        PRESETS["cartpole"], num_agents=1, batch_size=1, hidden_sizes=(3,), replay_capacity=200
    )
    forward = 4 * 3 + 3 * 2
    assert update_flops(config) == 2 * (3 * forward + 3 * 2)


def test_the_summary_counts_agents_and_their_cost() -> None:
    perfect, imperfect = np.full((2, 100), 500.0), np.full((2, 100), 500.0)
    imperfect[1, 7] = 499.0
    outcomes = [
        Outcome(contestant="one", seed=0, cpu_seconds=2.0, returns=perfect),
        Outcome(contestant="other", seed=0, cpu_seconds=9.0, returns=np.zeros((1, 100))),
        Outcome(contestant="one", seed=1, cpu_seconds=6.0, returns=imperfect),
    ]
    one, other = summary(outcomes)
    assert (one["agents"], one["solved"], one["CPU-s an agent"]) == (4, 3, 2.0)
    assert one["CPU-s a solved agent"] == pytest.approx(8 / 3)
    assert (one["from"], one["to"]) == (1.0, 3.0)
    assert (other["agents"], other["solved"]) == (1, 0)
    assert np.isnan(other["CPU-s a solved agent"])


def test_mutants_break_every_line_that_decides_one_at_a_time() -> None:
    source = "def f(a: int | None) -> int | None:\n    'Says what.'\n    if a < 1:\n        g(a)\n    return a * 2\n"
    changes = [(mutant.line, mutant.change.partition("  ->  ")[2]) for mutant in mutants_of(source)]
    assert sorted(changes) == [
        (3, "2"),
        (3, "a <= 1"),
        (3, "if a < 1: pass"),
        (3, "if not a < 1: g(a)"),
        (5, "3"),
        (5, "a / 2"),
        (5, "return None"),
    ]
    assert all(mutant.source.count("\n") == source.count("\n") - 1 for mutant in mutants_of(source))
