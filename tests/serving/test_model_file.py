"""Models with external tensors are refused, wherever in a model such a tensor is."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from google.protobuf.message import DecodeError, Message  # type: ignore[import-untyped]
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from serving import model_file
from serving.errors import PolicyError
from serving.model_file import TENSORS, check_model_file
from serving.policy import OnnxPolicy
from tests.support.serving.policies import BALANCES, linear_model

ELSEWHERE = "it keeps tensors in other files"
Place = Callable[[Any], Any]


def node(model: Any) -> Any:
    """An attribute of a further node of the model."""
    return model.graph.node.add(op_type="Constant", output=["c"]).attribute.add(name="value")


PLACES: dict[str, Place] = {
    "an initializer": lambda model: model.graph.initializer[0],
    "a further initializer": lambda model: model.graph.initializer.add(),
    "a Constant": lambda model: node(model).t,
    "a list of tensors": lambda model: node(model).tensors.add(),
    "a sparse Constant's values": lambda model: node(model).sparse_tensor.values,
    "a list of sparse tensors' indices": lambda model: node(model).sparse_tensors.add().indices,
    "a sparse initializer": lambda model: model.graph.sparse_initializer.add().values,
    "a branch": lambda model: node(model).g.initializer.add(),
    "a branch of a branch": lambda model: node(model).g.node.add().attribute.add().graphs.add().initializer.add(),
    "a function": lambda model: model.functions.add().node.add().attribute.add().t,
    "a function's default": lambda model: model.functions.add().attribute_proto.add().t,
    "training": lambda model: model.training_info.add().initialization.initializer.add(),
    "training's algorithm": lambda model: model.training_info.add().algorithm.initializer.add(),
}


def parsed(content: bytes) -> Any:
    model = onnx.ModelProto()
    model.ParseFromString(content)
    return model


def put_elsewhere(tensor: TensorProto, location: str = "secret.txt") -> None:
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)


def lies_elsewhere(message: Any) -> bool:
    """Whether onnx's own parser finds a tensor with external data anywhere in a message."""
    if isinstance(message, TensorProto) and message.data_location == TensorProto.EXTERNAL:
        return True
    below = [value for field, value in message.ListFields() if field.message_type]
    return any(
        lies_elsewhere(each) for value in below for each in ([value] if isinstance(value, Message) else list(value))
    )


@pytest.mark.parametrize("place", PLACES)
def test_a_tensor_that_lies_elsewhere_is_refused_before_anything_is_loaded(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("secret.txt").write_bytes(np.arange(8, dtype=np.float32).tobytes())
    model = parsed(linear_model(BALANCES))
    put_elsewhere(PLACES[place](model))
    monkeypatch.setattr("onnxruntime.InferenceSession", None)
    with pytest.raises(PolicyError, match=ELSEWHERE):
        OnnxPolicy.load(model.SerializeToString())
    Path("p.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(PolicyError, match=ELSEWHERE):
        OnnxPolicy.load(Path("p.onnx"))


def test_every_way_to_a_tensor_is_followed() -> None:
    def leads(kind: Any, above: tuple[str, ...] = ()) -> bool:
        return kind.name == "TensorProto" or any(
            field.message_type is not None
            and field.message_type.name not in above
            and leads(field.message_type, (*above, kind.name))
            for field in kind.fields
        )

    known, left = {}, [onnx.ModelProto.DESCRIPTOR]
    while left:
        kind = left.pop()
        inside = {field.number: field.message_type for field in kind.fields if field.message_type}
        inside = {number: message for number, message in inside.items() if leads(message)}
        known[kind.name] = {number: message.name for number, message in inside.items()}
        left += [message for message in inside.values() if message.name not in known]
    assert known == TENSORS


def test_a_model_that_the_project_exports_is_accepted() -> None:
    check_model_file(linear_model())
    model = parsed(linear_model())
    for place in PLACES.values():
        place(model).CopyFrom(helper.make_tensor("inside", TensorProto.FLOAT, [2], [1, 2]))
    check_model_file(model.SerializeToString())


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """Models with some tensors elsewhere, their bytes changed, cut, repeated and in another order."""
    model = parsed(linear_model())
    for place in draw(st.lists(st.sampled_from(sorted(PLACES)), max_size=3)):
        put_elsewhere(PLACES[place](model), draw(st.sampled_from(["", "x", "*/_ORT_MEM_ADDR_/*"])))
    content = bytearray(model.SerializeToString())
    for _ in range(draw(st.integers(0, 4))):
        at, other = sorted(draw(st.tuples(*[st.integers(0, max(0, len(content) - 1))] * 2)))
        match draw(st.integers(0, 3)):
            case 0:
                content[at : at + 1] = draw(st.binary(max_size=3))
            case 1:
                del content[at : at + draw(st.integers(0, 8))]
            case 2:
                content += content[at:other]
            case 3:
                content[at:at] = bytes([content[at] | 0x80 if content else 0, 0x80, 0])  # a number written longer
    return bytes(content)


@pytest.mark.slow
@settings(max_examples=400, deadline=None)
@given(damaged())
def test_whatever_onnx_reads_as_external_is_refused(content: bytes) -> None:
    try:
        elsewhere = lies_elsewhere(parsed(content))
    except DecodeError:
        elsewhere = False
    try:
        check_model_file(content)
    except ValueError:
        return
    assert not elsewhere


@settings(max_examples=400, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_accepted_or_refused(content: bytes) -> None:
    try:
        check_model_file(content)
    except ValueError as error:
        assert "not a loadable ONNX model" in str(error) or ELSEWHERE in str(error)  # noqa: PT017 # both may hold


def test_a_location_in_another_spelling_is_the_same() -> None:
    # 0x100000001 is 1 in the 32 bits of an enumeration
    tensor = bytes([0x70, 0x81, 0x80, 0x80, 0x80, 0x10])
    graph = bytes([0x2A, len(tensor)]) + tensor
    content = bytes([0x3A, len(graph)]) + graph
    assert lies_elsewhere(parsed(content))
    with pytest.raises(ValueError, match=ELSEWHERE):
        check_model_file(content)


def test_a_model_that_takes_too_long_to_scan_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_file, "_MAX_FIELDS", 5)
    with pytest.raises(ValueError, match="more than 5 fields"):
        check_model_file(linear_model())
    monkeypatch.setattr(model_file, "MAX_BYTES", 100)
    with pytest.raises(PolicyError, match="more than the 100 bytes that are loaded"):
        OnnxPolicy.load(linear_model())
