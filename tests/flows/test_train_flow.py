import dataclasses
import hashlib
import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow import MlflowClient
from mlflow.entities import Run

from dqn.config import DQNConfig
from dqn.environments.world import World
from flows.cli import train
from flows.cli.terminal import BAD_INPUT
from flows.deployed import train_dqn
from flows.failures.errors import InputError
from flows.registry import versions
from flows.request.parameters import ConfigOverrides
from flows.training.population import checkpoint_path, read_networks, read_summary
from flows.training.warm_start import WARM_START_TAG, find_version, starting_network
from tests.support.flows.processes import as_arguments, in_mid_training, population, process, runs_of


@pytest.fixture
def config(small_config: Callable[..., DQNConfig]) -> DQNConfig:
    """Trains for some seconds, so that it can be killed in the middle."""
    world = World(length=(0.4, 0.6), push_force=5.0, action_delay=1)
    return small_config(max_updates=2_500, eval_interval=250, checkpoint_interval=0.2, world=world)


def everything(client: MlflowClient, run_id: str) -> dict[tuple[str, str], list[tuple[int, float]]]:
    """Steps and values of every deterministic metric, by run name and key; a version has episodes of its own."""
    experiment = client.get_run(run_id).info.experiment_id
    children = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{run_id}'")
    named = {"parent": run_id} | {str(child.info.run_name): child.info.run_id for child in children}
    return {
        (name, key): [(metric.step, metric.value) for metric in client.get_metric_history(run, key)]
        for name, run in named.items()
        for key in client.get_run(run).data.metrics
        if key != "train/steps_per_second" and (name, key[:5]) != ("parent", "test/")
    }


def networks(client: MlflowClient, run_id: str, directory: Path) -> str:
    path = client.download_artifacts(run_id, "population/networks.safetensors", str(directory))
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


@pytest.mark.slow
@pytest.mark.timeout(900)  # five trainings, each in a process that loads everything
def test_killed_and_resumed_a_run_ends_as_an_unbroken_one(
    config: DQNConfig, store: MlflowClient, store_directory: Path, prefect_api: str, tmp_path: Path
) -> None:
    others = runs_of(store)  # of tests before this one
    report = train_dqn(ConfigOverrides.model_validate(config), checkpoint_dir=str(tmp_path))
    unbroken = population(store, known=others)
    assert unbroken is not None
    assert_complete(store, unbroken, config, report)
    assert not checkpoint_path(tmp_path, unbroken.info.run_id).exists()

    assert_can_be_started_from(store, unbroken, config)

    where = ["--checkpoint-dir", str(tmp_path)]
    victim = process([*as_arguments(config), *where], store_directory, prefect_api)
    run_id = in_mid_training(victim, store, known=others | {unbroken.info.run_id})
    victim.send_signal(signal.SIGKILL)
    victim.communicate()
    assert store.get_run(run_id).info.status == "RUNNING"
    assert "trained" not in store.get_run(run_id).data.tags
    logged_before = sum(len(values) for values in everything(store, run_id).values())

    resumed = process(["--resume", run_id, *where], store_directory, prefect_api)
    output, errors = resumed.communicate(timeout=300)
    assert resumed.returncode == 0, errors
    assert f"run {run_id}" in output
    expected = everything(store, unbroken.info.run_id)
    assert 0 < logged_before < sum(len(values) for values in expected.values())
    assert everything(store, run_id) == expected
    assert networks(store, run_id, tmp_path) == networks(store, unbroken.info.run_id, tmp_path)
    assert train.main(["--resume", run_id, *where]) == BAD_INPUT  # it is finished

    frozen = process([*as_arguments(config), *where], store_directory, prefect_api)
    taken_over = in_mid_training(frozen, store, known=others | {unbroken.info.run_id, run_id})
    freeze(frozen, store_directory / "mlflow.db")
    newer = process(["--resume", taken_over, *where], store_directory, prefect_api)
    _, errors = newer.communicate(timeout=300)
    assert newer.returncode == 0, errors
    frozen.send_signal(signal.SIGCONT)
    _, errors = frozen.communicate(timeout=60)
    assert frozen.returncode == 1
    assert "was replaced by attempt" in errors
    assert everything(store, taken_over) == expected
    assert not checkpoint_path(tmp_path, taken_over).exists()
    assert store.get_run(taken_over).info.status == "FINISHED"
    assert len(store.search_model_versions(f"run_id = '{taken_over}'")) == 1


def freeze(victim: "subprocess.Popen[str]", database: Path) -> None:
    """Stop a process between two rounds of writing metrics, of a batch for each run.

    Within a write it would hold the file's lock, and one that had made sure of its attempt would finish what it began.
    """
    with closing(sqlite3.connect(database, timeout=30, isolation_level=None)) as connection:

        def written() -> int:
            return int(connection.execute("SELECT COUNT(*) FROM metrics").fetchone()[0])

        while True:
            before = written()
            while written() == before:
                time.sleep(0.005)
            while written() != before:
                before = written()
                time.sleep(0.2)
            victim.send_signal(signal.SIGSTOP)
            os.waitpid(victim.pid, os.WUNTRACED)  # until it has stopped
            try:
                connection.execute("PRAGMA busy_timeout = 0")
                connection.execute("BEGIN EXCLUSIVE")  # which a reader that was stopped prevents too
                connection.execute("ROLLBACK")
                return
            except sqlite3.OperationalError:
                connection.execute("PRAGMA busy_timeout = 30000")
                victim.send_signal(signal.SIGCONT)


def assert_complete(client: MlflowClient, run: Run, config: DQNConfig, report: str) -> None:
    """Everything a finished run leaves behind, for a policy that is no good."""
    run = client.get_run(run.info.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["gamma"] == str(config.gamma)
    assert run.data.params["world"] == "length 0.4 to 0.6, push_force 5, action_delay 1"
    assert run.data.params["world.length"] == "(0.4, 0.6)"
    assert {"prefect.flow_run_id", "mlflow.source.git.commit", "version.torch"} <= run.data.tags.keys()
    files = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert {"learning_curves.png", "final_returns.png", "episode.gif", "stress_test.png", "report.md"} <= files
    assert "learning.gif" in files
    experiment = run.info.experiment_id
    children = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{run.info.run_id}'")
    assert sorted(str(child.info.run_name) for child in children) == ["agent 00", "agent 01", "agent 02"]
    for child in children:
        assert child.info.status == "FINISHED"
        assert {"train/episodic_return", "train/epsilon", "eval/mean_return", "test/mean_return"} <= set(
            child.data.metrics
        )
    (version,) = client.search_model_versions(f"run_id = '{run.info.run_id}'")
    tags: dict[str, Any] = client.get_model_version(version.name, version.version).tags
    assert tags["gate"].startswith("refused: mean return")
    assert tags["world"] == str(config.world)
    assert versions.download(version.name, int(version.version)).policy.metadata.world == config.world
    assert versions.version_of(client, version.name, versions.CHALLENGER) == int(version.version)
    assert f"models:/{version.name}/{version.version}" in report
    assert tags["gate"] in report
    assert "\n  LQR: robustness " in report
    assert "\n  linear, searched: robustness " in report


def assert_can_be_started_from(client: MlflowClient, run: Run, config: DQNConfig) -> None:
    """The version a finished run registered gives its network to a run that names it, and to no other shape."""
    (registered,) = client.search_model_versions(f"run_id = '{run.info.run_id}'")
    version = str(registered.version)
    for reference in (version, "challenger"):
        assert find_version(client, config, reference) == int(version)
    client.set_tag(run.info.run_id, WARM_START_TAG, version)
    start = starting_network(client, client.get_run(run.info.run_id), registered.name)
    assert start is not None
    trained, _ = read_networks(client, run.info.run_id)
    best = trained.select(torch.tensor([read_summary(client, run.info.run_id).best_agent]))
    observation = torch.randn(1, 5, 4)
    assert torch.equal(start(observation), best(observation))
    with pytest.raises(InputError, match=r"its hidden_sizes is \(.*\), not \(7,\); give the configuration the same"):
        find_version(client, dataclasses.replace(config, hidden_sizes=(7,)), version)


def test_bad_input_is_one_sentence_and_exit_code_2(
    store: MlflowClient, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for arguments, message in (
        (["--env-id", "QQQ"], "environment 'QQQ' cannot be made"),
        (["--resume", "0" * 32], "there is no run"),
        (["--resume", "0" * 32, "--seed", "1"], "a resumed run keeps its own configuration"),
        (["--warm-start", "missing"], "dqn-CartPole-v1 has no version 'missing' to start from; "),
        (["--warm-start", "12"], "dqn-CartPole-v1 has no version '12' to start from"),
        (["--checkpoint-dir", "/proc/nowhere"], "checkpoints cannot be written to /proc/nowhere"),
    ):
        assert train.main(arguments) == BAD_INPUT
        *_, error = capsys.readouterr().err.splitlines()
        assert error.startswith("error: ")
        assert message in error
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////proc/nowhere/mlflow.db")
    assert train.main([]) == 1
    assert "tracking store sqlite:////proc/nowhere/mlflow.db cannot be used" in capsys.readouterr().err


def test_an_unreachable_tracking_server_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    for name in ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR"):
        monkeypatch.setenv(name, "0")
    assert train.main([]) == 1
    assert "tracking store http://127.0.0.1:9 cannot be used" in capsys.readouterr().err


def test_arguments_start_from_the_preset_they_name() -> None:
    assert train.parse(["--preset", "article", "--seed", "7"]).config.max_episodes == 1_500
    assert train.parse(["--seed", "7"]).config.seed == 7
    assert train.parse(["--world.length", "0.2", "0.7", "--world.action-delay", "2"]).config.world == World(
        length=(0.2, 0.7), action_delay=2
    )
    assert train.parse(["--world.sensor-bias", "0", "0", "0.03", "0"]).config.world.sensor_bias == (0, 0, 0.03, 0)


def test_an_argument_out_of_range_is_refused_in_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main(["--gamma", "1.5"]) == BAD_INPUT
    assert capsys.readouterr().err == "error: gamma must be from 0 to 1, got 1.5\n"
    assert train.main(["--world.length", "-1"]) == BAD_INPUT
    expected = "error: world.length must be a number above 0, or a range from low to high, got -1.0\n"
    assert capsys.readouterr().err == expected
