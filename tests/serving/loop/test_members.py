"""Members of a served bank play what undoing cannot bring back. In process."""

import dataclasses
import json
from typing import Any

import numpy as np
import onnx
import pytest

from dqn.bank import to_bank
from dqn.environments.world import NOMINAL, World
from dqn.stress.baselines import lqr
from serving.errors import PolicyError
from serving.loop.rehearsal import candidates, choose, rehearse
from serving.models.served import ServedModel
from serving.policy import OnnxPolicy
from tests.support.serving.policies import FALLS, linear_model, member
from tests.support.serving.stepped import Stepped

CHAMPION = (0.2, 0.5, 4.0, 2.5)
"""Balances Gymnasium's CartPole, and no short pole with a strong motor."""
SHORT = World(length=0.1, force_mag=30.0)
GAINS: Any = tuple(lqr(SHORT).tolist())
BANK = to_bank(
    linear_model(CHAMPION), [member(FALLS, {"length": 1.5}), member(GAINS, SHORT.to_dict())], run_id="0" * 32
)


def chosen(policy: OnnxPolicy, world: World) -> tuple[str, list[str]]:
    """The name of what is chosen to play in a world, and the names of all candidates."""
    tried = candidates(policy, world, NOMINAL)
    names = [each.name for each in tried]
    return names[choose(rehearse(policy, tried, world), names, "")], names


@pytest.mark.parametrize(
    ("world", "name"),
    [
        (SHORT, "member 2 of the bank (length 0.1, force_mag 30)"),
        (
            World(length=0.1, force_mag=-30.0),
            "member 2 of the bank (length 0.1, force_mag 30), the motor's sign undone",
        ),
        (World(force_mag=-10.0), "the motor's sign undone"),
        (NOMINAL, ""),
    ],
    ids=str,
)
def test_a_member_plays_where_undoing_is_not_enough(world: World, name: str) -> None:
    played, names = chosen(OnnxPolicy.load(BANK), world)
    assert played == name
    assert sum("bank" in each for each in names) == ("bank" in name), "one member is a candidate, where one is needed"


def test_without_a_bank_a_regulator_plays_there() -> None:
    assert chosen(OnnxPolicy.load(linear_model(CHAMPION)), SHORT)[0].startswith("a linear-quadratic regulator")


def test_a_show_is_healed_by_a_member_and_clients_get_the_champion(stepped: Stepped) -> None:
    assert stepped.app.models.current
    version = dataclasses.replace(stepped.app.models.current.version, number="2")
    stepped.app.models.current = ServedModel.load("p", version, BANK)
    stepped.play(600)
    stepped.client.put("/api/world", json=SHORT.to_dict())
    stepped.play(1_500)
    playing = stepped.get("/api/adaptation")["playing"]
    assert playing["name"].startswith("member 2 of the bank")
    assert playing["holds"]
    assert stepped.loop.episodes[-1].truncated
    observation = np.array([[0.01, 0.1, 0.02, -0.1]], np.float32)
    tensor = {"name": "observation", "shape": [1, 4], "datatype": "FP32", "data": observation[0].tolist()}
    answer = stepped.client.post("/v2/models/p/infer", json={"inputs": [tensor]}).json()
    q_values = next(each["data"] for each in answer["outputs"] if each["name"] == "q_values")
    assert q_values == pytest.approx(OnnxPolicy.load(linear_model(CHAMPION)).q_values(observation)[0].tolist())


@pytest.mark.parametrize(
    ("worlds", "sentence"),
    [
        ("[]", "an optional input 'policy' must be int64"),
        ("[{}", "model property 'bank' holds no worlds"),
        ('[{"lenght": 1}]', "model property 'bank' holds no worlds: a world has no lenght"),
        ("{}", "must be a list of at most 16 worlds"),
        (json.dumps([{}] * 17), "must be a list of at most 16 worlds"),
        ("[{}, {}, {}]", "it does not have the 3 members that it names"),
    ],
)
def test_a_bank_that_is_not_as_it_says_is_refused(worlds: str, sentence: str) -> None:
    model = onnx.load_model_from_string(BANK)
    properties = {entry.key: entry.value for entry in model.metadata_props}
    onnx.helper.set_model_props(model, properties | {"bank": worlds})
    with pytest.raises(PolicyError, match=sentence):
        OnnxPolicy.load(model.SerializeToString())


def test_a_policy_that_only_says_it_has_a_bank_is_refused() -> None:
    model = onnx.load_model_from_string(linear_model(CHAMPION))
    properties = {entry.key: entry.value for entry in model.metadata_props}
    onnx.helper.set_model_props(model, properties | {"bank": "[{}]"})
    with pytest.raises(PolicyError, match="an optional input 'policy' must be int64"):
        OnnxPolicy.load(model.SerializeToString())
