"""JSON messages of the Open Inference Protocol.

The protocol is https://github.com/open-inference/open-inference-protocol (specification/protocol/inference_rest.md);
the extensions are NVIDIA Triton's (extension_binary_data.md, _statistics.md, _model_configuration.md,
_model_repository.md). Fields and parameters that they do not define are ignored: KServe's client sends `model_name`.
"""

from typing import Annotated, Any, Final

from msgspec import Meta, Struct

LARGEST: Final = (2 - 2**-23) * 2.0**127
"""The largest finite float32. Checked while JSON is decoded, at a third of the cost of a check by numpy."""
Float32 = Annotated[float, Meta(ge=-LARGEST, le=LARGEST)]

# gc=False: these objects have no cycles, so the garbage collector need not track them.


class OutputParameters(Struct, frozen=True, gc=False):
    """Parameters of one output."""

    binary_data: bool | None = None
    classification: Any = None


class OutputRequest(Struct, frozen=True, gc=False):
    """One requested output."""

    name: Annotated[str, Meta(description="q_values or action")]
    parameters: OutputParameters | None = None


class InputParameters(Struct, frozen=True, gc=False):
    """Parameters of the input."""

    binary_data_size: Annotated[int, Meta(ge=0)] | None = None
    shared_memory_region: Any = None


class InputTensor(Struct, frozen=True, gc=False):
    """A batch of observations, with its data here or in the bytes after the JSON."""

    name: Annotated[str, Meta(description="observation")]
    shape: Annotated[list[int], Meta(description="[batch, obs], or [batch, height, width, channels]")]
    datatype: Annotated[str, Meta(description="FP32")]
    parameters: InputParameters | None = None
    data: Annotated[list[Float32 | list[Float32]], Meta(description="flat, or a list a row")] | None = None


class MaskedTensor(InputTensor, frozen=True, gc=False):
    """An input of a policy with action masks: `observation`, FP32, or `action_mask`, BOOL."""

    data: list[Float32 | bool | list[Float32 | bool]] | None = None


class RequestParameters(Struct, frozen=True, gc=False):
    """Defaults for outputs without parameters of their own."""

    binary_data_output: bool = False


class InferRequest(Struct, frozen=True, gc=False):
    """A request for inference; without `outputs`, for all of them."""

    inputs: Annotated[list[InputTensor], Meta(min_length=1, max_length=1)]
    id: str | None = None
    parameters: RequestParameters | None = None
    outputs: list[OutputRequest] | None = None


class MaskedRequest(InferRequest, frozen=True, gc=False):
    """A request for inference by a policy with action masks."""

    inputs: Annotated[list[MaskedTensor], Meta(min_length=1, max_length=2)]  # type: ignore[assignment]


class BinaryData(Struct, frozen=True, gc=False):
    """Parameters of an output with its data after the JSON."""

    binary_data_size: int


class OutputTensor(Struct, frozen=True, gc=False, omit_defaults=True):
    """One output."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    parameters: BinaryData | None = None
    data: Any = None


class InferAnswer(Struct, frozen=True, gc=False, omit_defaults=True):
    """Q-values and greedy actions of a batch."""

    model_name: str
    model_version: str
    outputs: list[OutputTensor]
    id: str | None = None


class Live(Struct, frozen=True):
    """The process runs."""

    live: bool = True


class Ready(Struct, frozen=True):
    """A version plays."""

    ready: bool = True


class ServerMetadata(Struct, frozen=True, kw_only=True):
    """The server's name, version and protocol extensions."""

    name: str = "dqn-pipeline"
    version: str = "0.1.0"
    extensions: tuple[str, ...] = ("binary_tensor_data", "statistics", "model_configuration")


class ModelReady(Struct, frozen=True, kw_only=True):
    """A version can be called."""

    name: str
    version: str
    ready: bool = True


class TensorMetadata(Struct, frozen=True):
    """Name, type and shape of a tensor; -1 is the batch."""

    name: str
    datatype: str
    shape: tuple[int, ...]


class ModelMetadata(Struct, frozen=True, kw_only=True):
    """Inputs and outputs of a model."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]
    properties: dict[str, str]


class TensorConfig(Struct, frozen=True, omit_defaults=True):
    """Name, type and shape of a tensor without the batch."""

    name: str
    data_type: str
    dims: tuple[int, ...]
    optional: bool = False


class InstanceGroup(Struct, frozen=True):
    """Device and number of instances."""

    kind: str = "KIND_CPU"
    count: int = 1


class ModelConfig(Struct, frozen=True, kw_only=True):
    """The model configuration extension."""

    name: str
    platform: str
    backend: str
    max_batch_size: int
    input: list[TensorConfig]
    output: list[TensorConfig]
    instance_group: tuple[InstanceGroup, ...] = (InstanceGroup(),)


class Duration(Struct, frozen=True):
    """A count and the total time in nanoseconds."""

    count: int
    ns: int


class InferStatistics(Struct, frozen=True, kw_only=True):
    """Durations of the parts of inference."""

    success: Duration
    fail: Duration
    queue: Duration
    compute_input: Duration
    compute_infer: Duration
    compute_output: Duration


class ModelStatistics(Struct, frozen=True, kw_only=True):
    """The statistics extension for one version since the start; `inference_count` counts rows."""

    name: str
    version: str
    last_inference: int
    inference_count: int
    execution_count: int
    inference_stats: InferStatistics
    batch_stats: tuple[()] = ()


class Statistics(Struct, frozen=True):
    """Statistics of versions."""

    model_stats: list[ModelStatistics]


class IndexRequest(Struct, frozen=True):
    """Which versions to list."""

    ready: bool = False


class IndexEntry(Struct, frozen=True, kw_only=True):
    """A known version; READY if it is loaded."""

    name: str
    version: str
    state: str
    reason: str
