"""Suggestions for mistyped names, and what an option accepts, in words."""

import difflib
from collections.abc import Collection
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Final, Literal, Union, get_args, get_origin

from dqn.environments.world import World

_LEAST: Final = 0.6
_NEARLY: Final = 0.1


def nearest(given: str, known: Collection[str]) -> list[str]:
    """Up to three known names that a given one may stand for: similar spelling, the same initials, or a common part."""
    wanted = given.lower()
    alike = {name: difflib.SequenceMatcher(None, wanted, name.lower()).ratio() for name in known}
    least = max(_LEAST, max(alike.values(), default=0.0) - _NEARLY)
    found = sorted((name for name in known if alike[name] >= least), key=lambda name: -alike[name])
    found = found or [name for name in known if _initials(name) == wanted]
    found = found or [name for name in known if len(wanted) > 2 and wanted in name.lower()]
    return found[:3]


def did_you_mean(given: str, known: Collection[str], *, prefix: str = "") -> str:
    """The end of a message that refuses a name: the nearest known names, or nothing."""
    names = [prefix + name for name in nearest(given, known)]
    if not names:
        return ""
    *others, last = names
    return f"; did you mean {', '.join(others)} or {last}?" if others else f"; did you mean {last}?"


def _initials(name: str) -> str:
    return "".join(word[0] for word in name.lower().replace(".", "-").split("-"))


_WORDS: Final = {int: "a whole number", float: "a number", bool: "True or False", Path: "a path", str: "one word"}
_MANY: Final = {int: "whole numbers", float: "numbers", World: "worlds as JSON objects, such as '{\"length\": 1}'"}


def expected(kind: Any) -> str:
    """What an option accepts, in words."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return " or ".join(expected(part) for part in parts if part is not NoneType)
    if origin is Literal:
        return f"one of {', '.join(map(str, parts))}"
    if origin is tuple and Ellipsis in parts:
        return _MANY.get(parts[0], "numbers")
    if origin is dict:
        return "NAME=VALUE pairs or one JSON object"
    return "two numbers, from low to high" if origin is tuple else _WORDS[kind]
