"""Keyword arguments on a command line: `name=value` pairs, or a JSON object."""

import json
from collections.abc import Sequence
from typing import Any, Final

_PYTHONS: Final = {"True": True, "False": False, "None": None}


def read_keywords(words: Sequence[str]) -> dict[str, Any]:
    """The words of an option as a dictionary: `is_slippery=false map_name=8x8`, or `{"is_slippery": false}`.

    A value is JSON, or Python's True, False and None; anything else is a string.

    Raises:
        ValueError: if a word is no pair, or a name is given twice.
    """
    if len(words) == 1 and words[0].lstrip().startswith("{"):
        given: dict[str, Any] = json.loads(words[0])
        return given
    pairs = [word.partition("=") for word in words]
    names = [name for name, _, _ in pairs]
    if not all(name and equals for name, equals, _ in pairs) or len(set(names)) < len(names):
        raise ValueError(f"expected NAME=VALUE pairs or a JSON object, got {' '.join(words)}")
    return {name: _value(text) for name, _, text in pairs}


def _value(text: str) -> Any:
    if text in _PYTHONS:
        return _PYTHONS[text]
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
