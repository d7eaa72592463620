"""An environment from a third party's package, from training over the registry and the gate to serving."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient
from starlette.testclient import TestClient

from dqn.config import DQNConfig
from flows.request.parameters import ConfigOverrides
from flows.train import train_dqn
from serving.__main__ import resolve
from serving.application import App
from serving.episodes.replay import record
from serving.errors import UnknownModelError
from serving.models.cache import Cache
from serving.models.follower import Models
from serving.models.mlflow import RegistrySource
from serving.models.source import ModelURI
from tests.dqn.test_every_space import config_of
from tests.support.dqn.spaces import SPACES

ENVIRONMENT = "boing_gym:Boing-v0"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*The infos returned by")  # Gymnasium's checker, of that package
def test_an_environment_of_another_package_is_trained_registered_and_served(
    small_config: Callable[..., DQNConfig], store: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.registry.returns.TEST_EPISODES", 2)  # matches are long; the gate plays its hundred
    monkeypatch.setattr("flows.reporting.draw.draw", lambda *_: None)
    config = small_config(env_id=ENVIRONMENT, num_agents=1, eval_interval=120, acceptance_episodes=2)
    report = train_dqn(ConfigOverrides.model_validate(config), checkpoint_dir=str(tmp_path))
    command = f"python -m serving --model models:/dqn-boing_gym~2Boing-v0@champion --allow-env {ENVIRONMENT}"
    assert command in report

    uri = ModelURI.parse("models:/dqn-boing_gym~2Boing-v0@champion")
    source, cache = RegistrySource(uri.name), Cache(tmp_path / "models", uri.name)
    with pytest.raises(UnknownModelError, match="start serving with --allow-env to admit it"):
        resolve(source, uri, cache, frozenset())
    served = resolve(source, uri, cache, frozenset([ENVIRONMENT]))
    assert served.policy.metadata.env_id == ENVIRONMENT
    assert (served.policy.metadata.observation_size, served.policy.metadata.num_actions) == (9, 3)
    replay = record(served.policy, model=served.name, version=served.version.number, seed=1)
    assert replay.env_id == ENVIRONMENT
    assert -10 <= replay.episodic_return <= 10  # points of a match


@pytest.mark.slow
@pytest.mark.parametrize(("space", "body"), [("image", "mlp"), ("bits", "conv")])
def test_images_of_an_environment_with_arguments_are_trained_registered_and_served(
    space: str, body: str, store: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a registered time limit: gate, tags and server have that of the configuration, and its arguments."""
    monkeypatch.setattr("flows.reporting.draw.draw", lambda *_: None)
    env_id, shape = f"Endless-{space}-v0", SPACES[space].shape
    own = {"env_id": env_id, "env_kwargs": {"actions": 3}, "max_episode_steps": 8, "body": body}
    config = config_of(space, **own, max_updates=400, eval_interval=200)
    assert "passed: mean return 8 over" in train_dqn(
        ConfigOverrides.model_validate(config), checkpoint_dir=str(tmp_path)
    )
    uri = ModelURI.parse(f"models:/dqn-{env_id}@champion")
    tags = store.get_model_version_by_alias(uri.name, "champion").tags
    assert (json.loads(tags["env_kwargs"]), tags["max_episode_steps"]) == ({"actions": 3}, "8")
    source, cache = RegistrySource(uri.name), Cache(tmp_path / "models", uri.name)
    served = resolve(source, uri, cache, frozenset([env_id]))
    assert served.policy.metadata.environment == config.environment
    assert served.policy.metadata.observation_shape == shape
    replay = record(served.policy, model=served.name, version=served.version.number, seed=1)
    assert (replay.episodic_return, replay.truncated) == (8.0, True)

    models = Models(source, alias="champion", version=None, environments=frozenset([env_id]))
    asyncio.run(models.poll())
    client = TestClient(App(models).asgi, base_url="http://localhost")
    tensor = {"name": "observation", "shape": [9, *shape], "datatype": "FP32", "data": replay.observations}
    answer = client.post(f"/v2/models/{uri.name}/infer", json={"inputs": [tensor]})
    assert answer.json()["outputs"][1]["data"][:8] == list(replay.actions)
    files = client.post("/api/episodes", json={"seed": 1}).json()["files"]
    assert client.get(files["json"]).json()["episodic_return"] == 8.0
    assert client.get(files["gif"]).status_code == (200 if space == "bits" else 501)  # one is seen as coloured cells
