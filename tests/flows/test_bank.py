"""A bank from a training to the gate, in a registry on disk."""

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from mlflow import MlflowClient

from dqn.bank import space, to_bank
from dqn.environments.world import NOMINAL, World
from dqn.networks.onnx import ExportError
from flows import bank
from flows.bank import balanced, bank_dqn, check_request, read_coverage, require_same
from flows.cli import bank as cli
from flows.failures.errors import InputError
from flows.registry import versions
from flows.registry.versions import CHAMPION, PREVIOUS
from serving.policy import OnnxPolicy
from tests.support.flows.promoting import empty_store
from tests.support.flows.registering import registered
from tests.support.serving.policies import BALANCES, FALLS, linear_model, member

__all__ = ["empty_store"]  # the fixture

NAME = "dqn-CartPole-v1"
CHAMPION_GAINS = (0.2, 0.5, 4.0, 2.5)
"""Balances Gymnasium's CartPole, and no short pole with a strong motor."""


@pytest.mark.slow
@pytest.mark.timeout(900)  # a training and two tests of a version, on a machine that may be busy
def test_a_champion_gets_members_through_training_registry_and_gate(
    empty_store: MlflowClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(bank, "_CHOOSING", 24)
    monkeypatch.setattr(bank, "_TESTED", 24)
    champion = registered(empty_store, NAME, CHAMPION_GAINS)
    versions.set_alias(empty_store, NAME, CHAMPION, champion)
    report = bank_dqn(worlds=6, members=2, checkpoint_dir=str(tmp_path))
    version = champion + 1
    assert f"models:/{NAME}/{version} passed: not worse and has a bank of" in report
    assert [versions.version_of(empty_store, NAME, alias) for alias in (CHAMPION, PREVIOUS)] == [version, champion]
    tags = versions.get_version(empty_store, NAME, version).tags
    assert (tags[versions.BANKED_TAG], json.loads(tags[versions.WORLD_TAG])) == (str(champion), {})
    policy, alone = versions.download(NAME, version).policy, versions.download(NAME, champion).policy
    members = policy.metadata.members
    assert 1 <= len(members) <= 2
    assert [float(mean) >= 475 for mean in tags["eval.members"].split(", ")] == [True] * len(members)
    observations = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    assert np.array_equal(policy.q_values(observations), alone.q_values(observations))
    run_id = policy.metadata.run_id
    run = empty_store.get_run(run_id)
    assert run.info.status == "FINISHED"
    coverage = read_coverage(empty_store, run_id)
    assert coverage["0"] < coverage[str(len(members))]
    children = empty_store.search_runs([run.info.experiment_id], f"tags.`mlflow.parentRunId` = '{run_id}'")
    worlds = {child.data.params["world"] for child in children}
    assert len(worlds) == 6, "each agent's run has its own world"
    assert {str(world) for world in members} <= worlds == {child.data.tags["world"] for child in children}


def test_a_request_that_cannot_be_met_is_refused(empty_store: MlflowClient, tmp_path: Path) -> None:
    for worlds, members, sentence in (
        (64, 9, "members must be from 1 to 8"),
        (4, 5, "worlds must be from members = 5"),
    ):
        with pytest.raises(InputError, match=sentence):
            check_request(worlds, members, str(tmp_path))
    with pytest.raises(InputError, match="champion"):
        check_request(64, 8, str(tmp_path))


def test_what_a_command_line_asks_for_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, object] = {}
    monkeypatch.setattr(bank, "bank_dqn", lambda **options: asked.update(options) or "the report")
    monkeypatch.setattr(bank, "check_request", lambda *_: 1)
    monkeypatch.setattr(cli, "run_elsewhere", lambda *_, **__: None)
    monkeypatch.setattr(cli, "api_is_named", lambda: False)
    assert cli.main(["--worlds", "9", "--seed", "2"]) == 0
    assert asked == {"worlds": 9, "members": 8, "seed": 2, "checkpoint_dir": "checkpoints"}


def test_worlds_lie_around_the_champions_own() -> None:
    drawn = space(World(force_mag=-10.0, action_delay=2), count=40, seed=1)
    assert all(world.action_delay == 2 for world in drawn)
    forces = [world.force_mag for world in drawn]
    assert all(isinstance(force, float) and force < 0 for force in forces)
    assert len(set(map(str, drawn))) > 35
    assert all(float(np.mean(world.force_mag or 1)) > 0 for world in space(NOMINAL, count=40, seed=1))


def test_each_policy_is_judged_in_each_world() -> None:
    """The second policy pushes the other way, and so balances where the motor is reversed."""
    gains = np.array(BALANCES)

    def act(observation: npt.NDArray[np.float32]) -> npt.NDArray[np.integer]:
        right = observation.reshape(-1, 2, 3, 4) @ gains > 0
        right[:, 1] = ~right[:, 1]
        return right.astype(np.int64).ravel()

    worlds = [NOMINAL, World(force_mag=-10.0), World(length=1.0)]
    held = balanced(act, worlds, policies=2, episodes=3, seed=0)
    assert held.tolist() == [[True, False, True], [False, True, False]]


def test_a_file_that_plays_anything_else_than_its_parts_is_no_bank() -> None:
    champion, parts = linear_model(BALANCES), [member(BALANCES, {}), member(FALLS, {})]
    made = OnnxPolicy.load(to_bank(champion, parts, run_id="r"))
    require_same(made, [champion, *parts])
    for wrong in ([champion, *parts[::-1]], [linear_model(FALLS), *parts]):
        with pytest.raises(ExportError, match="other Q-values"):
            require_same(made, wrong)
