"""A trained policy for serving: loads an ONNX file, checks its contract, and acts greedily."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from dqn.environments.masks import ACTION_MASK, Mask
from dqn.environments.spec import Environment
from dqn.environments.world import NOMINAL, World, WorldError
from serving import deadlines
from serving.errors import PolicyError
from serving.model_file import check_model_file, read_model_file

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

INPUT: Final = "observation"
OUTPUT: Final = "q_values"
POLICY: Final = "policy"
BANK: Final = "bank"
LOAD_SECONDS: Final = 20.0
_MAX_MEMORY: Final = 1 << 30
"""Bytes that all models together may allocate for their computations."""
_MAX_OVERRUNS: Final = 3
_MAX_KWARGS: Final = 4096
_MAX_DIGITS: Final = 9
_MAX_MEMBERS: Final = 16
_MAX_BANK: Final = 16_384
"""Characters."""
_REQUIRED_PROPERTIES: Final = ("env_id", "action_meanings", "run_id", "seed", "config_sha256")


@dataclass(frozen=True, kw_only=True)
class PolicyMetadata:
    """The metadata of a policy file (model properties of the ONNX contract)."""

    env_id: str
    action_meanings: tuple[str, ...]
    run_id: str
    seed: int
    config_sha256: str
    observation_shape: tuple[int, ...]
    """Of one observation: `[obs]`, or `[height, width, channels]`."""
    world: World = NOMINAL
    """The world that it was trained for."""
    observed: tuple[tuple[float, float], ...] = ()
    """Least and greatest value of each entry of the observations in training; empty if the file does not say."""
    masked: bool = False
    """Whether it takes action masks."""
    members: tuple[World, ...] = ()
    """The worlds of a bank's members, which the input `policy` chooses by their numbers from 1."""
    env_kwargs: str = "{}"
    """Keyword arguments of the environment, as a JSON object."""
    max_episode_steps: int = 0
    """Time limit of the environment in steps; 0 for the registered one."""

    @property
    def environment(self) -> Environment:
        """The environment that it was trained in, with its arguments."""
        return Environment(env_id=self.env_id, kwargs=self.env_kwargs, max_episode_steps=self.max_episode_steps)

    @property
    def observation_size(self) -> int:
        """Number of entries of an observation."""
        return math.prod(self.observation_shape)

    @property
    def num_actions(self) -> int:
        """Number of discrete actions, the width of `q_values`."""
        return len(self.action_meanings)

    @property
    def mask_size(self) -> int:
        """Number of actions if it takes action masks, otherwise 0."""
        return self.num_actions if self.masked else 0


class OnnxPolicy:
    """The greedy policy of one Q-network, run by onnxruntime on one thread.

    A batch of one takes about 15 microseconds: a second thread costs more than it saves.
    """

    def __init__(self, session: ort.InferenceSession, metadata: PolicyMetadata) -> None:
        self._session = session
        self.metadata = metadata
        self.overruns = 0
        """Runs that were cancelled because they took too long."""

    @classmethod
    def load(cls, source: Path | bytes) -> "OnnxPolicy":
        """Read a policy from a file or from its bytes and check it against the contract.

        Raises:
            PolicyError: if it is not an ONNX model or breaks the contract.
            FileNotFoundError: if there is no such file.
        """
        model = read_model_file(source) if isinstance(source, Path) else source
        try:
            check_model_file(model)
        except ValueError as error:
            raise PolicyError(str(error)) from error
        options = _options()
        starting = deadlines.begin(partial(_start, model, options))
        try:
            session = starting.result(LOAD_SECONDS)
        except Exception as error:  # onnxruntime raises many unrelated classes for unreadable bytes
            options.set_load_cancellation_flag(True)
            late = not starting.done()
            what = f"it did not load within {LOAD_SECONDS:g} s" if late else f"not a loadable ONNX model: {error}"
            raise PolicyError(what) from error
        policy = cls(session, _check_contract(session))
        if members := range(1, len(policy.metadata.members) + 1):
            rows = np.zeros((len(members), *policy.metadata.observation_shape))
            try:
                policy.member_q_values(members, rows)
            except Exception as error:  # onnxruntime raises many unrelated classes
                raise PolicyError(f"it does not have the {len(members)} members that it names: {error}") from error
        return policy

    def __call__(self, observation: npt.NDArray[np.floating]) -> FloatArray:
        """As `q_values`."""
        return self.q_values(observation)

    def q_values(self, observation: npt.NDArray[np.floating], mask: Mask | None = None) -> FloatArray:
        """Q-values `[batch, actions]` of observations `[batch, *observation_shape]`.

        Actions that `mask` `[batch, actions]` forbids have the least float32, -3.4e38. A policy that was trained
        without masks ignores it.

        Raises:
            ValueError: if the observations have another shape.
            PolicyError: if it takes too long, or did so too often before.
        """
        shape = self.metadata.observation_shape
        if observation.shape[1:] != shape or not observation.ndim:
            expected = ", ".join(map(str, shape))
            raise ValueError(f"expected observations of shape [batch, {expected}], got {list(observation.shape)}")
        given = {} if mask is None or not self.metadata.masked else {ACTION_MASK: mask}
        return self._run(observation, given)

    def member_q_values(self, members: Sequence[int], observation: npt.NDArray[np.floating]) -> FloatArray:
        """Q-values `[batch, actions]` of members of a bank, by their numbers from 1.

        Each member gets as many consecutive rows of the batch.

        Raises:
            ValueError: if there is no such member.
            PolicyError: as `q_values`.
        """
        if not members or not all(1 <= member <= len(self.metadata.members) for member in members):
            raise ValueError(f"members are numbers from 1 to {len(self.metadata.members)}, got {list(members)}")
        return self._run(observation, {POLICY: np.array(members, np.int64)})

    def _run(self, observation: npt.NDArray[np.floating], given: dict[str, npt.NDArray[Any]]) -> FloatArray:
        if self.overruns >= _MAX_OVERRUNS:
            raise PolicyError(f"it did not answer in time {self.overruns} times, and is not asked again")
        try:
            given = {INPUT: np.ascontiguousarray(observation, dtype=np.float32), **given}
            (q_values,) = deadlines.run(self._session, [OUTPUT], given)
        except TimeoutError as error:
            self.overruns += 1
            raise PolicyError(str(error)) from error
        return np.asarray(q_values, dtype=np.float32)

    def act(self, observation: npt.NDArray[np.floating], mask: Mask | None = None) -> IntArray:
        """Greedy actions `[batch]` for observations `[batch, *observation_shape]`.

        They are among those that `mask` `[batch, actions]` allows.

        Raises:
            ValueError, PolicyError: as `q_values`.
        """
        return np.asarray(self.q_values(observation, mask).argmax(axis=1), dtype=np.int64)


def _options() -> ort.SessionOptions:
    _bound_memory()
    options = ort.SessionOptions()
    options.add_session_config_entry(
        "session.load_model_format", "ONNX"
    )  # the ORT format is not checked for references to other files
    options.add_session_config_entry("session.use_env_allocators", "1")
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # failures are raised, and reported by the caller
    return options


def _start(model: bytes, options: ort.SessionOptions) -> ort.InferenceSession:
    # Constant folding computes during loading, which cannot be cancelled; exported policies have nothing to fold.
    unwanted = ["ConstantFolding"]
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"], disabled_optimizers=unwanted)


@cache
def _bound_memory() -> None:
    memory = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    limits = {"max_mem": _MAX_MEMORY, "arena_extend_strategy": 1}  # 1: allocate exactly what is requested
    ort.create_and_register_allocator(memory, ort.OrtArenaCfg(limits))


def _check_contract(session: ort.InferenceSession) -> PolicyMetadata:
    inputs, outputs = session.get_inputs(), session.get_outputs()
    names = ([node.name for node in inputs], [node.name for node in outputs])
    if names != ([INPUT], [OUTPUT]):
        raise PolicyError(f"expected one input '{INPUT}' and one output '{OUTPUT}', got {names[0]} and {names[1]}")
    for node in (inputs[0], outputs[0]):
        if node.type != "tensor(float)":
            raise PolicyError(f"'{node.name}' must be float32, got {node.type}")
        batch, *shape = node.shape or [0]
        fixed = shape and all(isinstance(size, int) for size in shape)
        if isinstance(batch, int) or not fixed or (node is outputs[0] and len(shape) != 1):
            more = "" if node is outputs[0] else ", or several sizes in place of n,"
            raise PolicyError(f"'{node.name}' must have shape [batch, n]{more} with a dynamic batch, got {node.shape}")
    shape = tuple(inputs[0].shape[1:])
    properties = session.get_modelmeta().custom_metadata_map
    if missing := [name for name in _REQUIRED_PROPERTIES if name not in properties]:
        raise PolicyError(f"model properties are missing: {', '.join(missing)}")
    if not properties["seed"].isdecimal():
        raise PolicyError(f"model property 'seed' must be a whole number, got {properties['seed']!r}")
    actions = tuple(properties["action_meanings"].split(","))
    if len(actions) != outputs[0].shape[1]:
        raise PolicyError(f"{len(actions)} action meanings for {outputs[0].shape[1]} Q-values")
    masks = [node for node in session.get_overridable_initializers() if node.name == ACTION_MASK]
    masked = properties.get(ACTION_MASK) == "true"
    if [(node.type, node.shape[1:]) for node in masks] != masked * [("tensor(bool)", [len(actions)])]:
        raise PolicyError(
            f"an optional input '{ACTION_MASK}' must be bool [batch, {len(actions)}], and the model property "
            f"'{ACTION_MASK}' must be 'true' with it and absent without"
        )
    bank = _members(properties.get(BANK, "[]"))
    chosen = [node for node in session.get_overridable_initializers() if node.name == POLICY]
    if [(node.type, len(node.shape)) for node in chosen] != bool(bank) * [("tensor(int64)", 1)]:
        raise PolicyError(
            f"an optional input '{POLICY}' must be int64 [policies], and the model property '{BANK}' must list the "
            "members' worlds with it and be absent without"
        )
    return PolicyMetadata(
        env_id=properties["env_id"],
        action_meanings=actions,
        run_id=properties["run_id"],
        seed=int(properties["seed"]),
        config_sha256=properties["config_sha256"],
        observation_shape=shape,
        world=_world(properties.get("world", "{}")),
        observed=_observed(properties.get("observed", "[]"), math.prod(shape)),
        env_kwargs=_env_kwargs(properties.get("env_kwargs", "{}")),
        max_episode_steps=_steps(properties.get("max_episode_steps", "0")),
        masked=masked,
        members=bank,
    )


def _world(text: str) -> World:
    try:
        return World.from_dict(json.loads(text))
    except (json.JSONDecodeError, RecursionError, WorldError) as error:
        raise PolicyError(f"model property 'world' is none: {error}") from error


def _members(text: str) -> tuple[World, ...]:
    try:
        worlds = json.loads(text) if len(text) <= _MAX_BANK else None
        if isinstance(worlds, list) and len(worlds) <= _MAX_MEMBERS:
            return tuple(map(World.from_dict, worlds))
    except (json.JSONDecodeError, RecursionError, WorldError) as error:
        raise PolicyError(f"model property '{BANK}' holds no worlds: {error}") from error
    raise PolicyError(f"model property '{BANK}' must be a list of at most {_MAX_MEMBERS} worlds")


def _env_kwargs(text: str) -> str:
    try:
        kwargs = json.loads(text) if len(text) <= _MAX_KWARGS else None
    except (json.JSONDecodeError, RecursionError) as error:
        raise PolicyError(f"model property 'env_kwargs' is no JSON: {error}") from error
    if not isinstance(kwargs, dict):
        raise PolicyError(f"model property 'env_kwargs' must be an object of at most {_MAX_KWARGS} characters")
    return json.dumps(kwargs, sort_keys=True)


def _steps(text: str) -> int:
    if not text.isdecimal() or len(text) > _MAX_DIGITS:
        raise PolicyError(f"model property 'max_episode_steps' must be a whole number, got {text[:80]!r}")
    return int(text)


def _observed(text: str, width: int) -> tuple[tuple[float, float], ...]:
    try:
        ranges = tuple((float(low), float(high)) for low, high in json.loads(text))
    except (ValueError, TypeError, RecursionError) as error:
        raise PolicyError(f"model property 'observed' is no list of [least, greatest]: {error}") from error
    if len(ranges) not in (0, width) or not all(-math.inf < low <= high < math.inf for low, high in ranges):
        raise PolicyError(f"model property 'observed' must hold {width} finite ranges, it is {text[:80]!r}")
    return ranges
