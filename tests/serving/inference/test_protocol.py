"""Requests and answers of the Open Inference Protocol, in JSON and binary."""

import gc
import json
from typing import Any

import msgspec
import numpy as np
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving.errors import RequestError
from serving.inference.protocol import Inference, answer_infer, model_config, model_metadata, parse_infer
from serving.inference.schemas import BinaryData, InferAnswer, InferRequest, OutputTensor
from serving.policy import OnnxPolicy

TENSOR: dict[str, Any] = {"name": "observation", "shape": [1, 4], "datatype": "FP32", "data": [0, 0.5, -1, 2]}


def parse(request: object, **tensor: object) -> Inference:
    if isinstance(request, dict) and not request.get("inputs"):
        request = {"inputs": [{key: value for key, value in (TENSOR | tensor).items() if value is not ...}]} | request
    return parse_infer(json.dumps(request).encode(), None, (4,))  # orjson knows no number of 2^64 or more


def test_flat_and_nested_data_are_the_same() -> None:
    flat = parse({}, shape=[2, 4], data=[0, 1, 2, 3, 4, 5, 6, 7]).observation
    nested = parse({}, shape=[2, 4], data=[[0, 1, 2, 3], [4, 5, 6, 7]]).observation
    np.testing.assert_array_equal(flat, nested)
    assert flat.dtype == np.float32


def test_the_largest_and_smallest_of_float32_are_taken() -> None:
    largest = float(np.finfo(np.float32).max)
    observation = parse({}, data=[largest, -largest, 0, -0.0]).observation
    assert observation.tolist() == [[largest, -largest, 0, 0]]
    assert np.isfinite(observation).all()


def test_outputs_are_chosen_one_by_one() -> None:
    assert parse({}).outputs == parse({"parameters": {}}).outputs == (("q_values", False), ("action", False))
    assert parse({"parameters": {"binary_data_output": True}}).outputs == (("q_values", True), ("action", True))
    chosen = {"outputs": [{"name": "action", "parameters": {"binary_data": True}}, {"name": "q_values"}]}
    assert parse(chosen).outputs == (("action", True), ("q_values", False))


def test_binary_goes_both_ways(champion: OnnxPolicy) -> None:
    observation = np.array([[0, 0, 0.1, 0], [0, 0, -0.1, 0]], dtype="<f4")
    tensor = {"name": "observation", "shape": [2, 4], "datatype": "FP32", "parameters": {"binary_data_size": 32}}
    header = orjson.dumps({"inputs": [tensor], "id": "7", "parameters": {"binary_data_output": True}})
    request = parse_infer(header + observation.tobytes(), str(len(header)), (4,))
    q_values = champion.q_values(request.observation)
    body, length = answer_infer(request, q_values, model="m", version="3")
    answer = orjson.loads(body[:length])
    assert (answer["id"], answer["model_name"], answer["model_version"]) == ("7", "m", "3")
    assert [output["parameters"]["binary_data_size"] for output in answer["outputs"]] == [16, 16]
    assert length is not None
    np.testing.assert_array_equal(np.frombuffer(body[length : length + 16], "<f4").reshape(2, 2), q_values)
    assert np.frombuffer(body[length + 16 :], "<i8").tolist() == [1, 0]


def test_json_goes_both_ways(champion: OnnxPolicy) -> None:
    request = parse({}, shape=[2, 4], data=[[0, 0, 0.5, 0], [0, 0, -0.5, 0]])
    body, length = answer_infer(request, champion.q_values(request.observation), model="m", version="3")
    assert length is None
    assert orjson.loads(body) == {
        "model_name": "m",
        "model_version": "3",
        "outputs": [
            {"name": "q_values", "datatype": "FP32", "shape": [2, 2], "data": [92, 98, 98, 92]},
            {"name": "action", "datatype": "INT64", "shape": [2], "data": [1, 0]},
        ],
    }


def test_the_garbage_collector_has_no_work_with_a_request(champion: OnnxPolicy) -> None:
    asked = {"inputs": [TENSOR | {"parameters": {}}], "outputs": [{"name": "action", "parameters": {}}]}
    request = msgspec.json.decode(json.dumps(asked | {"parameters": {}}), type=InferRequest)
    assert request.outputs
    tensor, output = request.inputs[0], request.outputs[0]
    parts: list[object] = [request, request.parameters, tensor, tensor.parameters, output, output.parameters]
    answer = OutputTensor("action", "INT64", (1,), BinaryData(8), [1])
    parts += [InferAnswer("m", "1", [answer]), answer, answer.parameters]
    assert not any(gc.is_tracked(part) for part in parts)


def test_the_largest_batch_is_taken() -> None:
    assert parse({}, shape=[4096, 4], data=[0] * 4 * 4096).observation.shape == (4096, 4)


def test_metadata_and_config_state_inputs_and_outputs(champion: OnnxPolicy) -> None:
    metadata = json.loads(msgspec.json.encode(model_metadata("m", ["1", "2"], champion.metadata)))
    assert metadata == {
        "name": "m",
        "versions": ["1", "2"],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": "observation", "datatype": "FP32", "shape": [-1, 4]}],
        "outputs": [
            {"name": "q_values", "datatype": "FP32", "shape": [-1, 2]},
            {"name": "action", "datatype": "INT64", "shape": [-1]},
        ],
        "properties": {
            "env_id": "CartPole-v1",
            "action_meanings": "left,right",
            "run_id": "0" * 32,
            "seed": "7",
            "config_sha256": "0" * 64,
            "env_kwargs": "{}",
            "max_episode_steps": "0",
        },
    }
    config = json.loads(msgspec.json.encode(model_config("m", champion.metadata)))
    assert config == {
        "name": "m",
        "platform": "onnxruntime_onnx",
        "backend": "onnxruntime",
        "max_batch_size": 4096,
        "input": [{"name": "observation", "data_type": "TYPE_FP32", "dims": [4]}],
        "output": [
            {"name": "q_values", "data_type": "TYPE_FP32", "dims": [2]},
            {"name": "action", "data_type": "TYPE_INT64", "dims": []},
        ],
        "instance_group": [{"kind": "KIND_CPU", "count": 1}],
    }


@pytest.mark.parametrize("request_", [{"name": "x" * 50}, {"datatype": "x" * 50}, {"outputs": [{"name": "x" * 50}]}])
def test_input_of_a_client_is_repeated_up_to_forty_letters(request_: dict[str, object]) -> None:
    outputs = {"outputs": request_.pop("outputs")} if "outputs" in request_ else {}
    with pytest.raises(RequestError, match=r"'x{40}'"):
        parse(outputs, **request_)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "obs"}, "expected one input 'observation' of datatype FP32, got 'obs' of 'FP32'"),
        ({"datatype": "FP64"}, "expected one input 'observation' of datatype FP32, got 'observation' of 'FP64'"),
        ({"datatype": ...}, r"^inputs\[0\] has no field 'datatype', which is required: add it$"),
        ({"shape": [4]}, r"must have shape \[batch, 4\]"),
        ({"shape": [1, 5]}, r"must have shape \[batch, 4\]"),
        ({"shape": list(range(12))}, r"got \[0, 1, 2, 3, 4, 5, 6, 7, 8\]$"),
        ({"shape": [-1, 4]}, "with a batch of 1 or more, got"),
        ({"shape": [0, 4], "data": []}, "with a batch of 1 or more"),
        ({"shape": [True, 4]}, r"^inputs\[0\].shape\[0\] must be a whole number, got true$"),
        ({"shape": [1.5, 4]}, r"must be a whole number, got 1\.5"),
        ({"shape": "1,4"}, r'^inputs\[0\].shape must be a list, got "1,4"$'),
        ({"shape": [4097, 4]}, "at most 4096 rows, got 4097"),
        ({"data": [1, 2, 3]}, r"takes 4 numbers, 'data' has the shape \[3\]"),
        ({"data": [1, 2, 3, 4, 5]}, r"takes 4 numbers, 'data' has the shape \[5\]"),
        ({"data": [[1, 2, 3]]}, r"takes 4 numbers, 'data' has the shape \[1, 3\]"),
        ({"data": [[1], [2], [3], [4]]}, r"takes 4 numbers, 'data' has the shape \[4, 1\]"),
        ({"data": [[1, 2, 3], 4]}, "nested 'data' must have the shape"),
        ({"data": [[1, 2, 3, [4]]]}, "must be a number, got a list of length 1"),
        ({"data": [1, 2, 3, "4"]}, r'^inputs\[0\].data\[3\] must be a number or a list, got "4"$'),
        ({"data": [1, 2, 3, True]}, "got true"),
        ({"data": [1, 2, 3, None]}, "got null"),
        ({"data": [1, 2, 3, 1e39]}, r"^inputs\[0\].data\[3\] must be a number of at most 3\.4\d+e\+38, got 1e\+39$"),
        ({"data": [1, 2, 3, 10**39]}, r"must be a number of at most 3\.4\d+e\+38, got 10{38}"),
        ({"data": [[1, 2, -3.5e38, 3]]}, r"^inputs\[0\].data\[0\]\[2\] must be a number of at least -3\.4\d+e\+38"),
        ({"data": ...}, "needs 'data'"),
        ({"parameters": 3}, r"^inputs\[0\].parameters must be an object or null, got 3$"),
        ({"parameters": {"binary_data_size": 16}}, "both 'data' and 'binary_data_size'"),
        ({"parameters": {"shared_memory_region": "x"}}, "'shared_memory_region' is of an extension"),
    ],
)
def test_a_wrong_tensor_is_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(RequestError, match=message) as caught:
        parse({}, **change)
    assert caught.value.status == 400


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ([], "the request must be an object, got a list of length 0"),
        ({"id": 7}, "^id must be a string or null, got 7$"),
        ({"inputs": 7}, "inputs must be a list, got 7"),
        ({"inputs": [TENSOR, TENSOR]}, "inputs must be a list of length at most 1, got a list of length 2"),
        ({"inputs": [7]}, r"inputs\[0\] must be an object, got 7"),
        ({"outputs": 7}, "outputs must be a list or null, got 7"),
        ({"outputs": [{"name": "x"}]}, "unknown output 'x'; there are 'q_values' and 'action'"),
        ({"outputs": [{"name": "action"}, {"name": "action"}]}, "asked for once"),
        ({"outputs": [{"name": "action", "parameters": {"binary_data": 1}}]}, "must be true or false or null, got 1"),
        ({"outputs": [{"name": "action", "parameters": {"classification": 1}}]}, "'classification' is of an extension"),
        ({"parameters": {"binary_data_output": "yes"}}, 'must be true or false, got "yes"'),
    ],
)
def test_a_wrong_request_is_named(request_: object, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        parse(request_)


@pytest.mark.parametrize("extra", [{"model_name": "p"}, {"model_version": 3, "priority": {"x": [None]}}])
def test_fields_that_the_protocol_does_not_name_are_ignored_wherever_they_are(extra: dict[str, object]) -> None:
    """KServe's own client sends `model_name` with every request."""
    expected = parse({"outputs": [{"name": "action"}]})
    given = parse({"outputs": [{"name": "action"} | extra]} | extra, **extra)
    assert (given.id, given.outputs) == (expected.id, expected.outputs)
    assert given.observation.tolist() == expected.observation.tolist()


DEEP = b'{"parameters": {"x": %s}}' % (b"[" * 100_000 + b"]" * 100_000)


@pytest.mark.parametrize(
    "body", [b"", b"{", b'{"inputs": [NaN]}', b"\xff\xfe", b'{"inputs": [{"name": "x\xff"}]}', DEEP]
)
def test_a_body_that_is_not_json_is_refused(body: bytes) -> None:
    with pytest.raises(RequestError, match="not valid JSON"):
        parse_infer(body, None, (4,))


@pytest.mark.parametrize(
    ("size", "extra", "header_length", "message"),
    [
        (16, b"", None, "0 bytes follow the JSON"),
        (-1, b"", 0, "must be a whole number of at least 0, got -1"),
        (16, b"x" * 15, 0, "15 bytes follow the JSON"),
        (15, b"x" * 15, 0, "takes 16 bytes, 'binary_data_size' is 15"),
        (None, b"x" * 16, 0, "no input has a 'binary_data_size'"),
        (16, b"x" * 16, "-1", "must be a whole number"),
        (16, b"x" * 16, "9" * 10, "must be a whole number"),
        (16, b"x" * 16, "x" * 41, f"must be a whole number, got '{'x' * 40}'$"),
        (16, b"x" * 16, "", "must be a whole number, got ''$"),
        (16, b"x" * 16, "\u0661\u0666", "must be a whole number"),
        (16, b"", "9" * 9, "the body has"),
        (16, b"", 0, "0 bytes follow the JSON"),
        (16, np.full(4, np.nan, "<f4").tobytes(), 0, "NaN or infinity"),
    ],
)
def test_sizes_that_disagree_are_named(size: object, extra: bytes, header_length: object, message: str) -> None:
    tensor: dict[str, object] = {"name": "observation", "shape": [1, 4], "datatype": "FP32"}
    tensor |= {"data": [0, 0, 0, 0]} if size is None else {"parameters": {"binary_data_size": size}}
    header = orjson.dumps({"inputs": [tensor]})
    stated = str(len(header)) if header_length == 0 else header_length
    with pytest.raises(RequestError, match=message):
        parse_infer(header + extra, stated, (4,))  # type: ignore[arg-type] # the table mixes types on purpose


def test_q_values_that_are_not_finite_are_refused() -> None:
    with pytest.raises(RequestError, match="not finite"):
        answer_infer(parse({}), np.array([[np.inf, 0]], dtype=np.float32), model="m", version="1")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda children: st.lists(children, max_size=5) | st.dictionaries(st.text(max_size=8), children, max_size=4),
    max_leaves=12,
)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    shape=JSON | st.just([1, 4]), datatype=JSON | st.just("FP32"), parameters=JSON, data=JSON, outputs=JSON, id_=JSON,
    extra=st.binary(max_size=64), shift=st.integers(-3, 3),
)  # fmt: skip
def test_no_request_raises_anything_but_a_request_error(
    shape: Any, datatype: Any, parameters: Any, data: Any, outputs: Any, id_: Any, extra: bytes, shift: int
) -> None:
    tensor = {"name": "observation", "shape": shape, "datatype": datatype, "parameters": parameters, "data": data}
    header = orjson.dumps({"inputs": [tensor], "outputs": outputs, "id": id_})
    try:
        request = parse_infer(header + extra, str(max(0, len(header) + shift)), (4,))
    except RequestError:
        return
    assert request.observation.shape[1] == 4


@settings(deadline=None)
@given(rows=st.integers(1, 5), noise=st.binary(max_size=80), size=st.integers(-1, 100))
def test_the_binary_parser_takes_exact_sizes_only(rows: int, noise: bytes, size: int) -> None:
    tensor = {"name": "observation", "shape": [rows, 4], "datatype": "FP32", "parameters": {"binary_data_size": size}}
    header = orjson.dumps({"inputs": [tensor]})
    try:
        request = parse_infer(header + noise, str(len(header)), (4,))
    except RequestError:
        exact = size == len(noise) == rows * 16
        assert not exact or not np.isfinite(np.frombuffer(noise, "<f4")).all()
    else:
        assert request.observation.tobytes() == noise
