"""Policies with action masks: their contract, requests, episodes and shows."""

import asyncio
import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import orjson
import pytest
from starlette.testclient import TestClient

from dqn.environments.masks import MASKED_Q
from serving.application import App
from serving.episodes.simulation import play
from serving.errors import PolicyError, RequestError
from serving.inference.protocol import model_config, model_metadata, parse_infer
from serving.metrics.inputs import Inputs
from serving.metrics.metrics import Metrics
from serving.models.follower import Models
from serving.models.served import ServedModel
from serving.models.source import FileSource, Version
from serving.policy import OnnxPolicy
from serving.show.show import Show
from serving.show.viewer import Viewer
from tests.support.dqn.masked import ACTIONS, CORRIDOR, LENGTH, Corridor, counted
from tests.support.serving.masked import model
from tests.support.serving.stage import play_to_the_end

OBSERVATION = {"name": "observation", "shape": [2, LENGTH], "datatype": "FP32", "data": [0.5] * 2 * LENGTH}
MASK = {"name": "action_mask", "shape": [2, ACTIONS], "datatype": "BOOL", "data": [True, False] * ACTIONS}
ALLOWED = np.array(MASK["data"]).reshape(2, ACTIONS)


def changed(change: Any) -> bytes:
    proto = onnx.load_model_from_string(model())
    change(proto)
    return bytes(proto.SerializeToString())


def without_property(proto: Any) -> None:
    kept = [each for each in proto.metadata_props if each.key != "action_mask"]
    del proto.metadata_props[:]
    proto.metadata_props.extend(kept)


def without_effect(proto: Any) -> None:
    (least,) = (each for each in proto.graph.initializer if each.name == "masked_q")
    least.CopyFrom(onnx.numpy_helper.from_array(np.array(-1e9, dtype=np.float32), "masked_q"))


def parse(*inputs: dict[str, Any], binary: bytes = b"") -> Any:
    header = orjson.dumps({"inputs": inputs})
    return parse_infer(header + binary, str(len(header)), [LENGTH], mask_size=ACTIONS)


def models_of(folder: Path) -> Models:
    (folder / "p.onnx").write_bytes(model())
    models = Models(FileSource(folder / "p.onnx"), alias=None, version="1", environments=frozenset({CORRIDOR}))
    asyncio.run(models.poll())
    assert models.current, models.notice
    return models


def test_a_policy_takes_the_best_of_the_allowed_actions() -> None:
    policy = OnnxPolicy.load(model())
    assert (policy.metadata.masked, policy.metadata.mask_size) == (True, ACTIONS)
    observation = np.eye(LENGTH, dtype=np.float32)[[0, 1]]
    plain, under = policy.q_values(observation), policy.q_values(observation, ALLOWED)
    np.testing.assert_array_equal(under, np.where(ALLOWED, plain, np.float32(MASKED_Q)))
    assert np.isfinite(under).all()
    assert ALLOWED[[0, 1], policy.act(observation, ALLOWED)].all()
    np.testing.assert_array_equal(policy.q_values(observation, np.ones((1, ACTIONS), np.bool_)), plain)


def test_a_policy_without_masks_ignores_them() -> None:
    policy = OnnxPolicy.load(model(masked=False))
    assert (policy.metadata.masked, policy.metadata.mask_size) == (False, 0)
    observation = np.eye(LENGTH, dtype=np.float32)[[0, 1]]
    np.testing.assert_array_equal(policy.q_values(observation, ALLOWED), policy.q_values(observation))


def test_a_model_must_say_that_it_has_the_input_and_apply_it() -> None:
    with pytest.raises(PolicyError, match=r"'action_mask' must be bool \[batch, 6\], and the model property .* absent"):
        OnnxPolicy.load(changed(without_property))
    version = Version(number="1", source="s")
    assert ServedModel.load("m", version, model(), environments=frozenset({CORRIDOR})).policy.metadata.masked
    with pytest.raises(PolicyError, match=r"Q-values of actions that 'action_mask' forbids are not -3\.4028235e\+38"):
        ServedModel.load("m", version, changed(without_effect), environments=frozenset({CORRIDOR}))


def test_metadata_and_config_list_the_input() -> None:
    metadata = OnnxPolicy.load(model()).metadata
    said = json.loads(msgspec.json.encode(model_metadata("m", ["1"], metadata)))
    assert said["inputs"][1] == {"name": "action_mask", "datatype": "BOOL", "shape": [-1, ACTIONS]}
    assert said["properties"]["action_mask"] == "true"
    config = json.loads(msgspec.json.encode(model_config("m", metadata)))
    wanted = {"name": "action_mask", "data_type": "TYPE_BOOL", "dims": [ACTIONS], "optional": True}
    assert config["input"][1] == wanted
    assert "optional" not in config["input"][0]


@pytest.mark.parametrize("inputs", [(OBSERVATION, MASK), (MASK, OBSERVATION)])
def test_a_request_may_have_a_mask_in_any_form(inputs: tuple[dict[str, Any], ...]) -> None:
    forms = [MASK["data"], [1, 0] * ACTIONS, ALLOWED.tolist(), ALLOWED.astype(int).tolist()]
    for data in forms:
        request = parse(*({**each, "data": data} if each is MASK else each for each in inputs))
        np.testing.assert_array_equal(request.mask, ALLOWED)
    parts = {"observation": np.full((2, LENGTH), 0.25, "<f4").tobytes(), "action_mask": ALLOWED.tobytes()}
    sized = [
        {name: value for name, value in each.items() if name != "data"}
        | {"parameters": {"binary_data_size": len(parts[str(each["name"])])}}
        for each in inputs
    ]
    request = parse(*sized, binary=b"".join(parts[str(each["name"])] for each in inputs))
    np.testing.assert_array_equal(request.mask, ALLOWED)
    assert request.observation.tolist() == [[0.25] * LENGTH] * 2
    assert parse(OBSERVATION).mask is None


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ((MASK,), r"^expected 'observation' once, got \['action_mask'\]$"),
        ((OBSERVATION, OBSERVATION), "^expected 'observation' once"),
        ((OBSERVATION, MASK, MASK), "inputs must be a list of length at most 2"),
        ((OBSERVATION, MASK | {"name": "mask"}), "FP32, and 'action_mask' of BOOL or none, got 'mask' of 'BOOL'$"),
        ((OBSERVATION, MASK | {"datatype": "INT8"}), "got 'action_mask' of 'INT8'$"),
        ((OBSERVATION, MASK | {"shape": [2, 4]}), r"^'action_mask' must have shape \[batch, 6\]"),
        ((OBSERVATION, MASK | {"data": [1] * 11}), r"^shape \[2, 6\] takes 12 numbers, 'data' has the shape \[11\]$"),
        (
            (OBSERVATION, MASK | {"shape": [1, 6], "data": [1] * 6}),
            "^'action_mask' has 1 rows and 'observation' has 2$",
        ),
        ((OBSERVATION, MASK | {"data": [1] * 11 + [2]}), "^'action_mask' must hold true and false, .*; it holds 2$"),
        ((OBSERVATION, MASK | {"data": [1] * 6 + [0] * 6}), "^'action_mask' allows no action in row 1$"),
    ],
)
def test_a_bad_mask_gets_a_sentence(inputs: tuple[dict[str, Any], ...], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        parse(*inputs)


@pytest.mark.parametrize("size", [11, 13])
def test_bytes_that_do_not_fit_are_refused(size: int) -> None:
    sized = {name: value for name, value in MASK.items() if name != "data"} | {"parameters": {"binary_data_size": 12}}
    with pytest.raises(RequestError, match="bytes follow the JSON"):
        parse(OBSERVATION, sized, binary=b"\1" * size)


def test_a_policy_without_masks_is_sent_none() -> None:
    with pytest.raises(RequestError, match="inputs must be a list of length at most 1"):
        parse_infer(orjson.dumps({"inputs": [OBSERVATION, MASK | {"data": [1, 0] * ACTIONS}]}), None, [LENGTH])


def test_the_server_answers_with_allowed_actions(tmp_path: Path) -> None:
    client = TestClient(App(models_of(tmp_path), show=False).asgi, base_url="http://localhost")
    (name,) = {entry["name"] for entry in client.post("/v2/repository/index").json()}
    answers = [
        client.post(f"/v2/models/{name}/infer", json={"inputs": each}) for each in ([OBSERVATION], [OBSERVATION, MASK])
    ]
    assert [answer.status_code for answer in answers] == [200, 200]
    plain, under = (np.array(answer.json()["outputs"][0]["data"], np.float32).reshape(2, ACTIONS) for answer in answers)
    np.testing.assert_array_equal(under, np.where(ALLOWED, plain, np.float32(MASKED_Q)))
    assert answers[1].json()["outputs"][1]["data"] == under.argmax(1).tolist()
    refused = client.post(f"/v2/models/{name}/infer", json={"inputs": [OBSERVATION, MASK | {"data": [0] * 12}]})
    assert (refused.status_code, refused.json()["error"]) == (400, "'action_mask' allows no action in row 0")


def test_an_episode_has_allowed_actions_only() -> None:
    with counted():
        steps = list(play(OnnxPolicy.load(model()), seed=0))
    assert len(steps) > 1
    assert all(sum(value > MASKED_Q for value in step.q_values) == 2 for step in steps)
    before = Corridor.illegal
    list(play(OnnxPolicy.load(model(masked=False)), seed=0))
    assert Corridor.illegal == before + 1, "the test above can fail"


def test_a_show_has_allowed_actions_only(tmp_path: Path) -> None:
    show = Show(models_of(tmp_path), Metrics())
    show.join(Viewer())
    with counted():
        play_to_the_end(show)
    (q_values,) = orjson.loads(show.frame)["q"]
    assert sum(value > -3.4e38 for value in q_values) == 2


def test_a_gap_is_between_allowed_actions() -> None:
    metadata = OnnxPolicy.load(model()).metadata
    inputs = Inputs(metadata)
    observation = np.zeros((2, LENGTH), np.float32)
    q_values = np.array([[3, MASKED_Q, 1, MASKED_Q, 0, MASKED_Q], [*[MASKED_Q] * 5, 7]], np.float32)
    inputs.add(observation, q_values)
    inputs.count()
    assert (inputs.gaps.sum, inputs.rows) == (2.0, 2)
