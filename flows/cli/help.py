"""`--help`: one screen of a verb's options in groups; `--help-all` explains each."""

import ast
import inspect
import json
import shutil
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, Final

from dqn.config import WORLDS
from dqn.environments.world import World

HELPS: Final = ("--help", "-h", "--help-all")
_GROUPS: Final[Mapping[str, tuple[str, ...]]] = {
    "run": ("seed", "num_agents", "device", "num_threads", "log_interval", "checkpoint_interval"),
    "environment": ("env_", "max_episode_steps", "num_envs", *WORLDS, "reward_scale"),
    "network": ("body", "hidden_sizes", "observation_scale", "initial_q", "dueling", "num_", "value_range"),
    "exploration": ("epsilon_", "exploration_"),
    "learning": (),  # all others
    "budget": ("max_updates", "max_episodes"),
    "evaluation": ("eval_", "acceptance_"),
}
"""Names of a DQNConfig's fields, or how they begin, by group."""
_WIDEST: Final = 100
"""Columns."""


def page(default: Any, *, prog: str, everything: bool, positional: Sequence[str] = ()) -> str:
    """The text of `--help` or `--help-all` for a dataclass of arguments with these defaults."""
    width = min(shutil.get_terminal_size().columns, _WIDEST)
    words = "".join(f" {name.upper().replace('_', '-')}" for name in positional)
    config = getattr(default, "config", None)
    more = "" if everything else "; --help-all explains each"
    lines = [f"usage: {prog}{words} [OPTIONS]{more}", "", *textwrap.wrap(inspect.getdoc(default) or "", width), ""]
    told = {name: text for name, text in described(type(default)).items() if name not in ("config", *positional)}
    defaults = {name: getattr(default, name) for name in told}
    typed = {
        name: None if value is False or value == "" else value for name, value in defaults.items()
    }  # of flags none
    lines += _listed({name: (typed[name], text) for name, text in told.items()}, width, everything)
    if config is None:
        return "\n".join(lines)
    lines += [""]
    options = {name: (getattr(config, name), text) for name, text in described(type(config)).items()}
    for group in _GROUPS:
        mine = {name: option for name, option in options.items() if group_of(name) == group}
        if everything:
            lines += [f"{group}:", *_listed(mine, width, everything), ""]
        else:
            shown = [f"{_option(name)} {_value(value)}".strip().replace(" ", "\0") for name, (value, _) in mine.items()]
            start = f"{group:<13}"
            wrapped = textwrap.wrap(
                "  ".join(shown), width, initial_indent=start, subsequent_indent=" " * 13, break_on_hyphens=False
            )
            lines += [line.replace("\0", " ") for line in wrapped]
    if everything:
        entries = {f"world.{name}": option for name, option in _world(config).items()}
        lines += ["--world.ENTRY and --randomisation.ENTRY:", *_listed(entries, width, everything)]
    return "\n".join(lines)


def group_of(field: str) -> str:
    """The group of a DQNConfig's field."""
    for group, names in _GROUPS.items():
        if field.startswith(names):
            return group
    return "learning"


def described(kind: type) -> dict[str, str]:
    """The docstring of each field of a dataclass, in order; "" where it has none."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(definition, ast.ClassDef)
    told = {field.name: "" for field in fields(kind)}
    for statement, after in zip(definition.body, definition.body[1:], strict=False):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            name = statement.target.id
            if name in told and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                told[name] = " ".join(str(after.value.value).split())
    return told


def _listed(options: Mapping[str, tuple[Any, str]], width: int, everything: bool) -> list[str]:
    """An option with its default, and a line about it; or all that is said of it."""
    shown = {f"  {_option(name)} {_value(value)}".rstrip(): text for name, (value, text) in options.items()}
    column = max(map(len, shown), default=0) + 2
    lines = []
    for option, text in shown.items():
        wrapped = textwrap.wrap(text, max(width - column, 30), break_on_hyphens=False) or [""]
        if not everything and len(wrapped) > 1:
            wrapped = [textwrap.shorten(text, max(width - column, 30), placeholder=" ...", break_on_hyphens=False)]
        lines += [f"{option:<{column}}{wrapped[0]}".rstrip(), *(" " * column + line for line in wrapped[1:])]
    return lines


def _world(config: Any) -> dict[str, tuple[Any, str]]:
    return {name: (getattr(config.world, name), text) for name, text in described(World).items()}


def _option(name: str) -> str:
    return "--" + name.replace("_", "-") + (".ENTRY" if name in WORLDS else "")


def _value(value: Any) -> str:
    """A default as it is typed; "" for what is left out."""
    if isinstance(value, dict):
        return " ".join(f"{name}={json.dumps(each)}" for name, each in value.items()) or "NAME=VALUE"
    if value is None or value == ():
        return ""
    return " ".join(map(_value, value)) if isinstance(value, tuple) else str(value)
