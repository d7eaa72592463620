"""The types of configuration fields: checking values, converting them to floats, naming the types in messages."""

import json
import sys
from types import NoneType, UnionType
from typing import Any, Final, Literal, get_args, get_origin

from dqn.environments.world import World

_NAMES: Final = {
    int: "a whole number below 2^63",
    float: "a finite number",
    bool: "true or false",
    str: "a string",
    NoneType: "none",
    World: "a World",
    dict: "an object of JSON values, with the names of arguments",
}


def accepts(annotation: Any, value: object) -> bool:
    """Whether a value has an annotated type; supports the types that `DQNConfig` uses."""
    if annotation is int:
        return type(value) is int and abs(value) < 2**63  # int64; isinstance(True, int) is true
    if annotation is float:
        return isinstance(value, int | float) and type(value) is not bool and abs(value) <= sys.float_info.max
    if annotation in (bool, str, NoneType, World):
        return isinstance(value, annotation)
    kinds = get_args(annotation)
    if get_origin(annotation) is dict:
        return _is_plain(value)
    if get_origin(annotation) is Literal:
        return value in kinds
    if get_origin(annotation) is UnionType:
        return any(accepts(kind, value) for kind in kinds)
    if not isinstance(value, tuple):
        return False
    if kinds[-1] is Ellipsis:
        return all(accepts(kinds[0], item) for item in value)
    return len(value) == len(kinds) and all(map(accepts, kinds, value))


def as_floats(annotation: Any, value: Any) -> Any:
    """The value with floats where its type says float, and 0.0 for -0.0: equal numbers give equal configurations.

    A dictionary is copied, sorted by keys, and its tuples become lists, as JSON has them.
    """
    kinds = get_args(annotation)
    if get_origin(annotation) is dict:
        return json.loads(json.dumps(value, sort_keys=True))
    if isinstance(value, tuple):
        return tuple(as_floats(kinds[0], entry) for entry in value)
    is_float = annotation is float or (float in kinds and value is not None)
    return float(value) + 0.0 if is_float else value


def expected(annotation: Any) -> str:
    """An annotated type in words, for error messages."""
    if (kind := get_origin(annotation) or annotation) in _NAMES:
        return _NAMES[kind]
    kinds = get_args(annotation)
    if get_origin(annotation) is Literal:
        return " or ".join(map(repr, kinds))
    if get_origin(annotation) is UnionType:
        return " or ".join(map(expected, kinds))
    if kinds[-1] is Ellipsis:
        return f"a tuple, each entry {expected(kinds[0])}"
    return f"a tuple of {len(kinds)}, each entry {expected(kinds[0])}"


def _is_plain(value: object) -> bool:
    """Whether a value is a dictionary of plain JSON values, with identifiers as keys."""
    if not isinstance(value, dict) or not all(isinstance(key, str) and key.isidentifier() for key in value):
        return False
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return False
    return True
