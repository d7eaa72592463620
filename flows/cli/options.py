"""Command lines, read by tyro, and messages of one sentence where it cannot read them."""

import contextlib
import io
import itertools
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from types import NoneType, UnionType
from typing import Any, Final, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import tyro

from dqn.config import WORLDS, ConfigError, DQNConfig
from dqn.environments.world import World, WorldError
from flows.cli.keywords import KEYWORDS, read_keywords
from flows.request.suggestions import did_you_mean, expected

_HELP: Final = "--help lists all"
T = TypeVar("T")


def parse(kind: type[T], argv: Sequence[str], *, prog: str, default: T) -> T:
    """Parse a command line. The fields of a DQNConfig among the arguments become options.

    Raises:
        ConfigError: if an option is unknown (with the nearest names) or given twice, or its value has another type.
        SystemExit: with code 0 for `--help`; with code 2 and tyro's message for any other error.
    """
    require_once(argv)
    types, said = option_types(kind), io.StringIO()
    argv = without_none(argv, types)
    given = dict(_given(argv))
    if given.get("acceptance-return") == ["None"] and "acceptance-epsilon" not in given:
        argv = [*argv, "--acceptance-epsilon", "0"]  # the preset's value needs an acceptance return
    try:
        with contextlib.redirect_stderr(said):  # tyro's message is printed only if none below fits
            arguments, unknown = tyro.cli(
                kind,
                prog=prog,
                default=default,
                args=list(argv),
                config=(tyro.conf.FlagConversionOff,) if "config" in get_type_hints(kind) else (),
                return_unknown_args=True,
                registry=KEYWORDS,
            )
    except SystemExit as error:
        if error.code:
            require_fitting(argv, types)
            sys.stderr.write(said.getvalue())
        raise
    require_known(unknown, list(types))
    return arguments


def without_none(argv: Sequence[str], types: Mapping[str, Any]) -> list[str]:
    """Arguments with `none`, in any case, as tyro reads it: None for a value, nothing for a list of numbers."""
    words, kind = [], None
    for word in argv:
        if word.startswith("--"):
            name, equals, value = word.partition("=")
            kind = types.get(name.removeprefix("--").replace("_", "-"))
            if equals and value.lower() == "none":
                words += [name, *_none(kind, value)]
                continue
        words += _none(kind, word) if word.lower() == "none" else [word]
    return words


def _none(kind: Any, word: str) -> list[str]:
    if NoneType in get_args(kind):
        return ["None"]
    return [] if get_origin(kind) is tuple and Ellipsis in get_args(kind) else [word]


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
        given.setdefault(name, []).append(" ".join(words) or "nothing")
    for name, values in given.items():
        if len(values) > 1:
            raise ConfigError(f"--{name} is given {len(values)} times ({', '.join(values)}): give it once")


def require_known(unknown: Sequence[str], known: Sequence[str]) -> None:
    """Refuse unknown options.

    Raises:
        ConfigError: naming the first, and the nearest known ones.
    """
    for argument in unknown:
        if argument.startswith("--"):
            name = argument.removeprefix("--").partition("=")[0].replace("_", "-")
            raise ConfigError(f"there is no option --{name}{did_you_mean(name, known, prefix='--') or f'; {_HELP}'}")
    if unknown:
        raise ConfigError(f"{' '.join(unknown)} belongs to no option; {_HELP}")


def require_fitting(argv: Sequence[str], types: Mapping[str, Any]) -> None:
    """Refuse values of another type than their option's, and impossible worlds.

    Raises:
        ConfigError: naming the first such option, what it accepts and what was given.
    """
    worlds: dict[str, dict[str, Any]] = {world: {} for world in WORLDS}
    for name, words in _given(argv):
        if types.get(name) is None:
            continue
        try:
            value = converted(words, types[name])
        except ValueError as error:
            choices = [str(choice) for choice in get_args(types[name])] if get_origin(types[name]) is Literal else []
            meant = did_you_mean(" ".join(words), choices)
            raise ConfigError(
                f"--{name} takes {expected(types[name])}, got {' '.join(words) or 'nothing'}{meant}"
            ) from error
        world, _, field = name.partition(".")
        if field:
            worlds[world][field.replace("-", "_")] = value
    for values in worlds.values():
        try:
            World(**values)
        except WorldError as error:
            raise ConfigError(str(error)) from error


def converted(words: Sequence[str], kind: Any) -> Any:
    """Words of a command line as a value.

    Raises:
        ValueError: if they cannot be converted.
    """
    origin, parts = get_origin(kind), get_args(kind)
    if origin is dict:
        return read_keywords(words)
    if origin in (Union, UnionType):
        for part in parts:
            with contextlib.suppress(ValueError):
                return converted(words, part)
    elif origin is tuple and Ellipsis in parts:
        return tuple(converted([word], parts[0]) for word in words)
    elif origin is tuple and len(words) == len(parts):
        return tuple(converted([word], part) for word, part in zip(words, parts, strict=True))
    elif origin is not tuple and len(words) == 1:
        by_name = {str(choice): choice for choice in _choices(kind)}
        if not by_name:
            return kind(words[0])
        if words[0] in by_name:
            return by_name[words[0]]
    raise ValueError(f"{words} are not {kind}")


def _choices(kind: Any) -> tuple[Any, ...]:
    if kind in (bool, NoneType):
        return (True, False) if kind is bool else (None,)
    return get_args(kind) if get_origin(kind) is Literal else ()


def _given(argv: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Each option without its dashes, with the words that follow it."""
    starts = [index for index, word in enumerate(argv) if word.startswith("--")]
    for start, end in itertools.pairwise([*starts, len(argv)]):
        name, equals, value = argv[start].removeprefix("--").partition("=")
        yield name.replace("_", "-"), [*([value] if equals else []), *argv[start + 1 : end]]


def _own_fields(kind: type) -> list[str]:
    return [field.name for field in fields(kind) if field.name not in WORLDS]
