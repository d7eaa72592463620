"""Command lines as frozen dataclasses: each field is an option, and each mistake is one sentence."""

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields, replace
from types import NoneType, UnionType
from typing import Any, Final, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from dqn.config import WORLDS, ConfigError, DQNConfig
from dqn.environments.world import World, WorldError
from flows.cli.help import HELPS, page
from flows.cli.keywords import read_keywords
from flows.request.suggestions import did_you_mean, expected

_LISTS: Final = "--help lists all"
_NOTHING: Final = "nothing"
T = TypeVar("T")


def parse(kind: type[T], argv: Sequence[str], *, prog: str, default: T, positional: Sequence[str] = ()) -> T:
    """Parse a command line. The fields of a DQNConfig among the arguments become options.

    Args:
        kind: the dataclass of the arguments.
        argv: the words.
        prog: the command, for `--help`.
        default: the arguments if none is given.
        positional: fields that are given without a name, in this order; each may be left out.

    Raises:
        ConfigError: if an option is unknown (with the nearest names) or given twice, or its value has another type.
        SystemExit: with code 0 for `--help`, which prints a screen, and `--help-all`, which explains every option.
    """
    if asked := [word for word in argv if word in HELPS]:
        with suppress(BrokenPipeError):  # the reader has seen enough
            print(page(default, prog=prog, everything=asked[0] == "--help-all", positional=positional), flush=True)
        raise SystemExit(0)
    require_once(argv)
    types = option_types(kind)
    values, free = values_of(argv, types)
    for name, word in zip(positional, list(free), strict=False):
        shown = name.upper().replace("_", "-")
        if name in values:
            raise ConfigError(f"{shown} is given 2 times ({word}, {values[name]}): give it once")
        values[name] = _converted(shown, [free.pop(0)], types[name.replace("_", "-")])
    if free:
        raise ConfigError(f"{' '.join(free)} belongs to no option; {_LISTS}")
    if values.get("acceptance-return", 0) is None:
        values.setdefault("acceptance-epsilon", 0.0)  # the preset's value needs an acceptance return
    try:
        replaced: T = _replaced(default, values)
        return replaced
    except WorldError as error:
        raise ConfigError(str(error)) from error
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(str(error)) from error


def option_types(kind: type) -> dict[str, Any]:
    """The type of each option by its name without the dashes; None for flags, which take no value."""
    own = get_type_hints(kind)
    flags = {field.name for field in fields(kind) if field.default is False}
    types = {name: None if name in flags else hint for name, hint in own.items() if name != "config"}
    if "config" in own:
        types |= {name: hint for name, hint in get_type_hints(DQNConfig).items() if name in _own_fields(DQNConfig)}
        entries = get_type_hints(World)
        types |= {f"{world}.{name}": entries[name] for world in WORLDS for name in _own_fields(World)}
    return {name.replace("_", "-"): hint for name, hint in types.items()}


def require_once(argv: Sequence[str]) -> None:
    """Refuse an option that is given twice: one of the two would be ignored.

    Raises:
        ConfigError: naming the first such option and its values.
    """
    given: dict[str, list[str]] = {}
    for name, words in _given(argv):
        given.setdefault(name, []).append(" ".join(words) or _NOTHING)
    for name, values in given.items():
        if len(values) > 1:
            with_values = f" ({', '.join(values)})" if any(value != _NOTHING for value in values) else ""
            raise ConfigError(f"--{name} is given {len(values)} times{with_values}: give it once")


def converted(words: Sequence[str], kind: Any) -> Any:
    """Words of a command line as a value. `none`, in any case, is None, or an empty list of numbers.

    Raises:
        ValueError: if they cannot be converted.
    """
    origin, parts = get_origin(kind), get_args(kind)
    none = [word.lower() for word in words] == ["none"]
    if origin is dict:
        return read_keywords(words)
    if origin in (Union, UnionType):
        if none and NoneType in parts:
            return None
        for part in parts:
            with suppress(ValueError):
                return converted(words, part)
    elif origin is tuple and Ellipsis in parts:
        return () if none else tuple(converted([word], parts[0]) for word in words)
    elif origin is tuple and len(words) == len(parts):
        return tuple(converted([word], part) for word, part in zip(words, parts, strict=True))
    elif origin is not tuple and kind is not NoneType and len(words) == 1:
        by_name = {str(choice): choice for choice in ((True, False) if kind is bool else get_args(kind))}
        if kind is World:
            return World.from_dict(json.loads(words[0]))
        if not by_name:
            return kind(words[0])
        if words[0] in by_name:
            return by_name[words[0]]
    raise ValueError(f"{words} are not {kind}")


def values_of(argv: Sequence[str], types: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The value of each option that is given, and the words that belong to none.

    Raises:
        ConfigError: if an option is unknown, or its value has another type.
    """
    free = list(itertools.takewhile(lambda word: not word.startswith("--"), argv))
    values: dict[str, Any] = {}
    for name, words in _given(argv):
        if name not in types:
            raise ConfigError(
                f"there is no option --{name}{did_you_mean(name, list(types), prefix='--') or f'; {_LISTS}'}"
            )
        kind = types[name]
        if kind is None:
            if any(word.replace("_", "-").startswith(f"--{name}=") for word in argv):
                raise ConfigError(f"--{name} takes no value, got {words[0] or _NOTHING}: give it or leave it out")
            values[name] = True
            free += words
            continue
        values[name] = _converted(f"--{name}", words, kind)
    return values, free


def _converted(shown: str, words: Sequence[str], kind: Any) -> Any:
    try:
        return converted(words, kind)
    except ValueError as error:
        choices = [str(choice) for choice in get_args(kind)] if get_origin(kind) is Literal else []
        meant = did_you_mean(" ".join(words), choices)
        raise ConfigError(f"{shown} takes {expected(kind)}, got {' '.join(words) or _NOTHING}{meant}") from error


def _replaced(default: Any, values: Mapping[str, Any]) -> Any:
    """A dataclass with these values; those of a DQNConfig among its fields, and of its worlds, are replaced there."""
    changes: dict[str, Any] = {}
    nested: dict[str, dict[str, Any]] = {}
    own = {field.name for field in fields(default)}
    for option, value in values.items():
        name, _, entry = option.replace("-", "_").partition(".")
        if entry:
            nested.setdefault(name, {})[entry] = value
        else:
            changes[name] = value
    if "config" in own:
        config = default.config
        changed = {world: replace(getattr(config, world), **entries) for world, entries in nested.items()}
        changed |= {name: changes.pop(name) for name in list(changes) if name not in own}
        changes["config"] = replace(config, **changed)
    return replace(default, **changes)


def _given(argv: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Each option without its dashes, with the words that follow it."""
    starts = [index for index, word in enumerate(argv) if word.startswith("--")]
    for start, end in itertools.pairwise([*starts, len(argv)]):
        name, equals, value = argv[start].removeprefix("--").partition("=")
        yield name.replace("_", "-"), [*([value] if equals else []), *argv[start + 1 : end]]


def _own_fields(kind: type) -> list[str]:
    return [field.name for field in fields(kind) if field.name not in WORLDS]
