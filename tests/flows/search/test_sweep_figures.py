"""What a study looks like."""

import numpy as np
import pytest

from flows.search.figures import figures, over_rungs
from flows.search.spaces import SPACES
from tests.support.flows.sweeps import keep_in_memory, sweep, told


@pytest.fixture(autouse=True)
def storage(monkeypatch: pytest.MonkeyPatch) -> None:
    keep_in_memory(monkeypatch)


@pytest.mark.slow
def test_every_figure_of_a_study_is_drawn() -> None:
    returns = [[float(k)] + [float(k * k)] * (k > 4) + [float(50 * k)] * (k > 8) for k in range(12)]
    settings = sweep(trials=12, shard_trials=12, space=SPACES["small"])
    study = told("drawn", returns=returns, settings=settings)
    drawn = {file: draw() for file, draw in figures(study, settings).items()}
    names = {"rungs", "history", "importances", "parallel_coordinates", "slice"}
    assert drawn.keys() == {f"{name}.png" for name in names}
    assert all(picture.startswith(b"\x89PNG") and len(picture) > 5_000 for picture in drawn.values())


def test_a_line_a_trial_and_the_winner_above_all_others() -> None:
    settings = sweep(trials=6, shard_trials=6)
    returns = [[1.0], [2.0], [3.0], [4.0, 5.0], [5.0, 6.0, 7.0], [6.0, 7.0, 9.0]]
    (axes,) = over_rungs(told("lines", returns=returns, settings=settings).get_trials(), settings).axes
    lines = [line for line in axes.lines if line.get_marker() == "o"]
    drawn = [np.asarray(line.get_xydata()).tolist() for line in lines]
    assert drawn == [[list(point) for point in zip((4, 8, 16), mine, strict=False)] for mine in returns]
    left, last, best = lines[0], lines[4], lines[5]
    assert best.get_zorder() > last.get_zorder() == left.get_zorder()
    assert best.get_linewidth() > last.get_linewidth() == left.get_linewidth()
    assert len({line.get_color() for line in (left, last, best)}) == 3
    assert [text.get_text() for text in axes.texts] == ["6 trials", "3 trials", "2 trials"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["4", "8", "16"]
    legend = axes.get_legend()
    assert legend is not None
    assert legend.get_texts()[0].get_text() == "the winner, trial 5"
    assert [line.get_color() for line in legend.get_lines()] == [line.get_color() for line in (best, last, left)]
    assert axes.get_title(loc="left") == "6 configurations, compared at 3 rungs"
    assert (axes.get_xscale(), axes.get_ylabel()) == ("log", "mean greedy return, CartPole-v1")


def test_of_many_trials_some_are_drawn_and_the_winner_always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.search.figures._MOST_LINES", 4)
    settings = sweep(trials=9, shard_trials=9)
    (axes,) = over_rungs(
        told("many", returns=[[float(k)] for k in range(9)], settings=settings).get_trials(), settings
    ).axes
    drawn = [np.asarray(line.get_xydata())[0, 1] for line in axes.lines if line.get_marker() == "o"]
    assert drawn == [1.0, 3.0, 5.0, 7.0, 8.0]
    assert axes.texts[0].get_text() == "9 trials"
