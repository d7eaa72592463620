"""`promote`, `rollback`, `retire` and `compare` as a person types them, on a registry with policies that play."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest
from mlflow import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE

from dqn.environments.world import World
from flows.cli import card, models
from flows.cli.models import REFUSED
from flows.failures.errors import PrefectError
from flows.orchestration import place
from flows.registry import versions
from flows.registry.versions import ORIGIN_TAG, WORLD_TAG
from tests.support.flows.promoting import aliases, empty_store, quick
from tests.support.flows.registering import BALANCING, DRIFTING, FALLING, controller, registered
from tests.support.serving.policies import ACROBOT, SWINGS, linear_model

__all__ = ["empty_store", "quick"]  # the fixtures
NAME = "dqn-CartPole-v1"


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a Prefect API."""
    for module in (models, place):
        monkeypatch.setattr(module, "api_is_named", lambda: False)


def everything(client: MlflowClient) -> Any:
    """What a change of the registry or of the runs would show in."""
    found = client.search_model_versions(f"name='{NAME}'")
    runs = client.search_runs([each.experiment_id for each in client.search_experiments()])
    model = client.get_registered_model(NAME)
    return (
        [(each.version, each.tags, each.description) for each in found],
        (model.tags, model.aliases),
        [(run.info.run_id, run.data.tags, run.data.metrics) for run in runs],
    )


@pytest.mark.usefixtures("quick", "alone")
def test_a_dry_run_says_what_the_gate_then_decides_and_changes_nothing(
    empty_store: MlflowClient, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.promotion.draw_version", lambda *_: None)
    weak, good, bad = (registered(empty_store, NAME, weights) for weights in (DRIFTING, BALANCING, FALLING))
    for version, code in ((weak, 0), (good, 0), (bad, REFUSED)):
        before = everything(empty_store)
        assert models.promote([str(version), "--dry-run"]) == code
        assert everything(empty_store) == before
        first = capsys.readouterr().out.strip()
        assert models.promote([str(version)]) == code
        gate = versions.get_version(empty_store, NAME, version).tags["gate"]
        assert first == f"version {version} of {NAME}: the gate would say {gate}"
        assert capsys.readouterr().out.strip() == f"version {version} of {NAME}: {gate}"
    assert aliases(empty_store, NAME)[:2] == [good, weak]
    assert models.promote(["champion", "--dry-run"]) == 0
    assert "is the champion already" in capsys.readouterr().out
    assert models.promote([str(bad), "--force"]) == 0
    assert models.rollback([]) == 0
    assert models.rollback([]) == 0
    assert capsys.readouterr().out.splitlines()[-2:] == [
        f"version {good} of {NAME} plays again; another rollback returns to version {weak}",
        f"version {weak} of {NAME} plays again; there is no earlier champion",
    ]
    assert models.rollback([]) == 2
    assert "has no earlier champion to return to" in capsys.readouterr().err
    assert models.retire([str(good)]) == 0
    assert models.promote([str(good)]) == 2
    assert f"version {good} of {NAME} was retired at" in capsys.readouterr().err


@pytest.mark.usefixtures("quick", "alone")
def test_a_file_becomes_a_version_with_a_run_and_a_label_of_its_own(
    empty_store: MlflowClient, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.promotion.draw_version", lambda *_: None)
    first = registered(empty_store, NAME, DRIFTING)
    theirs = str(versions.get_version(empty_store, NAME, first).run_id)
    metrics = empty_store.get_run(theirs).data.metrics
    model = onnx.load_model_from_string(controller(BALANCING, theirs))  # it claims to be of a run that exists
    onnx.helper.set_model_props(
        model,
        {entry.key: entry.value for entry in model.metadata_props} | {"world": json.dumps(World(wind=1.0).to_dict())},
    )
    file = tmp_path / "browser.onnx"
    file.write_bytes(model.SerializeToString())
    before = everything(empty_store)
    assert models.promote(["--file", str(file), "--dry-run"]) == 0
    assert everything(empty_store) == before
    assert f"{file}: the gate would say passed: mean return 500" in capsys.readouterr().out
    assert models.promote(["--file", str(file)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"{file} is version 2 of {NAME}"
    assert said[1].startswith(f"version 2 of {NAME}: passed: mean return 500")
    found = versions.get_version(empty_store, NAME, 2)
    assert "the file browser.onnx (SHA-256 " in found.tags[ORIGIN_TAG]
    assert "not by this registry" in str(found.description)
    assert World.from_dict(json.loads(found.tags[WORLD_TAG])) == World(wind=1.0)
    run = empty_store.get_run(str(found.run_id))
    assert (run.info.run_name, run.info.status) == ("file browser.onnx", "FINISHED")
    assert run.data.tags[MLFLOW_RUN_NOTE].startswith("A policy from the file browser.onnx")
    assert versions.download(NAME, 2).policy.metadata.run_id == run.info.run_id != theirs
    assert empty_store.get_run(theirs).data.metrics == metrics, "another run got no evaluation of the file"
    assert "test/mean_return" in run.data.metrics
    assert aliases(empty_store, NAME) == [2, None, None]


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"garbage", "is no policy: "),
        (linear_model((0, 0, 1), properties={}), "is no policy: model properties are missing: env_id"),
        (
            linear_model(SWINGS, actions=3, properties=ACROBOT),
            "plays 'Acrobot-v1', not CartPole-v1: name the environment of the file with --env-id",
        ),
    ],
)
def test_a_file_that_is_no_policy_of_the_environment_is_refused_and_leaves_nothing(
    content: bytes, said: str, store: MlflowClient, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "p.onnx"
    file.write_bytes(content)
    registered(store, NAME, BALANCING)
    before = everything(store)
    for more in ([], ["--dry-run"]):
        assert models.promote(["--file", str(file), *more]) == 2
        assert f"error: {file} {said}" in capsys.readouterr().err
    assert everything(store) == before


@pytest.mark.usefixtures("quick", "alone")
def test_two_versions_are_compared_in_the_same_episodes_as_the_gate_does(
    empty_store: MlflowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    for weights in (DRIFTING, BALANCING):
        registered(empty_store, NAME, weights)
    before = everything(empty_store)
    assert models.compare(["challenger", "1"]) == 0
    assert everything(empty_store) == before
    text = capsys.readouterr().out
    assert text.splitlines()[0].split() == ["version", "2", "version", "1"]
    assert "balanced, length 2 m" in text
    assert "version 2 is better than version 1: its mean return differs by +" in text
    assert models.compare(["1", "2"]) == 0
    assert "version 1 is worse than version 2: its mean return differs by -" in capsys.readouterr().out
    assert models.compare(["1", "1"]) == 0
    assert "version 1 is not worse, by the margin of " in capsys.readouterr().out


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize(
    ("verb", "words", "said"),
    [
        (models.promote, "", "promote takes a VERSION or a --file, and not both"),
        (models.promote, "1 --file p.onnx", "promote takes a VERSION or a --file, and not both"),
        (models.promote, "--file nowhere.onnx", "there is no file nowhere.onnx"),
        (models.promote, "1 --force --dry-run", "--force and --dry-run exclude each other"),
        (models.promote, "1 --shadow-steps -1", "--shadow-steps is a number of steps from 0"),
        (models.promote, "--file p.onnx --shadow-steps 9", "--shadow-steps is a number of steps from 0, of a VERSION"),
        (models.promote, "1 --froce", "there is no option --froce; did you mean --force?"),
        (models.promote, "1 --force --force", "--force is given 2 times: give it once"),
        (models.promote, "1 2", "2 belongs to no option; --help lists all"),
        (models.retire, "", "retire takes a VERSION: name its number or its alias"),
        (models.compare, "3", "compare takes two versions: name their numbers or aliases"),
        (models.rollback, "3", "3 belongs to no option; --help lists all"),
        (models.rollback, "", "there is no registry "),
        (models.deploy, "", "PREFECT_API_URL is not set: set it to the URL of the server to deploy to"),
    ],
)
def test_a_wrong_use_is_one_sentence(
    verb: Any,
    words: str,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("MLFLOW_TRACKING_URI", "PREFECT_API_URL"):
        monkeypatch.delenv(name, raising=False)
    assert verb(words.split()) == 2
    written = capsys.readouterr().err
    assert written.startswith(f"error: {said}")
    assert written.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("verb", "words", "deployment", "parameters"),
    [
        (
            models.promote,
            "3 --force",
            "promote-policy/default",
            {"version": 3, "env_id": "CartPole-v1", "force": True},
        ),
        (
            models.promote,
            "3 --shadow-steps 500",
            "promote-policy/default",
            {"version": 3, "env_id": "CartPole-v1", "force": False, "shadow_steps": 500},
        ),
        (models.rollback, "--env-id Acrobot-v1", "rollback-policy/default", {"env_id": "Acrobot-v1"}),
    ],
)
@pytest.mark.parametrize(("state", "code"), [("Promoted", 0), ("Refused", REFUSED), (PrefectError("it is away"), 1)])
def test_under_prefect_the_deployment_does_it(
    verb: Any,
    words: str,
    deployment: str,
    parameters: Any,
    state: Any,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked: list[Any] = []

    def elsewhere(name: str, given: Any) -> Any:
        asked.append((name, given))
        if isinstance(state, BaseException):
            raise state
        return SimpleNamespace(name=state, message="what the gate says")

    monkeypatch.setattr(models, "api_is_named", lambda: True)
    monkeypatch.setattr(models, "run_elsewhere", elsewhere)
    assert verb(words.split()) == code
    assert asked == [(deployment, parameters)]
    said = capsys.readouterr()
    assert (said.out, said.err) == (("what the gate says\n", "") if code != 1 else ("", "error: it is away\n"))


@pytest.mark.parametrize(
    ("verb", "words", "said"),
    [
        (models.promote, "challenger", "set MLFLOW_TRACKING_URI to it, or name the version by its number"),
        (models.promote, "--file p.onnx", "set MLFLOW_TRACKING_URI to it\n"),
        (models.promote, "3 --dry-run", "there is no registry "),
        (models.retire, "3", "there is no registry "),
        (models.compare, "3 champion", "there is no registry "),
        (card.main, "3", "there is no registry "),
    ],
)
def test_under_prefect_no_registry_of_this_directory_stands_in_for_that_of_the_workers(
    verb: Any,
    words: str,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(models, "api_is_named", lambda: True)
    (tmp_path / "p.onnx").touch()
    assert verb(words.split()) == 2
    assert said in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["p.onnx"]


def test_deploying_is_the_program_of_the_clone(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Any] = []
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:1/api")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")

    def call(words: tuple[str, ...], cwd: Path) -> int:
        started.append((words[1], cwd))
        return 3

    monkeypatch.setattr("subprocess.call", call)
    assert models.deploy([]) == 3
    (script, directory) = started[0]
    assert Path(script) == directory / "docker/deploy.py"
    assert Path(script).is_file()
