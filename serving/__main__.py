"""`python -m serving [serve | watch | record]`: arguments and wiring."""

import argparse
import asyncio
import logging
import os
import socket
import sys
from pathlib import Path
from typing import Final

from serving.decoding import fit
from serving.episodes.physics import Push, Seed
from serving.episodes.recording import RecordingError, to_gif, to_video
from serving.episodes.replay import record
from serving.episodes.window import NoDisplayError, watch
from serving.models.cache import Cache
from serving.models.follower import Models
from serving.models.registry import (
    FileSource,
    ModelSource,
    ModelURI,
    RegistrySource,
    RegistryUnavailableError,
    UnknownModelError,
)
from serving.models.served import ServedModel
from serving.web.application import App
from serving.web.metrics import configure_logging
from serving.web.security import LOOPBACK
from serving.web.server import Server

DEFAULT_MODEL: Final = "models:/dqn-CartPole-v1@champion"
_VERBS: Final = ("serve", "watch", "record")


def main(arguments: list[str] | None = None) -> int:
    """Run a verb; returns the exit status."""
    for name, value in (("MAX_RETRIES", "2"), ("BACKOFF_FACTOR", "1"), ("TIMEOUT", "5")):
        # MLflow's own defaults let a dead registry block a call for minutes; it reads these when it is first used
        os.environ.setdefault(f"MLFLOW_HTTP_REQUEST_{name}", value)
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # its place is among log lines of JSON
    arguments = sys.argv[1:] if arguments is None else arguments
    verb = "serve"
    if arguments and not arguments[0].startswith("-"):
        verb, *arguments = arguments
    options = _parser(verb).parse_args(arguments)
    try:
        source, uri, cache = _source(options.model, options.cache_dir)
        if verb == "serve":
            return serve(source, uri, cache, options)
        served = resolve(source, uri, cache, frozenset(options.allow_env))
        sys.stdout.write(f"{served.name} version {served.version.number}\n")
        if verb == "watch":
            watch(served.policy, seed=options.seed, episodes=options.episodes)
            return 0
        return _record(served, options)
    except KeyboardInterrupt:
        return 130
    except (ValueError, UnknownModelError, RegistryUnavailableError, RecordingError, NoDisplayError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1


def serve(source: ModelSource, uri: ModelURI, cache: Cache | None, options: argparse.Namespace) -> int:
    """Serve until told to stop."""
    token = options.token or os.environ.get("SERVING_TOKEN") or None
    local = options.host in (*LOOPBACK, "::1")
    if not local and token is None:
        raise ValueError(
            f"--host {options.host} opens the server to other machines: give it a --token (or SERVING_TOKEN) too"
        )
    hosts = [host.strip() for host in options.allowed_hosts.split(",") if host.strip()]
    configure_logging()
    models = Models(
        source, alias=uri.alias, version=uri.version, cache=cache, environments=frozenset(options.allow_env)
    )
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    try:
        listener = socket.create_server((options.host, options.port), family=family, backlog=2048)
    except OSError as error:
        raise ValueError(
            f"cannot listen on {options.host} port {options.port}: {error.strerror}; try --port"
        ) from error
    shown = "127.0.0.1" if options.host in ("0.0.0.0", "::") else options.host  # noqa: S104 -- compared, not bound
    url = f"http://{f'[{shown}]' if ':' in shown else shown}:{listener.getsockname()[1]}"
    app = App(
        models,
        token=token,
        hosts=(options.host, *hosts),
        webhook_secret=os.environ.get("SERVING_WEBHOOK_SECRET") or None,
        mlflow_url=options.mlflow_url,
        show=not options.no_show,
        prefect_url=os.environ.get("PREFECT_API_URL", ""),
        prefect_auth=os.environ.get("PREFECT_API_AUTH_STRING", ""),
        serving_url=os.environ.get("SERVING_URL") or url,
    )
    Server(app, url).run(sockets=[listener])
    return 0


def resolve(source: ModelSource, uri: ModelURI, cache: Cache | None, environments: frozenset[str]) -> ServedModel:
    """The version a URI names, from the registry or, if that does not answer, the one that played last."""
    models = Models(source, alias=uri.alias, version=uri.version, cache=cache, environments=environments)
    logging.getLogger("serving").addHandler(logging.NullHandler())  # the notice, below, says what it would

    async def find() -> ServedModel:
        await models.poll()
        if models.current is None:
            await models.restore()
        if models.current is None:
            raise UnknownModelError(models.notice)
        return models.current

    served = asyncio.run(find())
    if models.notice:
        sys.stderr.write(f"{models.notice}\n")
    return served


def _record(served: ServedModel, options: argparse.Namespace) -> int:
    pushes = [_push(text) for text in options.push]
    replay = record(
        served.policy,
        model=served.name,
        version=served.version.number,
        seed=options.seed,
        pushes=pushes,
    )
    path: Path = options.out or Path(
        "recordings", f"{replay.model}-v{replay.version}-seed{replay.seed}-{replay.id}.mp4"
    )
    kind = path.suffix.removeprefix(".")
    if kind not in ("mp4", "webm", "gif"):
        raise ValueError(f"--out should end in .mp4, .webm or .gif, got {path.name!r}")
    try:
        content = to_gif(replay) if kind == "gif" else to_video(replay, kind)
    except RecordingError as error:
        if options.out:
            raise
        sys.stderr.write(f"{error}; writing a gif\n")
        path, content = path.with_suffix(".gif"), to_gif(replay)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    sys.stdout.write(f"seed {replay.seed}: return {replay.episodic_return:g}\n{path}\n")
    return 0


def _source(model: str, cache_dir: Path) -> tuple[ModelSource, ModelURI, Cache | None]:
    if model.endswith(".onnx"):
        source = FileSource(Path(model))
        return source, ModelURI(name=source.name, version="1"), None
    uri = ModelURI.parse(model)
    return RegistrySource(uri.name), uri, Cache(cache_dir, uri.name)


def _push(text: str) -> Push:
    step, _, force = text.partition(":")
    try:
        return fit({"step": step, "force": force}, Push)
    except ValueError as error:
        raise ValueError(f"--push takes STEP:NEWTONS, as in 100:60, got {text!r} ({error})") from error


def _seed(text: str) -> int:
    try:
        return fit(text, Seed)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"a port is a number from 0 (any free one) to 65535, got {text!r}")
    return int(text)


def _parser(verb: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m serving {verb}".removesuffix(" serve"),
        description="Play a policy: `serve` in the browser (the default), `watch` in a window, `record` to a video.",
    )
    if verb not in _VERBS:
        parser.error(f"there is no verb {verb!r}; there are {', '.join(_VERBS)}")
    parser.add_argument("--model", default=DEFAULT_MODEL, help="models:/NAME@ALIAS, models:/NAME/VERSION or FILE.onnx")
    parser.add_argument("--cache-dir", type=Path, default=Path("models"), help="where fetched versions are kept")
    parser.add_argument(
        "--allow-env",
        action="append",
        default=[name for name in os.environ.get("SERVING_ALLOWED_ENVS", "").split(",") if name],
        metavar="ID",
        help="an environment to admit beside Gymnasium's own, imported if it is package:ID; repeatable",
    )
    if verb == "serve":
        parser.add_argument("--host", default="127.0.0.1", help="address to bind; others than loopback need a token")
        parser.add_argument("--port", type=_port, default=8000)
        parser.add_argument("--no-show", action="store_true", help="inference, episodes, metrics and status alone")
        parser.add_argument("--token", help="bearer token for what changes things (or SERVING_TOKEN)")
        parser.add_argument(
            "--allowed-hosts",
            default=os.environ.get("SERVING_ALLOWED_HOSTS", ""),
            help="further Host names to answer to, comma-separated (or SERVING_ALLOWED_HOSTS)",
        )
        parser.add_argument(
            "--mlflow-url",
            default=os.environ.get("SERVING_MLFLOW_URL", ""),
            help="where a browser finds MLflow, for links to runs (or SERVING_MLFLOW_URL)",
        )
        return parser
    parser.add_argument("--seed", type=_seed, default=0, help="seed of the (first) episode")
    if verb == "watch":
        parser.add_argument("--episodes", type=int, help="how many (default: until the window is closed)")
    else:
        parser.add_argument("--out", type=Path, help=".mp4, .webm or .gif (default: recordings/...)")
        parser.add_argument(
            "--push", action="append", default=[], metavar="STEP:NEWTONS", help="push the cart; repeatable"
        )
    return parser


if __name__ == "__main__":
    sys.exit(main())
