"""Decodes JSON of clients against a schema; an error is one sentence about the first field that does not fit."""

import json
import re
from types import UnionType
from typing import Any, Final, TypeVar, get_args, get_type_hints

import msgspec

from serving.errors import RequestError

T = TypeVar("T")
_LONGEST: Final = 40  # characters of a client's text that a message repeats
_KINDS: Final = {
    "int": "a whole number",
    "float": "a number",
    "str": "a string",
    "bool": "true or false",
    "null": "null",
    "array": "a list",
    "object": "an object",
}
_BOUNDS: Final = {">=": "at least", "<=": "at most", ">": "above", "<": "below", "matching regex": "that matches"}
_EXPECTED: Final = re.compile(r"Expected `(?P<kinds>[^`]+)`(?P<bound>.*?)(?:, got .*)?", re.DOTALL)
_FIELD: Final = re.compile(r"Object (?P<fault>missing required|contains unknown) field `(?P<name>.*)`", re.DOTALL)


def decode(decoder: msgspec.json.Decoder[T], text: bytes | str) -> T:
    """The text of a client, as the decoder's type.

    Raises:
        RequestError: with one sentence that names the first field that does not fit.
    """
    try:
        return decoder.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        try:
            given = msgspec.json.decode(text)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as not_json:
            raise RequestError(f"the request is not valid JSON: {_malformed(not_json)}") from error
        raise RequestError(_sentence(str(error), given, decoder.type, "the request")) from error


def fit(values: object, kind: type[T]) -> T:
    """The values of a query, as `kind`; numbers may be text.

    Raises:
        RequestError: as `decode`.
    """
    try:
        return msgspec.convert(values, kind, strict=False)
    except msgspec.ValidationError as error:
        raise RequestError(_sentence(str(error), values, kind, "the query")) from error


def _malformed(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8"
    if isinstance(error, RecursionError):
        return "it is nested too deep"
    reason = str(error).removeprefix("JSON is malformed: ")
    if reason == "Input data was truncated":
        return "it ends too early"
    return "a number is too large" if "out of range" in reason else reason


def _sentence(error: str, given: Any, kind: Any, whole: str) -> str:
    """An error of msgspec as a sentence: the field, what it must be, and what it is."""
    said, _, path = error.partition(" - at `$")
    path = path.removesuffix("`")
    name = path.removeprefix(".") or whole
    for step in re.findall(r"[^.\[\]]+", path):
        given = given[int(step) if isinstance(given, list) else step]
    if match := _FIELD.fullmatch(said):
        field = _shortened(match["name"])
        if match["fault"] == "missing required":
            return f"{name} has no field '{field}', which is required: add it"
        return f"{name} has a field '{field}', which is unknown: leave it out"
    if match := _EXPECTED.fullmatch(said):
        *others, last = (_KINDS[word] for word in match["kinds"].split(" | "))
        kinds = f"{', '.join(others)} or {last}" if others else last
        return f"{name} must be {kinds}{_bound(match['bound'])}, got {_shown(given)}"
    if said.startswith("Invalid"):
        return f"{name} must be one of {', '.join(_choices(kind, name))}, got {_shown(given)}"
    return (
        f"{name} is too large a number" if said.endswith("out of range") else said
    )  # raised by a check of the type itself


def _choices(kind: Any, field: str) -> tuple[str, ...]:
    """The tags of a union of commands, or the values that a field may have."""
    if isinstance(kind, UnionType):
        return tuple(member.__struct_config__.tag for member in get_args(kind))
    return get_args(get_type_hints(kind)[field])


def _bound(bound: str) -> str:
    """Turns ` <= 200.0` into ` of at most 200`."""
    for sign, words in _BOUNDS.items():
        bound = bound.replace(f" {sign} ", f" {words} ")
    number = re.sub(r"\d+\.\d+(e\+\d+)?$", lambda match: f"{float(match[0]):g}", bound)
    return f" of{number}" if number.startswith(" at ") else number


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return f"a list of length {len(value)}"
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, str) and len(value) > _LONGEST:
        return f"a string of length {len(value)}"
    return _shortened(json.dumps(value, ensure_ascii=False))


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
