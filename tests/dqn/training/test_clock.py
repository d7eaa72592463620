import itertools
from collections.abc import Callable

import pytest

from dqn.config import DQNConfig
from dqn.training.clock import Clock
from dqn.training.loop import train
from dqn.training.state import TrainingState

Make = Callable[..., DQNConfig]


class Time:
    """A clock that stands still but for what is added to it."""

    def __init__(self) -> None:
        self.seconds = 1_000.0

    def __call__(self) -> float:
        return self.seconds


def saves_in(config: DQNConfig, *, seconds: int, cost: float) -> list[float]:
    """When a state is saved by a loop with steps of a second, each save `cost` seconds."""
    time, started = Time(), []

    def save(_: TrainingState) -> None:
        started.append(time.seconds - 1_000.0)
        time.seconds += cost

    clock = Clock(TrainingState.begin(config), save, now=time)
    while time.seconds < 1_000 + seconds:
        clock.save_if_due()
        time.seconds += 1
    return started


@pytest.mark.parametrize(
    ("interval", "cost", "expected"),
    [
        (10.0, 0.0, [0, 10, 20, 30, 40, 50]),
        (10.0, 1.0, [0, 11, 22, 33, 44, 55]),  # the interval starts when the save has ended
        (10.0, 2.0, [0, 20, 40]),  # 2 of 20 seconds
        (0.0, 3.0, [0, 30]),
    ],
)
def test_saving_takes_no_more_than_a_tenth_of_the_time(
    small_config: Make, interval: float, cost: float, expected: list[float]
) -> None:
    started = saves_in(small_config(checkpoint_interval=interval), seconds=60, cost=cost)
    assert started == expected
    pauses = [after - before for before, after in itertools.pairwise(started)]
    assert all(cost <= 0.1 * pause for pause in pauses)
    assert all(interval + cost <= pause for pause in pauses)


def test_a_save_that_gets_faster_shortens_the_pause(small_config: Make) -> None:
    time, costs, started = Time(), iter([4.0, 1.0, 1.0]), []

    def save(_: TrainingState) -> None:
        started.append(time.seconds - 1_000)
        time.seconds += next(costs)

    clock = Clock(TrainingState.begin(small_config(checkpoint_interval=5.0)), save, now=time)
    while time.seconds < 1_055:
        clock.save_if_due()
        time.seconds += 1
    assert started == [0.0, 40.0, 50.0]


def test_a_training_is_saved_by_its_clock_and_knows_how_long_it_took(small_config: Make) -> None:
    time, accounts = Time(), []

    def save(state: TrainingState) -> None:
        accounts.append((time.seconds - 1_000, state.seconds))
        time.seconds += 3.0

    def step(_: object) -> None:
        time.seconds += 1.0

    result = train(small_config(checkpoint_interval=10.0), on_metrics=step, on_checkpoint=save, now=time)
    assert result.seconds == time.seconds - 1_000
    assert result.cpu_seconds > 0
    assert all(elapsed == account for elapsed, account in accounts)  # what is saved is up to date
    assert len(accounts) > 3
    assert 3.0 * len(accounts) <= 0.1 * (time.seconds - 1_000) + 3.0
