"""The command line of `python -m serving`: verbs, options, and messages for mistakes."""

import argparse
import difflib
import os
from collections import Counter
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from serving.episodes.limits import MAX_PUSH, MAX_SEED, MAX_STEPS, Push
from serving.inference.shadow import MOST_CANARIES
from serving.web.proxies import Network, networks

DEFAULT_MODEL: Final = "models:/dqn-CartPole-v1@champion"
VIDEOS: Final = ("mp4", "webm", "gif")
_VERBS: Final = ("serve", "watch", "record")
_REPEATABLE: Final = ("allow_env", "push")
_NEAR: Final = 3


class UsageError(ValueError):
    """A wrong command line; the message says what was given and what is expected."""


def parse(arguments: Sequence[str]) -> tuple[str, argparse.Namespace]:
    """The verb (`serve` by default) and its options.

    Raises:
        UsageError: for an unknown verb or option, with the nearest names, or for an invalid value.
        SystemExit: with code 0, for `--help`.
    """
    verb, rest = "serve", list(arguments)
    if rest and not rest[0].startswith("-"):
        verb, *rest = rest
    if verb.endswith(".onnx"):
        raise UsageError(f"{verb} is no verb; did you mean --model {verb}?")
    if verb not in _VERBS:
        raise UsageError(f"there is no verb {verb!r}{_did_you_mean(verb, _VERBS) or f'; there are {_listed(_VERBS)}'}")
    parser = _parser(verb)
    _require_once(rest, parser)
    try:
        options, unknown = parser.parse_known_args(rest)
    except argparse.ArgumentError as error:
        raise UsageError(f"{error.argument_name}: {error.message}" if error.argument_name else str(error)) from error
    for word in unknown:
        if word.startswith("-"):
            name = word.partition("=")[0]
            known = [option for action in parser._actions for option in action.option_strings if option[:2] == "--"]
            raise UsageError(f"{verb} has no option {name}{_did_you_mean(name, known) or '; --help lists all'}")
    if unknown:
        raise UsageError(f"{' '.join(unknown)} belongs to no option of {verb}; --help lists all")
    return verb, options


def _require_once(given: Sequence[str], parser: argparse.ArgumentParser) -> None:
    """Refuse an option that is given twice: one of the two would be ignored."""
    times = Counter(word.partition("=")[0] for word in given)
    for action in parser._actions:
        number = sum(times[option] for option in action.option_strings)
        if number > 1 and action.dest not in (*_REPEATABLE, "help"):
            raise UsageError(f"{action.option_strings[-1]} is given {number} times: give it once")


def _did_you_mean(given: str, known: Collection[str]) -> str:
    """The end of a sentence: known names that are spelled similarly, or that contain the given one."""
    names, part = {name.lstrip("-"): name for name in known}, given.lstrip("-")
    near = difflib.get_close_matches(part, names, n=_NEAR)
    near = near or [name for name in names if len(part) > 2 and part in name][:_NEAR]
    return f"; did you mean {_listed([names[name] for name in near], 'or')}?" if near else ""


def _listed(names: Sequence[str], word: str = "and") -> str:
    *others, last = names
    return f"{', '.join(others)} {word} {last}" if others else last


def _push(text: str) -> Push:
    step, colon, force = text.partition(":")
    try:
        push = Push(step=int(step), force=float(force)) if colon else None
    except ValueError:
        push = None
    if push is None or not (0 <= push.step < MAX_STEPS and abs(push.force) <= MAX_PUSH):
        raise argparse.ArgumentTypeError(
            f"takes STEP:NEWTONS, as in 100:60 (a step from 0 to {MAX_STEPS - 1}, {MAX_PUSH:g} N at most), got {text!r}"
        )
    return push


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) > MAX_SEED:
        raise argparse.ArgumentTypeError(f"a seed is a whole number from 0 to {MAX_SEED}, got {text!r}")
    return int(text)


def _episodes(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"it is a whole number from 1, got {text!r}")
    return int(text)


def _networks(text: str) -> tuple[Network, ...]:
    try:
        return networks(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _share(most: float, text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= most:
        raise argparse.ArgumentTypeError(f"a share is a number from 0 to {most:g}, got {text!r}")
    return share


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"a port is a number from 0 (any free one) to 65535, got {text!r}")
    return int(text)


def _video(text: str) -> Path:
    path = Path(text)
    if path.suffix.removeprefix(".") not in VIDEOS:
        raise argparse.ArgumentTypeError(f"should end in .mp4, .webm or .gif, got {path.name!r}")
    return path


def _parser(verb: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m serving {verb}".removesuffix(" serve"),
        description="Play a policy: `serve` in the browser (the default), `watch` in a window, `record` to a video.",
        allow_abbrev=False,
        exit_on_error=False,
    )
    parser.add_argument("--model", default=DEFAULT_MODEL, help="models:/NAME@ALIAS, models:/NAME/VERSION or FILE.onnx")
    parser.add_argument(
        "--cache-dir", type=Path, default=Path("models"), help="where fetched versions and replays are kept"
    )
    parser.add_argument(
        "--allow-env",
        action="append",
        default=[name.strip() for name in os.environ.get("SERVING_ALLOWED_ENVS", "").split(",") if name.strip()],
        metavar="ID",
        help="an environment to allow besides Gymnasium's own, imported if it is package:ID; repeatable",
    )
    if verb == "serve":
        parser.add_argument(
            "--host", default="127.0.0.1", help="address to bind; any other than loopback needs a token"
        )
        parser.add_argument("--port", type=_port, default=8000)
        parser.add_argument("--no-show", action="store_true", help="serve only inference, episodes, metrics and status")
        parser.add_argument("--token", help="bearer token for requests that change something (or SERVING_TOKEN)")
        parser.add_argument(
            "--allowed-hosts",
            default=os.environ.get("SERVING_ALLOWED_HOSTS", ""),
            help="more Host names to accept, comma-separated (or SERVING_ALLOWED_HOSTS)",
        )
        parser.add_argument(
            "--trusted-proxies",
            type=_networks,
            default=os.environ.get("SERVING_TRUSTED_PROXIES", ""),
            help="trust the X-Forwarded headers of these reverse proxies, comma-separated addresses or networks "
            "(or SERVING_TRUSTED_PROXIES)",
        )
        parser.add_argument(
            "--shadow",
            default=os.environ.get("SERVING_SHADOW", ""),
            metavar="REFERENCE",
            help="alias or number of a version that answers in the shadow of the one that plays (or SERVING_SHADOW)",
        )
        parser.add_argument(
            "--shadow-share",
            type=partial(_share, 1.0),
            default=os.environ.get("SERVING_SHADOW_SHARE", "0.1"),
            help="share of the requests that it answers in the shadow (or SERVING_SHADOW_SHARE)",
        )
        parser.add_argument(
            "--canary-share",
            type=partial(_share, MOST_CANARIES),
            default=os.environ.get("SERVING_CANARY_SHARE", "0"),
            help="share of the requests that it answers instead (or SERVING_CANARY_SHARE)",
        )
        parser.add_argument(
            "--mlflow-url",
            default=os.environ.get("SERVING_MLFLOW_URL", ""),
            help="address of MLflow for a browser, for links to runs (or SERVING_MLFLOW_URL)",
        )
        return parser
    parser.add_argument("--seed", type=_seed, default=0, help="seed of the (first) episode")
    if verb == "watch":
        parser.add_argument("--episodes", type=_episodes, help="how many (default: until the window is closed)")
    else:
        parser.add_argument("--out", type=_video, help=".mp4, .webm or .gif (default: recordings/...)")
        parser.add_argument(
            "--push", action="append", type=_push, default=[], metavar="STEP:NEWTONS", help="push the cart; repeatable"
        )
    return parser
