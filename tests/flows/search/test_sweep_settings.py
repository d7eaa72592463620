"""What a sweep is asked for, by whichever way, what it costs, and what is refused."""

import dataclasses
import inspect
import itertools
import json
from typing import Any

import pytest

from dqn.config import DQNConfig
from dqn.presets import PRESETS
from flows.cli.sweep import Arguments
from flows.failures.errors import InputError
from flows.search.settings import RUNGS, SweepConfig, batch_size
from flows.search.spaces import SPACES, Choice, Range, Space
from flows.sweep import request, sweep_dqn
from tests.support.flows.sweeps import SPACE, sweep

CHOICES = Space(dimensions={"n_step": Choice(values=(1, 3))})


def test_the_budget_is_known_before_anything_is_tried() -> None:
    settings = sweep(trials=20, shard_trials=8, rungs=(10, 20, 40))
    assert (settings.shards, [settings.size(shard) for shard in range(3)]) == (3, [8, 8, 4])
    assert [settings.alive(0, 8, rung) for rung in range(5)] == [8, 4, 2, 1, 1]
    assert settings.updates(0) == 8 * 10 + 4 * 10 + 2 * 20
    assert settings.budget == 2 * settings.updates(0) + (4 * 10 + 2 * 10 + 1 * 20)
    with_final = dataclasses.replace(settings, finalists=3)
    assert [with_final.is_final(shard) for shard in range(4)] == [False, False, False, True]
    assert (with_final.shards, with_final.size(3), with_final.alive(3, 12, 2)) == (3, 12, 12)
    assert with_final.budget == settings.budget + 12 * 40
    assert dataclasses.replace(settings, trials=2, finalists=3).size(1) == 2 * 4
    assert [batch_size(trials) for trials in (5, 128, 129, 1_024)] == [16, 16, 17, 128]
    assert SweepConfig.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings


def test_the_defaults_are_the_same_by_every_way() -> None:
    numbers = {"trials": 1_024, "keep": 0.5, "episodes": 10, "finalists": 4, "seed": 0}
    settings = SweepConfig(space=SPACE, rungs=(1,))
    assert settings.shard_trials == batch_size(1_024)
    for ways in (vars(settings), vars(Arguments())):
        assert {name: ways[name] for name in numbers} == numbers
    deployed = {name: parameter.default for name, parameter in inspect.signature(sweep_dqn).parameters.items()}
    typed = vars(Arguments())
    assert {**typed, "rungs": typed["rungs"] or None, "checkpoint_dir": str(typed["checkpoint_dir"])} == deployed


def test_each_rung_but_the_first_costs_a_shard_as_much_as_the_others() -> None:
    for preset, rungs in RUNGS.items():
        assert {later / earlier for earlier, later in itertools.pairwise(rungs)} == {2.0}, preset


def test_what_is_not_named_is_the_presets_or_an_eighth() -> None:
    settings: dict[str, Any] = {"trials": 1_000, "keep": 0.25, "episodes": 1, "seed": 6, "finalists": 3}
    asked = request("cartpole", "small", "random", None, shard_trials=0, **settings)
    assert asked == SweepConfig(
        space=SPACES["small"], method="random", rungs=RUNGS["cartpole"], shard_trials=125, **settings
    )
    asked = request("acrobot", "small", "tpe", [5], shard_trials=9, **settings)
    assert (asked.preset, asked.rungs, asked.shard_trials) == ("acrobot", (5,), 9)
    with pytest.raises(InputError, match="the preset 'robust' is not searched"):
        request("robust", "small", "tpe", None, shard_trials=0, **settings)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"preset": "article"}, "the preset 'article' is not searched; those that are: cartpole"),
        ({"method": "grid"}, "method must be one of tpe, random, got 'grid'"),
        ({"trials": 0}, "trials must be 1 or more, got 0"),
        ({"shard_trials": 0}, "shard_trials must be 1 or more, got 0"),
        ({"episodes": 0}, "episodes must be 1 or more, got 0"),
        ({"finalists": -1}, "finalists must be 0 or more, got -1"),
        ({"keep": 1.0}, "keep must be a share between 0 and 1, got 1.0"),
        ({"keep": 0.0}, "keep must be a share between 0 and 1, got 0.0"),
        ({"rungs": ()}, "rungs must be numbers of updates that rise"),
        ({"rungs": (10, 10)}, "rungs must be numbers of updates that rise"),
        ({"rungs": (0, 10)}, "rungs must be numbers of updates that rise"),
        ({"space": Space(dimensions={"lr": Range(low=1, high=2)})}, "'lr' cannot be searched"),
    ],
    ids=str,
)
def test_what_cannot_be_searched_is_refused_in_a_sentence(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        sweep(**changes).check()


def test_the_least_that_can_be_searched_is_searched() -> None:
    sweep(trials=1, shard_trials=1, episodes=1, finalists=0, rungs=(1, 2)).check()
    sweep(space=CHOICES).check()


def test_a_preset_that_cannot_be_trained_here_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[DQNConfig] = []
    monkeypatch.setattr("flows.search.settings.check_trainable", checked.append)
    sweep(preset="acrobot").check()
    assert checked == [dataclasses.replace(PRESETS["acrobot"], num_agents=1)]
