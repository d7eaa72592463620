"""Open Inference Protocol v2 with the binary tensor extension: parse, validate, answer. Pure functions.

The protocol is https://github.com/open-inference/open-inference-protocol (specification/protocol/inference_rest.md);
the binary tensor extension is the one of NVIDIA Triton (extension_binary_data.md).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Final, cast

import numpy as np
import orjson

from serving.policy import INPUT, OUTPUT, FloatArray, PolicyMetadata
from serving.quoting import quote

MAX_BATCH: Final = 4_096
ACTION: Final = "action"
DATATYPES: Final = {OUTPUT: "FP32", ACTION: "INT64"}
EXTENSIONS: Final = ("binary_tensor_data", "statistics", "model_configuration")
HEADER_LENGTH: Final = b"inference-header-content-length"
_UNSUPPORTED: Final = ("shared_memory_region", "classification")


class ProtocolError(ValueError):
    """A request that cannot be answered: the HTTP status, and what was given and what is expected."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, kw_only=True, slots=True)
class InferRequest:
    """A valid request."""

    id: str | None
    observation: FloatArray
    """`[batch, obs]`."""
    outputs: tuple[tuple[str, bool], ...]
    """Name, and whether its data is wanted in binary."""


def parse_infer(body: bytes, header_length: str | None, observation_size: int) -> InferRequest:
    """Read an inference request.

    Raises:
        ProtocolError: with one sentence, for anything that is not exactly right.
    """
    header, binary = _split(body, header_length)
    try:
        request = orjson.loads(header)
    except orjson.JSONDecodeError as error:
        raise ProtocolError(f"the request is not valid JSON: {error}") from error
    if not isinstance(request, dict):
        raise ProtocolError(f"the request must be a JSON object with 'inputs', got {quote(request)}")
    request_id = request.get("id")
    if request_id is not None and not isinstance(request_id, str):
        raise ProtocolError(f"'id' must be a string, got {quote(request_id)}")
    inputs = request.get("inputs")
    if not isinstance(inputs, list):
        raise ProtocolError(f"'inputs' must be an array with one tensor '{INPUT}', got {quote(inputs)}")
    names = [_name(tensor, "input") for tensor in inputs]
    if names != [INPUT]:
        raise ProtocolError(f"expected exactly one input '{INPUT}', got {quote(names)}")
    return InferRequest(
        id=request_id,
        observation=_parse_tensor(inputs[0], binary, observation_size),
        outputs=_parse_outputs(request),
    )


def answer_infer(request: InferRequest, q_values: FloatArray, *, model: str, version: str) -> tuple[bytes, int | None]:
    """The response's body and, if it has binary data, the length of the JSON before that.

    Raises:
        ProtocolError: if a Q-value is not finite, which no JSON number can say.
    """
    if not np.isfinite(q_values).all():
        raise ProtocolError(f"the observation is so large that the policy's {OUTPUT} are not finite")
    outputs: list[dict[str, Any]] = []
    chunks: list[bytes] = []
    for name, binary in request.outputs:
        tensor = q_values if name == OUTPUT else q_values.argmax(axis=1)
        output: dict[str, Any] = {"name": name, "datatype": DATATYPES[name], "shape": tensor.shape}
        if binary:
            chunk = tensor.astype("<f4" if name == OUTPUT else "<i8", copy=False).tobytes()
            output["parameters"] = {"binary_data_size": len(chunk)}
            chunks.append(chunk)
        else:
            output["data"] = tensor.reshape(-1)
        outputs.append(output)
    response: dict[str, Any] = {"model_name": model, "model_version": version, "outputs": outputs}
    if request.id is not None:
        response["id"] = request.id
    header = orjson.dumps(response, option=orjson.OPT_SERIALIZE_NUMPY)
    return (b"".join((header, *chunks)), len(header)) if chunks else (header, None)


def model_metadata(model: str, versions: Sequence[str], policy: PolicyMetadata) -> dict[str, Any]:
    """Names, types and shapes; -1 is the batch."""
    return {
        "name": model,
        "versions": list(versions),
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": INPUT, "datatype": "FP32", "shape": [-1, policy.observation_size]}],
        "outputs": [
            {"name": OUTPUT, "datatype": DATATYPES[OUTPUT], "shape": [-1, policy.num_actions]},
            {"name": ACTION, "datatype": DATATYPES[ACTION], "shape": [-1]},
        ],
        "properties": {
            "env_id": policy.env_id,
            "action_meanings": ",".join(policy.action_meanings),
            "run_id": policy.run_id,
            "seed": str(policy.seed),
            "config_sha256": policy.config_sha256,
        },
    }


def model_config(model: str, policy: PolicyMetadata) -> dict[str, Any]:
    """The model configuration extension; its dims leave the batch out."""
    return {
        "name": model,
        "platform": "onnxruntime_onnx",
        "backend": "onnxruntime",
        "max_batch_size": MAX_BATCH,
        "input": [{"name": INPUT, "data_type": "TYPE_FP32", "dims": [policy.observation_size]}],
        "output": [
            {"name": OUTPUT, "data_type": "TYPE_FP32", "dims": [policy.num_actions]},
            {"name": ACTION, "data_type": "TYPE_INT64", "dims": []},
        ],
        "instance_group": [{"kind": "KIND_CPU", "count": 1}],
    }


def _split(body: bytes, header_length: str | None) -> tuple[bytes, bytes]:
    if header_length is None:
        return body, b""
    if not (header_length.isascii() and header_length.isdecimal()) or len(header_length) > 9:
        raise ProtocolError(f"Inference-Header-Content-Length must be a whole number, got {header_length[:40]!r}")
    if int(header_length) > len(body):
        raise ProtocolError(f"Inference-Header-Content-Length is {header_length}, the body has {len(body)} bytes")
    return body[: int(header_length)], body[int(header_length) :]


def _parse_tensor(tensor: Mapping[str, Any], binary: bytes, width: int) -> FloatArray:
    datatype, shape, parameters = tensor.get("datatype"), tensor.get("shape"), _parameters(tensor)
    if datatype != "FP32":
        raise ProtocolError(f"'{INPUT}' has datatype FP32, got {quote(datatype)}")
    if not isinstance(shape, list) or not set(map(type, shape)) <= {int}:
        raise ProtocolError(f"'{INPUT}' needs a shape [batch, {width}], got {quote(shape)}")
    if len(shape) != 2 or shape[1] != width or shape[0] < 1:
        raise ProtocolError(f"'{INPUT}' must have shape [batch, {width}] with a batch of 1 or more, got {quote(shape)}")
    if shape[0] > MAX_BATCH:
        raise ProtocolError(f"a batch may have at most {MAX_BATCH} rows, got {shape[0]}")
    size = parameters.get("binary_data_size")
    if size is None:
        if binary:
            raise ProtocolError(f"{len(binary)} bytes follow the JSON, but no input has a 'binary_data_size'")
        values = _from_json(tensor.get("data"), shape)
    else:
        values = _from_binary(tensor, size, binary, shape)
    if not np.isfinite(values).all():
        raise ProtocolError(f"'{INPUT}' must hold finite float32 numbers, it holds NaN or infinity")
    return values


def _from_binary(tensor: Mapping[str, Any], size: object, binary: bytes, shape: list[int]) -> FloatArray:
    expected = 4 * prod(shape)
    if "data" in tensor:
        raise ProtocolError(f"'{INPUT}' has both 'data' and 'binary_data_size': send one of them")
    if type(size) is not int or size != expected:
        raise ProtocolError(f"shape {shape} of FP32 takes {expected} bytes, 'binary_data_size' is {quote(size)}")
    if len(binary) != expected:
        raise ProtocolError(f"'binary_data_size' is {expected}, but {len(binary)} bytes follow the JSON")
    return np.frombuffer(binary, dtype="<f4").astype(np.float32, copy=False).reshape(shape)


def _from_json(data: object, shape: list[int]) -> FloatArray:
    if not isinstance(data, list):
        raise ProtocolError(f"'{INPUT}' needs 'data', an array of {prod(shape)} numbers, got {quote(data)}")
    flat = data
    if data and isinstance(data[0], list):
        if len(data) != shape[0] or any(not isinstance(row, list) or len(row) != shape[1] for row in data):
            raise ProtocolError(f"nested 'data' must have the shape {shape} that the request states")
        flat = [value for row in data for value in row]
    elif len(data) != prod(shape):
        raise ProtocolError(f"shape {shape} takes {prod(shape)} numbers, 'data' has {len(data)}")
    if not set(map(type, flat)) <= {float, int}:
        wrong = next(value for value in flat if type(value) not in (float, int))
        raise ProtocolError(f"'data' must hold numbers only, got {quote(wrong)}")
    with np.errstate(over="ignore"):
        return np.array(flat, dtype=np.float32).reshape(shape)


def _parse_outputs(request: Mapping[str, Any]) -> tuple[tuple[str, bool], ...]:
    default = _flag(_parameters(request), "binary_data_output", False)
    wanted = request.get("outputs")
    if wanted is None or wanted == []:
        return ((OUTPUT, default), (ACTION, default))
    if not isinstance(wanted, list):
        raise ProtocolError(f"'outputs' must be an array, got {quote(wanted)}")
    names = [_name(output, "output") for output in wanted]
    if unknown := [name for name in names if name not in DATATYPES]:
        raise ProtocolError(f"unknown output {quote(unknown[0])}; there are '{OUTPUT}' and '{ACTION}'")
    if len(set(names)) != len(names):
        raise ProtocolError(f"an output may be asked for once, got {quote(names)}")
    return tuple(
        (name, _flag(_parameters(out), "binary_data", default)) for name, out in zip(names, wanted, strict=True)
    )


def _name(tensor: object, kind: str) -> str:
    if not isinstance(tensor, dict) or not isinstance(tensor.get("name"), str):
        raise ProtocolError(f"every {kind} must be an object with a 'name', got {quote(tensor)}")
    return cast("str", tensor["name"])


def _parameters(owner: Mapping[str, Any]) -> Mapping[str, Any]:
    parameters = owner.get("parameters")
    if parameters is None:
        return {}
    if not isinstance(parameters, dict):
        raise ProtocolError(f"'parameters' must be an object, got {quote(parameters)}")
    if unsupported := [name for name in _UNSUPPORTED if name in parameters]:
        raise ProtocolError(f"parameter '{unsupported[0]}' is of an extension this server does not have")
    return parameters


def _flag(parameters: Mapping[str, Any], name: str, default: bool) -> bool:
    value = parameters.get(name, default)
    if type(value) is not bool:
        raise ProtocolError(f"parameter '{name}' must be true or false, got {quote(value)}")
    return value
