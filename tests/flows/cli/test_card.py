"""`python -m flows card`, on a registry of one version."""

from pathlib import Path

import pytest
from mlflow import MlflowClient

from dqn.config import DQNConfig
from dqn.training.result import AgentResult
from flows.cli.card import main
from flows.registry import versions
from flows.registry.challenger import register_file
from flows.training.population import PopulationSummary
from tests.dqn.cards.test_card import exported
from tests.support.flows.promoting import empty_store
from tests.support.flows.registering import BALANCING, registered
from tests.support.serving.policies import BALANCES

__all__ = ["empty_store"]  # the fixture

NAME = "dqn-CartPole-v1"


@pytest.fixture
def version(empty_store: MlflowClient) -> int:
    number = registered(empty_store, NAME, BALANCING)
    tags = {"eval.mean_return": "499.5", "eval.min_return": "450", "eval.episodes": "100", "gate": "passed: better"}
    versions.set_tags(empty_store, NAME, number, tags)
    return number


@pytest.mark.parametrize("reference", ["challenger", "NUMBER"])
def test_a_version_by_number_or_alias(
    version: int, reference: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "mine.html"
    assert main([reference.replace("NUMBER", str(version)), "--output", str(output)]) == 0
    page = output.read_text()
    assert f"<h1>CartPole-v1, version {version}</h1>" in page
    assert "played in 100 unseen episodes: mean return 499.5, least 450. The gate: passed: better." in page
    assert capsys.readouterr().out == f"{output}: open it in a browser\n"


def test_a_bank_is_described_by_the_training_of_its_champion(
    version: int, empty_store: MlflowClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run_id = empty_store.get_model_version(NAME, str(version)).run_id
    bank = registered(empty_store, NAME, BALANCING)
    versions.set_tags(empty_store, NAME, bank, {versions.BANKED_TAG: str(version)})
    asked: list[str] = []

    def read_summary(client: MlflowClient, run_id: str) -> PopulationSummary:
        asked.append(run_id)
        agent = AgentResult(agent=0, solved=True, selection_return=None, updates=7, environment_steps=8, episodes=9)
        return PopulationSummary(agents=(agent,), best_agent=0, seconds=1.0, cpu_seconds=1.0)

    monkeypatch.setattr("flows.reporting.card.read_summary", read_summary)
    monkeypatch.setattr("flows.reporting.card.read_config", lambda client, run_id: DQNConfig(num_agents=1))
    assert main([str(bank), "--output", str(tmp_path / "mine.html")]) == 0
    assert asked == [run_id]
    assert "By 7 gradient updates" in (tmp_path / "mine.html").read_text()


@pytest.mark.parametrize("reference", ["champion", "999"])
def test_a_version_that_does_not_exist_is_refused_with_those_that_do(
    version: int, reference: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "mine.html"
    assert main([reference, "--output", str(output)]) == 2
    said = f"error: {NAME} has no version {reference!r}; registered are: {version}; an alias that is set"
    assert said in capsys.readouterr().err
    assert not output.exists()


def test_a_version_from_a_file_says_where_it_is_from(empty_store: MlflowClient, tmp_path: Path) -> None:
    file, output = tmp_path / "lab.onnx", tmp_path / "mine.html"
    file.write_bytes(exported("CartPole-v1", hidden=(), gains=BALANCES))
    register_file.fn(file, "CartPole-v1")
    assert main(["challenger", "--output", str(output)]) == 0
    page = output.read_text()
    assert "A policy from the file lab.onnx (SHA-256 " in page
    assert "The gate: not evaluated yet." in page
    assert '"sizes": [4, 2]' in page
