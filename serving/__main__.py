"""`python -m serving [serve | watch | record]`: runs a verb of the command line."""

import asyncio
import errno
import logging
import os
import re
import socket
import sys
from argparse import Namespace
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from dqn.environments.spec import EnvironmentUnsupportedError, registered_spec
from serving.application import App
from serving.arguments import UsageError, parse
from serving.disk import sentence, write_new
from serving.episodes.recording import to_gif, to_video
from serving.episodes.replay import record
from serving.episodes.simulation import why_no_pictures
from serving.episodes.window import NoDisplayError, watch
from serving.errors import RecordingError, RegistryUnavailableError, UnknownModelError
from serving.inference.shadow import Shadow
from serving.logs import configure_logging
from serving.models.advice import how_to_train
from serving.models.cache import Cache
from serving.models.follower import Models
from serving.models.glance import glance
from serving.models.mlflow import RegistrySource
from serving.models.served import ServedModel
from serving.models.source import FileSource, ModelSource, ModelURI, no_model
from serving.web.security import LOOPBACK
from serving.web.server import Server


def main(arguments: list[str] | None = None) -> int:
    """Run a verb; returns the exit status."""
    for name, value in (("MAX_RETRIES", "2"), ("BACKOFF_FACTOR", "1"), ("TIMEOUT", "5")):
        # MLflow's defaults let a call to a dead registry block for minutes; it reads these variables at its first use
        os.environ.setdefault(f"MLFLOW_HTTP_REQUEST_{name}", value)
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # standard error holds log lines in JSON
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        verb, options = parse(arguments)
        require_environments(options.allow_env)
        source, uri, cache = _source(options.model, options.cache_dir)
        if verb == "serve":
            return serve(source, uri, cache, options)
        if cache:
            require_registered(uri, cache)
        served = resolve(source, uri, cache, frozenset(options.allow_env))
        sys.stdout.write(f"{served.name} version {served.version.number}\n")
        if verb == "watch":
            watch(served.policy, seed=options.seed, episodes=options.episodes)
            return 0
        return _record(served, options)
    except KeyboardInterrupt:
        return 130
    except UsageError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except (ValueError, UnknownModelError, RegistryUnavailableError, RecordingError, NoDisplayError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except OSError as error:
        sys.stderr.write(f"error: {sentence(error)}\n")
        return 1


def run() -> NoReturn:
    """Run a verb and end the process without waiting for threads that hang."""
    try:
        status = main()
    except SystemExit as asked:  # by --help
        status = int(asked.code or 0)
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError as error:  # a full disk behind a redirection, or a closed pipe
        status = status or 1
        with suppress(OSError):
            os.write(2, f"error: {sentence(error)}\n".encode())
    os._exit(status)


def serve(source: ModelSource, uri: ModelURI, cache: Cache | None, options: Namespace) -> int:
    """Serve until a signal stops the process."""
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
    if options.shadow and isinstance(source, FileSource):
        raise ValueError("--shadow names a version of a registry, and --model names a file: leave out one of the two")
    if options.canary_share and not options.shadow:
        raise ValueError("--canary-share is of the requests that --shadow answers: name an alias or a number with it")
    shadow = None
    if options.shadow:
        shadow = Shadow(models, options.shadow, share=options.shadow_share, canary_share=options.canary_share)
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    try:
        listener = socket.create_server((options.host, options.port), family=family, backlog=2048)
    except OSError as error:
        reason = (error.strerror or str(error)).partition(" (while")[0]
        instead = "another --port" if error.errno in (errno.EADDRINUSE, errno.EACCES) else "an address of this machine"
        raise ValueError(f"cannot listen on {options.host} port {options.port}: {reason}; try {instead}") from error
    shown = "127.0.0.1" if options.host in ("0.0.0.0", "::") else options.host  # noqa: S104 -- compared, not bound
    url = f"http://{f'[{shown}]' if ':' in shown else shown}:{listener.getsockname()[1]}"
    app = App(
        models,
        token=token,
        hosts=(options.host, *hosts),
        webhook_secret=os.environ.get("SERVING_WEBHOOK_SECRET") or None,
        mlflow_url=options.mlflow_url,
        show=not options.no_show,
        shadow=shadow,
        prefect_url=os.environ.get("PREFECT_API_URL", ""),
        prefect_auth=os.environ.get("PREFECT_API_AUTH_STRING", ""),
        serving_url=os.environ.get("SERVING_URL") or url,
        replays=(cache.folder if cache else options.cache_dir / source.name) / "replays",
    )
    server, refused = Server(app, url, proxies=options.trusted_proxies), list[str]()

    def stop_if_nothing_plays() -> None:
        if models.current is None:
            refused.append(f"{options.model}: {models.notice}")
            server.should_exit = True

    if isinstance(source, FileSource):  # in a registry another version may come, a file stays as it is
        models.listeners.append(stop_if_nothing_plays)
    server.run(sockets=[listener])
    if refused:
        raise UnknownModelError(refused[0])
    return 0


def require_environments(env_ids: Sequence[str]) -> None:
    """Import the modules of the allowed environments, and refuse ids that they do not register.

    Raises:
        UsageError: with the environment and the reason.
    """
    here = os.getcwd()
    if env_ids and not {"", here} & set(sys.path):
        sys.path.append(here)  # a console script does not search the current directory, as `python -m` does
    for env_id in sorted(env_ids, key=lambda env_id: ":" not in env_id):  # a module may register several ids
        try:
            registered_spec(env_id)  # its time limit may be the model's
        except EnvironmentUnsupportedError as error:
            raise UsageError(f"--allow-env: {error}") from error
        except (Exception, SystemExit) as error:  # importing a module runs its code
            raise UsageError(
                f"--allow-env: the module of {env_id!r} cannot be imported ({type(error).__name__}: {error})"
            ) from error


def require_registered(uri: ModelURI, cache: Cache) -> None:
    """Refuse a version that is not in the local registry and has not played here before.

    Raises:
        UnknownModelError: with the versions that exist.
    """
    reference = uri.version or uri.alias or ""
    known = glance(uri.name)
    if known is None or known.holds(reference) or cache.played(reference):
        return
    if uri.name not in known.models:
        raise UnknownModelError(f"{no_model(uri.name, known.models)}: {how_to_train(uri.name)}")
    wanted = f"version {reference}" if uri.version else f"alias '{reference}'"
    there = ", ".join((*known.versions, *(f"@{alias}" for alias in known.aliases)))
    raise UnknownModelError(
        f"model {uri.name} has no {wanted}{f' but {there}' if there else ''}; name another one with --model, or "
        f"{how_to_train(uri.name)}"
    )


def resolve(source: ModelSource, uri: ModelURI, cache: Cache | None, environments: frozenset[str]) -> ServedModel:
    """The version that a URI names: from the registry, or the one that played last if the registry does not answer."""
    models = Models(source, alias=uri.alias, version=uri.version, cache=cache, environments=environments)
    logging.getLogger("serving").addHandler(logging.NullHandler())  # the notice below says the same

    async def find() -> ServedModel:
        await models.poll()
        if models.current is None:
            await models.restore()
        if models.current is None:
            raise UnknownModelError(models.notice)
        return models.current

    served = asyncio.run(find())
    for notice in filter(None, (models.notice, models.loader.disk_notice)):
        sys.stderr.write(f"{notice}\n")
    return served


def _record(served: ServedModel, options: Namespace) -> int:
    if why := why_no_pictures(served.policy.metadata.environment):
        raise RecordingError(why)
    replay = record(
        served.policy,
        model=served.name,
        version=served.version.number,
        seed=options.seed,
        pushes=options.push,
    )
    path: Path = options.out or Path(
        "recordings", f"{replay.model}-v{replay.version}-seed{replay.seed}-{replay.id}.mp4"
    )
    kind = path.suffix.removeprefix(".")
    try:
        content = to_gif(replay) if kind == "gif" else to_video(replay, kind)
    except RecordingError as error:
        if options.out:
            raise
        sys.stderr.write(f"{error}; writing a gif\n")
        path, content = path.with_suffix(".gif"), to_gif(replay)
    write_new(path, content)
    sys.stdout.write(f"seed {replay.seed}: return {replay.episodic_return:g}\n{path}\n")
    return 0


def _source(model: str, cache_dir: Path) -> tuple[ModelSource, ModelURI, Cache | None]:
    if re.match(r"(?!models:)[A-Za-z][\w+.-]*:/", model):
        raise ValueError(
            f"--model takes models:/NAME@ALIAS, models:/NAME/VERSION or a .onnx file of this machine, got {model!r}: "
            "download it and name the file"
        )
    if model.endswith(".onnx"):
        source = FileSource(Path(model))
        return source, ModelURI(name=source.name, version="1"), None
    uri = ModelURI.parse(model)
    return RegistrySource(uri.name), uri, Cache(cache_dir, uri.name)


if __name__ == "__main__":
    run()
