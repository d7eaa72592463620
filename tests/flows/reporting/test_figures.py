import numpy as np

from dqn.config import DQNConfig
from dqn.stress.robustness import CELLS, StressTest
from dqn.training.loop import train
from flows.reporting.figures import learning_curves, png, stress_cells
from flows.training.curves import Curves


def test_learning_curves_of_agents_that_end_before_an_episode_does() -> None:
    config = DQNConfig(num_agents=2, num_envs=2, batch_size=1, min_replay_batches=1, max_updates=2, eval_interval=1)
    result = train(config)
    assert not len(result.metrics.series("train/episodic_return", 0)[0])
    assert png(learning_curves(Curves.of(result))).startswith(b"\x89PNG")


def test_a_stress_test_is_a_row_of_cells_a_version() -> None:
    held = np.ones((len(CELLS), 4), dtype=np.bool_)
    held[1, 0] = False
    figure = stress_cells(
        {"version 2": StressTest(balanced=held, push=64), "version 1": StressTest(balanced=~held, push=0)}
    )
    (axes,) = figure.axes
    shares = [text.get_text() for text in axes.texts]
    assert shares == ["100%", "75%", *["100%"] * 7, "0%", "25%", *["0%"] * 7]
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "version 2\n97.2%, push 64 N",
        "version 1\n2.8%, push 0 N",
    ]
    assert png(figure).startswith(b"\x89PNG")
