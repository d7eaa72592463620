"""A version whose environment has action masks: the gate's episodes, its pictures and its description."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient

from dqn.environments.world import NOMINAL, World
from flows.registry.evaluation import play
from flows.registry.versions import describe, log_model
from flows.reporting.animations import episode_gif
from serving.policy import OnnxPolicy
from tests.support.dqn.masked import LENGTH, counted
from tests.support.serving.masked import model


def test_the_gate_plays_allowed_actions_only() -> None:
    policy = OnnxPolicy.load(model())
    with counted():
        play(policy, NOMINAL, seed=0, episodes=3)
    with counted():
        play(policy, World(sensor_bias=(0.1,) * LENGTH), seed=0, episodes=3)


def test_an_animation_shows_allowed_actions_only() -> None:
    with counted():
        assert episode_gif(OnnxPolicy.load(model()), seed=0)


def test_the_description_names_the_optional_input() -> None:
    said: list[Any] = []
    client: Any = SimpleNamespace(update_model_version=lambda *arguments: said.append(arguments[-1]))
    for masked in (True, False):
        describe(client, "m", 1, OnnxPolicy.load(model(masked=masked)).metadata, training="", evaluation="")
    assert ["The optional input `action_mask`, bool `[batch, 6]`, is of" in each for each in said] == [True, False]


def test_a_version_is_logged_without_a_warning(store: MlflowClient, capfd: pytest.CaptureFixture[str]) -> None:
    run = store.create_run("0", run_name="masked")
    model_id = log_model(run.info.run_id, model())
    assert "action_mask" not in capfd.readouterr().err
    (path,) = Path(mlflow.artifacts.download_artifacts(f"models:/{model_id}")).glob("*.onnx")
    assert OnnxPolicy.load(path).metadata.masked
