"""Which members a bank has, and the one file with the champion and them."""

import numpy as np
import onnx
import pytest

from dqn.bank import BankError, cover, to_bank
from dqn.cards.layers import read_layers
from serving.policy import OnnxPolicy
from tests.support.serving.policies import BALANCES, linear_model, member

HELD = [
    [1, 1, 0, 0, 0, 0],
    [0, 1, 1, 1, 0, 0],
    [0, 0, 0, 1, 1, 0],
    [1, 1, 0, 0, 0, 0],
]


@pytest.mark.parametrize(
    ("already", "most", "chosen"),
    [
        ([0, 0, 0, 0, 0, 0], 8, [1, 0, 2]),
        ([0, 0, 0, 0, 0, 0], 2, [1, 0]),
        ([0, 0, 0, 0, 0, 0], 0, []),
        ([0, 1, 1, 1, 0, 0], 8, [0, 2]),  # what is undone anyway counts for no member
        ([1, 1, 1, 1, 1, 0], 8, []),  # the last world is balanced by none
    ],
)
def test_members_are_those_that_add_the_most_worlds(already: list[int], most: int, chosen: list[int]) -> None:
    assert cover(np.array(HELD, bool), np.array(already, bool), most) == chosen


def test_without_members_none_is_chosen() -> None:
    assert cover(np.zeros((0, 3), bool), np.zeros(3, bool), 8) == []


WORLDS: list[dict[str, object]] = [{"length": 0.1}, {"force_mag": 30.0}]
MEMBERS = [member((1, 0, 0, 0), WORLDS[0]), member((0, 0, 0, 1), WORLDS[1])]
OBSERVATIONS = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)


CHAMPIONS = {
    "linear": linear_model(BALANCES),
    "exported": member(BALANCES, {}),
    "a bank's": to_bank(linear_model(BALANCES), MEMBERS[:1], run_id="a"),
}


@pytest.mark.parametrize("champion", CHAMPIONS.values(), ids=CHAMPIONS)
def test_a_client_of_a_bank_plays_the_champion_to_the_bit(champion: bytes) -> None:
    alone, bank = OnnxPolicy.load(champion), OnnxPolicy.load(to_bank(champion, MEMBERS, run_id="r" * 32))
    assert np.array_equal(bank.q_values(OBSERVATIONS), alone.q_values(OBSERVATIONS))
    assert (bank.metadata.run_id, bank.metadata.world) == ("r" * 32, alone.metadata.world)
    assert [world.to_dict() for world in bank.metadata.members] == WORLDS
    for rows in (1, 6):
        assert bank.q_values(OBSERVATIONS[:rows]).shape == (rows, 2)


def test_each_member_of_a_bank_is_the_policy_that_it_was() -> None:
    bank = OnnxPolicy.load(to_bank(linear_model(BALANCES), MEMBERS, run_id="r" * 32))
    expected = [OnnxPolicy.load(each).q_values(OBSERVATIONS) for each in MEMBERS]
    for k, q_values in enumerate(expected, 1):
        np.testing.assert_allclose(bank.member_q_values([k], OBSERVATIONS), q_values, rtol=1e-5, atol=1e-6)
    halves = np.concatenate([expected[1][:3], expected[0][3:]])
    np.testing.assert_allclose(bank.member_q_values([2, 1], OBSERVATIONS), halves, rtol=1e-5, atol=1e-6)
    for none in ([], [0], [1, 3]):
        with pytest.raises(ValueError, match="members are numbers from 1 to 2"):
            bank.member_q_values(none, OBSERVATIONS)


def test_the_card_of_a_bank_plays_its_champion() -> None:
    champion = member(BALANCES, {})
    alone, bank = read_layers(champion), read_layers(to_bank(champion, MEMBERS, run_id="r"))
    assert alone
    assert bank
    assert np.array_equal(alone.numbers, bank.numbers)


def test_policies_that_do_not_fit_into_one_file_are_refused() -> None:
    for members, why in (([linear_model(BALANCES)], "no multilayer perceptron"), ([], "one at least")):
        with pytest.raises(BankError, match=why):
            to_bank(linear_model(BALANCES), members, run_id="r")
    masked = onnx.load_model_from_string(linear_model(BALANCES))
    masked.graph.input.append(onnx.helper.make_tensor_value_info("action_mask", onnx.TensorProto.BOOL, ["masks", 2]))
    with pytest.raises(BankError, match="action masks"):
        to_bank(masked.SerializeToString(), MEMBERS, run_id="r")
