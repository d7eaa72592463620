"""What a person reads of a sweep: its report, and its progress."""

import base64
import dataclasses
import io
import math
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tqdm import tqdm

from flows.search import confirm as confirming
from flows.search.bar import Bar
from flows.search.record import searched
from flows.search.report import markdown, text
from flows.search.shard import Progress
from tests.support.flows.sweeps import SMALL, keep_in_memory, sweep, told

AGENT: Any = SimpleNamespace(solved=True, updates=40, diverged=None)


@pytest.fixture(autouse=True)
def storage(monkeypatch: pytest.MonkeyPatch) -> None:
    keep_in_memory(monkeypatch)


def test_what_was_tried_is_told_to_a_terminal_and_a_page(monkeypatch: pytest.MonkeyPatch) -> None:
    returns = [[float(k)] + [float(2 * k)] * (k > 4) + [float(3 * k)] * (k > 9) for k in range(12)]
    settings = sweep(trials=12, shard_trials=12)
    study = told("told", returns=returns, settings=settings)
    agents: Any = [SimpleNamespace(solved=k == 0, updates=40 + 20 * k, diverged=None) for k in range(2)]
    config = dataclasses.replace(SMALL, acceptance_return=475.0)
    confirmation = confirming.Confirmation(
        trial=11, config=config, agents=tuple(agents), returns=np.array([[1.0, 3.0], [4.0, 4.0]]), cpu_seconds=5.0
    )
    assert (confirmation.mean_return, confirmation.solved_fraction) == (3.0, 0.5)
    sentence = (
        "Trained anew on 2 fresh seeds, trial 11 returns 3.0 (2.0 to 4.0, interquartile mean with its 95% bootstrap "
        "interval) over 2 unseen episodes each; 1 of 2 solved it, 50 updates an agent, 2.50 CPU-seconds each."
    )
    assert confirmation.sentence == sentence
    plain = dataclasses.replace(
        confirmation, config=dataclasses.replace(config, acceptance_return=None, acceptance_epsilon=0.0)
    )
    assert plain.sentence == sentence.replace("1 of 2 solved it, ", "")

    best = {trial.number: searched(trial, settings) for trial in study.get_trials()}
    rows = [["trial", "updates", "mean return", "learning_rate", "gamma", "n_step"]]
    for number, updates, mean in ((11, 16, 33.0), (10, 16, 30.0), (9, 8, 18.0), (8, 8, 16.0), (7, 8, 14.0)):
        mine = best[number]
        values = [f"{mine['learning_rate']:.3g}", f"{mine['gamma']:.3g}", str(mine["n_step"])]
        rows.append([str(number), str(updates), f"{mean:.1f}", *values])
    totals = "12 configurations by tpe, 2 of them trained to the last rung of 16 updates; 96 gradient updates in all."
    table, _, rest = text(study, settings, confirmation, "r").partition("\n\n")
    assert [line.split() for line in table.replace("mean return", "mean_return").splitlines()] == [
        [cell.replace(" ", "_") for cell in row] for row in rows
    ]
    assert len({len(line) for line in table.splitlines()}) == 1, "columns stand below each other"
    assert rest == f"{totals}\n{sentence}\n\nstudy told, MLflow run r"
    monkeypatch.setattr("flows.search.report.over_rungs", lambda trials, sweep: f"{len(trials)} trials")
    monkeypatch.setattr("flows.search.report.png", str.encode)
    page = markdown(study, settings, confirmation, "r")
    assert page.startswith(f"# Sweep of CartPole-v1\n\n{totals}\n\n{sentence}\n\n| {' | '.join(rows[0])} |\n|")
    assert all(f"\n| {' | '.join(row)} |\n" in page for row in (["---:"] * 6, *rows[1:]))
    assert page.endswith(
        f"\n\n![returns over updates](data:image/png;base64,{base64.b64encode(b'12 trials').decode()})\n\n"
        "Study `told`, MLflow run `r`.\n"
    )


def test_a_winner_that_is_the_preset_is_called_so(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = sweep(trials=4, shard_trials=4)
    study = told("preset", returns=[[1.0, 2.0, 3.0 - k] for k in range(4)], settings=settings)
    confirmation = confirming.Confirmation(
        trial=0, config=SMALL, agents=(AGENT,), returns=np.array([[1.0, 3.0]]), cpu_seconds=5.0
    )
    preset = study.get_trials()[0].params
    monkeypatch.setattr(type(settings.space), "values", lambda space, config: preset)
    monkeypatch.setattr("flows.search.report.png", lambda figure: b"")
    said = f"The preset has won: trial 0 is {settings.preset} as it is shipped, and no other trial is better. Trained"
    for report in (text(study, settings, confirmation, "r"), markdown(study, settings, confirmation, "r")):
        assert said in report
    other = dataclasses.replace(confirmation, trial=1)
    assert "The preset has won" not in text(study, settings, other, "r")


class Terminal(io.StringIO):
    """A stream that claims to be a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_bar_counts_what_earlier_shards_have_done(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = sweep(trials=20, shard_trials=8, rungs=(10, 20, 40))
    monkeypatch.setattr("flows.search.bar.tqdm", partial(tqdm, file=Terminal()))
    with Bar(settings) as bar:
        for progress, shown, done in (
            (
                Progress(shard=0, rung=0, updates=30, trials=8, best=-math.inf),
                "0 of 20, training=8, rung=1 of 3, best=-",
                30,
            ),
            (
                Progress(shard=0, rung=1, updates=90, trials=4, best=7.0),
                "0 of 20, training=4, rung=2 of 3, best=7.0",
                90,
            ),
            (
                Progress(shard=1, rung=0, updates=5, trials=8, best=3.25),
                "8 of 20, training=8, rung=1 of 3, best=7.0",
                settings.updates(0) + 5,
            ),
        ):
            bar.show(progress)
            assert bar._bar.postfix == f"trials={shown}"
            assert (bar._bar.n, bar._bar.total) == (done, settings.budget)
        assert bar._bar.unit_scale
    assert bar._bar.disable  # it is closed
