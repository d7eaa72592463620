"""A training that is ended and resumed leaves the registry that an uninterrupted one leaves."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from dqn.config import DQNConfig
from flows import train
from flows.registry import versions
from flows.registry.champion import promote
from flows.registry.history import PROMOTED_TAG
from flows.registry.versions import CHALLENGER, CHAMPION, DIGEST_TAG, PREVIOUS
from flows.request.parameters import ConfigOverrides
from tests.support.flows.ends import Interfering, connected, prepare
from tests.support.flows.promotion import NAME, evaluated, store

__all__ = ["store"]  # the fixture of a registry in memory

MODEL = "dqn-ProbeActionReward-v0"
PLACES: list[tuple[Any, str]] = [
    (train, "train"),
    (MlflowClient, "log_model_artifacts"),
    (train, "export"),
    (versions, "set_alias"),
    (train, "register"),
    (train, "test_agents"),
    (versions, "describe"),
    (train, "evaluate"),
    (train, "promote"),
    (train, "report"),
    (train, "draw_population"),
    (train, "draw_version"),
]
"""After which a training is ended, in the order of a training."""


def killed() -> None:
    raise KeyboardInterrupt


class Dead:
    """A store that answers until its n-th call, and then no more: a process that is killed handles no error."""

    def __init__(self, store: Any, nth: int) -> None:
        self._calls = Interfering(store, nth, killed)
        self._store = store

    @property
    def survived(self) -> bool:
        return self._calls.left > 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._calls, name) if self.survived else lambda *_, **__: killed()


@pytest.mark.parametrize("loud", [True, False])
def test_at_whatever_call_a_promotion_is_ended_the_resumed_one_leaves_the_same_registry(
    loud: bool, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By an exception, after which the gate tag is written, or by a signal that no process can handle."""

    def registry() -> Any:
        tags = store.versions[3].tags
        return store.aliases, {**tags, PROMOTED_TAG: PROMOTED_TAG in tags}, store.files

    def resumed() -> None:
        store.get_run(store.versions[3].run_id).info.status = "RUNNING"
        connected(store, monkeypatch)
        train.train_dqn()

    prepare(store, monkeypatch)
    resumed()
    expected = repr(registry())
    assert store.aliases == {CHAMPION: 3, PREVIOUS: 1}
    nth = 0
    while True:
        nth += 1
        store.files[store.versions[3].run_id].clear()
        prepare(store, monkeypatch)
        client: Any = Interfering(store, nth, killed) if loud else Dead(store, nth)
        connected(client, monkeypatch)
        try:
            train.train_dqn()
        except KeyboardInterrupt:
            resumed()
        else:
            break
        assert repr(registry()) == expected, nth
    assert nth > 20


@pytest.mark.parametrize(
    ("gate", "aliases"),
    [
        ("passed: better", {CHAMPION: 2, PREVIOUS: 3}),
        ("passed: better", {CHAMPION: 2, CHALLENGER: 1}),
        ("refused: tie", {CHAMPION: 1, CHALLENGER: 3}),
        ("rolled back to version 1", {CHAMPION: 1}),
        ("forced: the gate said refused: tie", {CHAMPION: 2}),
    ],
)  # fmt: skip
def test_what_was_decided_before_a_training_is_resumed_stays(
    gate: str, aliases: dict[str, int], store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempt = prepare(store, monkeypatch)
    store.aliases, store.versions[3].tags["gate"] = dict(aliases), gate
    assert promote.fn(NAME, 3, evaluated(store, 3), attempt) == gate
    assert (store.aliases, store.played, store.tags) == (aliases, [], {})
    store.aliases = {CHAMPION: 1}
    assert promote.fn(NAME, 3, evaluated(store, 3), attempt, world={}).startswith("passed: better")  # another question
    assert store.aliases == {CHAMPION: 3, PREVIOUS: 1}


@pytest.fixture
def own_store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> MlflowClient:
    """An empty store, and no drawing."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    for drawn in ("animations.episode_gif", "animations.learning_gif", "figures.learning_curves", "figures.png"):
        monkeypatch.setattr(f"flows.reporting.{drawn}", lambda *_, **__: b"pixels")
    return MlflowClient()


def left(client: MlflowClient) -> dict[str, Any]:
    """What the newest training left, without what differs between any two: ids, times and digests."""
    (version,) = client.search_model_versions(f"name='{MODEL}'")
    run = client.get_run(str(version.run_id))
    experiment, run_id = [run.info.experiment_id], run.info.run_id
    artifact = versions.download(MODEL, int(version.version))
    (model,) = client.search_logged_models(experiment, f"source_run_id = '{run_id}'")
    assert (model.model_id, model.tags[DIGEST_TAG]) == (versions.model_id_of(version), artifact.sha256)
    children = client.search_runs(experiment, f"tags.`mlflow.parentRunId` = '{run_id}'")
    runs = {entry.info.run_name: entry.info.run_id for entry in (run, *children)}
    return {
        "tags": {
            **version.tags,
            DIGEST_TAG: version.tags[DIGEST_TAG] == artifact.sha256,
            PROMOTED_TAG: PROMOTED_TAG in version.tags,
        },
        "description": str(version.description).replace(run_id, "RUN"),
        "aliases": [versions.version_of(client, MODEL, alias) for alias in (CHAMPION, CHALLENGER, PREVIOUS)],
        "linked": sorted((metric.key, metric.value) for metric in model.metrics or ()),
        "files": sorted(file.path for path in ("", "evaluation") for file in client.list_artifacts(run_id, path)),
        "tests": {name: len(client.get_metric_history(run, "test/mean_return")) for name, run in runs.items()},
        "ends": [entry.info.status for entry in (run, *children)],
        "note": run.data.tags["mlflow.note.content"].count("episodes"),
    }


def test_a_training_that_is_ended_after_each_of_its_steps_leaves_the_registry_of_an_uninterrupted_one(
    own_store: MlflowClient, small_config: Callable[..., DQNConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is resumed again and again, so that each step is repeated after it was finished, and some after half of it."""
    config = small_config(num_agents=2, max_updates=1, env_id="ProbeActionReward-v0")
    request = ConfigOverrides.model_validate(config)
    train.train_dqn(request)
    expected = left(own_store)
    assert (expected["aliases"], expected["ends"]) == ([1, None, None], ["FINISHED"] * 3)
    assert expected["tests"] == dict.fromkeys(expected["tests"], 1)
    own_store.delete_registered_model(MODEL)  # so that versions are numbered from 1 again
    run_id: str | None = None
    for where, name in PLACES:
        original = getattr(where, name)

        def interrupted(*given: Any, original: Any = original, **named: Any) -> None:
            original(*given, **named)
            raise KeyboardInterrupt

        monkeypatch.setattr(where, name, interrupted)
        with pytest.raises(KeyboardInterrupt) as ended:
            train.train_dqn(train.NO_OVERRIDES if run_id else request, resume=run_id)
        monkeypatch.setattr(where, name, original)
        run_id = ended.value.__notes__[0].split("--resume ")[1].strip("'\"")
    train.train_dqn(resume=run_id)
    assert left(own_store) == expected
