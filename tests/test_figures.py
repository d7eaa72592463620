from dqn.config import DQNConfig
from dqn.training import train
from flows.figures import learning_curves, png


def test_learning_curves_of_agents_that_end_before_an_episode_does() -> None:
    config = DQNConfig(num_agents=2, num_envs=2, batch_size=1, min_replay_batches=1, max_updates=2, eval_interval=1)
    result = train(config)
    assert not len(result.metrics.series("train/episodic_return", 0)[0])
    assert png(learning_curves(result)).startswith(b"\x89PNG")
