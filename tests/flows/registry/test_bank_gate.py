"""What a bank changes in the gate: an equal policy with members is preferable, and each member is judged at home."""

import numpy as np
import pytest
from mlflow import MlflowClient

from dqn.bank import to_bank
from flows.registry import versions
from flows.registry.champion import decide
from flows.registry.evaluation import Played, evaluate_elsewhere, play_members, read_played
from flows.registry.gate import Champion
from flows.registry.versions import Artifact
from flows.tracking.attempt import begin
from serving.policy import OnnxPolicy
from tests.support.flows.promoting import empty_store
from tests.support.serving.policies import BALANCES, FALLS, linear_model, member

__all__ = ["empty_store"]  # the fixture

BANK = to_bank(linear_model(BALANCES), [member(BALANCES, {"length": 1.0}), member(FALLS, {})], run_id="0" * 32)
CHALLENGER = Artifact(
    name="dqn-CartPole-v1", version=2, policy=OnnxPolicy.load(BANK), content=BANK, sha256="digest of the file"
)


@pytest.mark.parametrize(
    ("members", "rival_has_bank", "gate"),
    [
        ((500.0, 476.0), False, "passed: not worse and has a bank of 2 members"),
        ((500.0, 475.0), True, "refused: tie, the champion stays"),
        ((), False, "refused: 0 of the bank's 2 members were evaluated"),
        ((500.0,), False, "refused: 1 of the bank's 2 members were evaluated"),
        ((500.0, 470.0), False, "refused: a member of the bank returns 470 in its own world, below the threshold 475"),
        ((500.0, float("nan")), False, "refused: a member of the bank returns nan in its own world"),
        ((float("nan"), 500.0), False, "refused: a member of the bank returns nan in its own world"),
    ],
)
def test_a_bank_is_preferable_if_each_member_solves_its_own_world(
    members: tuple[float, ...], rival_has_bank: bool, gate: str
) -> None:
    returns = np.full(600, 500.0)
    rival = Champion(version=1, returns=returns, has_bank=rival_has_bank)
    mine = Played(returns=returns, stress=None, seed=0, members=members)
    assert decide(CHALLENGER, CHALLENGER.sha256, rival, mine, None).gate.startswith(gate)


def test_members_are_played_in_their_own_worlds() -> None:
    balances, falls = play_members(CHALLENGER.policy, seed=3)
    assert balances == 500
    assert falls < 100


def test_of_a_version_that_is_tried_in_another_world_the_members_are_judged_too(empty_store: MlflowClient) -> None:
    run_id = empty_store.create_run(empty_store.create_experiment("banks")).info.run_id
    model_id = versions.log_model(run_id, BANK)
    version = versions.register(empty_store, CHALLENGER.name, model_id=model_id, run_id=run_id, tags={})
    played = read_played(evaluate_elsewhere.fn(CHALLENGER.name, version, {"gravity": 11.0}, begin(empty_store, run_id)))
    assert played.returns.mean() == played.members[0] == 500
    assert played.members[1] < 100
