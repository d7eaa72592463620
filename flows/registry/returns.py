"""An agent's episodic returns on test episodes."""

import time
from typing import Final

import mlflow
import numpy as np
import numpy.typing as npt
from mlflow import MlflowClient
from mlflow.entities import Metric

Returns = npt.NDArray[np.float64]
TEST_MEAN: Final = "test/mean_return"
TEST_MIN: Final = "test/min_return"
TEST_EPISODES: Final = 100


def read_returns(uri: str) -> Returns:
    """The returns in an artifact of `evaluate` `[episodes]` or of `test_agents` `[A, episodes]`."""
    return np.asarray(mlflow.artifacts.load_dict(uri)["returns"])


def log_test(client: MlflowClient, run_id: str, returns: Returns, *, model_id: str | None = None) -> None:
    """Log the mean and the minimum of returns `[episodes]`, linked to a logged model if one is given."""
    now = int(time.time() * 1000)
    values = {TEST_MEAN: returns.mean(), TEST_MIN: returns.min()}
    metrics = [Metric(key, float(value), now, 0, model_id=model_id) for key, value in values.items()]
    client.log_batch(run_id, metrics=metrics)
