"""Checks on the bytes of an ONNX file before onnxruntime reads them: bounded size, and no references to other files.

onnxruntime reads any file that a tensor with external data names, relative to the working directory. The package onnx,
which could find such tensors, is not installed where models are served. So the fields that lead to tensors are followed
in protobuf's wire format, https://protobuf.dev/programming-guides/encoding/, without recursion.
"""

from pathlib import Path
from typing import Final

MAX_BYTES: Final = 64 << 20
_MAX_FIELDS: Final = 1_000_000
"""Takes about a second to read; a network of three layers has about a hundred fields."""
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14
"""Fields of TensorProto."""
TENSORS: Final[dict[str, dict[int, str]]] = {
    "ModelProto": {7: "GraphProto", 20: "TrainingInfoProto", 25: "FunctionProto"},
    "TrainingInfoProto": {1: "GraphProto", 2: "GraphProto"},
    "GraphProto": {1: "NodeProto", 5: "TensorProto", 15: "SparseTensorProto"},
    "FunctionProto": {7: "NodeProto", 11: "AttributeProto"},
    "NodeProto": {5: "AttributeProto"},
    "AttributeProto": {
        5: "TensorProto", 6: "GraphProto", 10: "TensorProto", 11: "GraphProto", 22: "SparseTensorProto",
        23: "SparseTensorProto",
    },
    "SparseTensorProto": {1: "TensorProto", 2: "TensorProto"},
    "TensorProto": {},
}  # fmt: skip
"""For each message, the fields that may contain tensors and the type of each."""


def read_model_file(path: Path) -> bytes:
    """The bytes of a file; of one that is too large, as many as make `check_model_file` refuse it.

    Raises:
        OSError: if it cannot be read.
    """
    with path.open("rb") as file:
        return file.read(MAX_BYTES + 1)


def check_model_file(model: bytes) -> None:
    """Refuse a model that is too large or refers to other files.

    Raises:
        ValueError: with the reason, also if the bytes are not a protobuf message.
    """
    if len(model) > MAX_BYTES:
        raise ValueError(f"it has more than the {MAX_BYTES:,} bytes that are loaded")
    fields = 0
    messages = [("ModelProto", 0, len(model))]
    while messages:
        kind, at, end = messages.pop()
        while at < end:
            fields += 1
            if fields > _MAX_FIELDS:
                raise ValueError(f"not a loadable ONNX model: it has more than {_MAX_FIELDS:,} fields")
            tag, at = _varint(model, at, end)
            number, wire = (tag & 0xFFFFFFFF) >> 3, tag & 7
            value, start = _varint(model, at, end) if wire in (_VARINT, _LENGTH) else (0, at)
            at = start + {_FIXED64: 8, _FIXED32: 4, _LENGTH: value}.get(wire, 0)
            if wire not in (_VARINT, _FIXED64, _LENGTH, _FIXED32) or number == 0 or at > end:
                raise ValueError("not a loadable ONNX model: its bytes are no protobuf message")
            if kind == "TensorProto" and (
                (number, wire) == (_EXTERNAL_DATA, _LENGTH)
                or ((number, wire) == (_DATA_LOCATION, _VARINT) and value & 0xFFFFFFFF)
            ):
                raise ValueError("it keeps tensors in other files, which are not read: save the model as one file")
            if wire == _LENGTH and number in TENSORS[kind]:
                messages.append((TENSORS[kind][number], start, at))


def _varint(model: bytes, at: int, end: int) -> tuple[int, int]:
    """A number and the position after it."""
    value = 0
    for index in range(10):
        if at + index >= end:
            break
        byte = model[at + index]
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return value, at + index + 1
    raise ValueError("not a loadable ONNX model: its bytes are no protobuf message")
