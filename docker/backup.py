"""`make backup` and `make restore FILE=...`: databases and artifacts of the containers as one file.

Needs nothing but Python's standard library, like stack.py. The file contains a manifest, a dump of each database and
the artifacts. It does not contain docker/.env, which has the passwords of the databases, checkpoints of unfinished
trainings, results of Prefect's tasks, and serving's cache of the registry.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Final

from archive import ARTIFACTS, extract, pack, verify
from engine import StackError, service_of
from stack import ROOT, Stack, confirmed, read_env, require_env

DIRECTORY: Final = ROOT / "backups"
PATIENCE: Final = 120
ASIDE: Final = "_before_restore"
"""Suffix of a database that a restore has set aside until it succeeds."""
UNPACK: Final = """\
set -eu; cd "$1"
if [ -d .before-restore ]; then # of a restore that was killed
    for each in .before-restore/*; do [ -e "$each" ] || continue; rm -rf "./${each##*/}"; mv "$each" .; done
fi
rm -rf .before-restore .restoring; mkdir .restoring; tar --extract --directory .restoring
"""
"""Unpacks artifacts beside the existing ones."""
SWAP: Final = """\
set -eu; cd "$1"; mkdir .before-restore
for each in [0-9]* .restoring/*; do
    name=${each##*/}
    [ -e "$name" ] && mv "$name" .before-restore/
done
for each in .restoring/*; do [ -e "$each" ] || continue; mv "$each" .; done
rmdir .restoring
"""
"""Moves them into place and sets aside existing experiments, which have numbers, and files of the same names."""
UNDO: Final = """\
set -eu; cd "$1"
if [ -d .before-restore ]; then
    for each in [0-9]*; do [ -e ".before-restore/$each" ] || rm -rf "$each"; done
    for each in .before-restore/*; do [ -e "$each" ] || continue; rm -rf "./${each##*/}"; mv "$each" .; done
fi
rm -rf .before-restore .restoring
"""
DONE: Final = 'rm -rf "$1/.before-restore"'
_WRITERS: Final = ("worker", "deploy", "serving", "mlflow", "prefect-server")
# By TCP: while an empty volume is set up, the server listens on its Unix socket only.
_LOGIN: Final = 'PGPASSWORD=$(cat /run/secrets/POSTGRES_PASSWORD) exec "$0" -h 127.0.0.1 -U postgres "$@"'
_WITH_LOGIN: Final = ("sh", "-c", _LOGIN)


def backup(stack: Stack, directory: Path = DIRECTORY) -> Path:
    """Write databases and artifacts of a running stack into a new file, which appears when it is complete.

    Databases are dumped first. An artifact is written before a database refers to it and is never changed, so that the
    file contains every artifact that a dump refers to, even of a busy stack.

    Raises:
        StackError: if the stack does not run, or a part cannot be read or written.
    """
    postgres, mlflow = running(stack, "postgres"), running(stack, "mlflow")
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"dqn-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.tar"
    with TemporaryDirectory(prefix=".", dir=directory) as temporary:
        for database in databases(postgres):
            if database.endswith(ASIDE):
                continue
            with open(Path(temporary, f"{database}.dump"), "wb") as file:
                _run("docker", "exec", postgres, *_WITH_LOGIN, "pg_dump", "--format", "custom", database, stdout=file)
        if not bucket(stack):
            with open(Path(temporary, ARTIFACTS), "wb") as file:
                # 1: a file changed while it was read, which was written after the dumps
                excluded = ("--exclude", "lost+found", "--exclude", "./.before-restore", "--exclude", "./.restoring")
                tar = ("tar", "--create", "--directory", "/artifacts", *excluded, ".")
                _run("docker", "exec", mlflow, *tar, stdout=file, accepted=(0, 1))
        partial = Path(temporary, path.name)
        pack(partial, sorted(Path(temporary).iterdir()), artifacts=bucket(stack) or ARTIFACTS)
        partial.replace(path)
    return path


def restore(stack: Stack, path: Path) -> None:
    """Replace databases and artifacts by those of a backup, and start the stack.

    Existing data is set aside until the whole backup is restored. After any failure it is put back, and the same call
    can be repeated.

    Raises:
        StackError: if the file is not a whole backup or of newer tools, before any change; or if restoring fails.
    """
    names = verify(path)
    stack.write_secrets()
    stack.check_ports()
    stack.compose("build", "--quiet")
    stack.compose("stop", *_WRITERS)
    stack.compose("up", "--detach", "postgres")
    postgres = running(stack, "postgres")
    wait_for(postgres)
    restored = [name.removesuffix(".dump") for name in names if name != ARTIFACTS]
    begun: list[str] = []
    try:
        with tarfile.open(path) as archive:
            if ARTIFACTS in names:
                print(f"restoring {ARTIFACTS}", flush=True)
                _in_volume(stack, UNPACK, extract(archive, ARTIFACTS))
            for database in restored:
                print(f"restoring {database}", flush=True)
                begun.append(database)
                _set_aside(postgres, database)
                put_back = (*_WITH_LOGIN, "pg_restore", "--create", "--exit-on-error", "--dbname", "postgres")
                content = extract(archive, f"{database}.dump")
                _run("docker", "exec", "--interactive", postgres, *put_back, stdin=content)
        if ARTIFACTS in names:
            _in_volume(stack, SWAP)
    except BaseException as error:
        error.add_note("what was there before is in its place again: `make up` starts it")
        try:
            if ARTIFACTS in names:
                _in_volume(stack, UNDO)
            for database in begun:
                _bring_back(postgres, database)
        except StackError as second:
            error.__notes__[-1] = f"what was there before is still set aside ({second}): restore again"
        raise
    for database in restored:
        _sql(postgres, f'DROP DATABASE IF EXISTS "{database}{ASIDE}" WITH (FORCE)')
    if ARTIFACTS in names:
        _in_volume(stack, DONE)
    stack.up()


def _in_volume(stack: Stack, script: str, stdin: IO[bytes] | None = None) -> None:
    """Run a shell script beside the artifacts."""
    command = stack.command("run", "--rm", "--no-deps", "-T", "mlflow", "sh", "-c", script, "sh", "/artifacts")
    _run(*command, stdin=stdin, env=stack.environment)


def _sql(postgres: str, statement: str) -> None:
    _run("docker", "exec", postgres, *_WITH_LOGIN, "psql", "-qc", statement)


def _rename(postgres: str, database: str, name: str) -> None:
    _sql(
        postgres,
        f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}'; "  # noqa: S608 # checked
        f'ALTER DATABASE "{database}" RENAME TO "{name}"',
    )


def _set_aside(postgres: str, database: str) -> None:
    """Rename a database out of the way; one that a killed restore has set aside stays the one to put back."""
    there = databases(postgres)
    if f"{database}{ASIDE}" in there:
        _sql(postgres, f'DROP DATABASE IF EXISTS "{database}" WITH (FORCE)')
    elif database in there:
        _rename(postgres, database, f"{database}{ASIDE}")


def _bring_back(postgres: str, database: str) -> None:
    if f"{database}{ASIDE}" in databases(postgres):
        _sql(postgres, f'DROP DATABASE IF EXISTS "{database}" WITH (FORCE)')
        _rename(postgres, f"{database}{ASIDE}", database)


def databases(postgres: str) -> list[str]:
    """Names of the databases that are not Postgres' own."""
    query = "SELECT datname FROM pg_database WHERE NOT datistemplate AND datname <> 'postgres' ORDER BY 1"
    answer = _run("docker", "exec", postgres, *_WITH_LOGIN, "psql", "-qtAc", query, stdout=subprocess.PIPE)
    return answer.decode().split()


def running(stack: Stack, service: str) -> str:
    """Name of a service's container.

    Raises:
        StackError: if it does not run.
    """
    for name, container in stack.containers().items():
        if service_of(container) == service and container["State"]["Running"]:
            return name
    raise StackError(f"{service} of the stack does not run: `make up` starts it")


def wait_for(postgres: str, patience: float = PATIENCE) -> None:
    """Wait until Postgres answers, which takes longer with an empty volume.

    Raises:
        StackError: if it does not.
    """
    deadline = time.monotonic() + patience
    while True:
        try:
            _run("docker", "exec", postgres, *_WITH_LOGIN, "psql", "-qc", "SELECT 1")
            return
        except StackError as error:
            if time.monotonic() > deadline:
                raise StackError(f"Postgres does not answer after {patience:.0f} s: {error}") from error
            time.sleep(0.5)


def bucket(stack: Stack) -> str | None:
    """URL of the bucket with the artifacts, or None if they are on the stack's volume."""
    variables = {**read_env(stack.env_file), **os.environ}
    destination = variables.get("MLFLOW_ARTIFACTS_DESTINATION", "")
    return destination if "://" in destination else None


def _run(
    *command: str,
    stdin: IO[bytes] | None = None,
    env: dict[str, str] | None = None,
    stdout: IO[bytes] | int = subprocess.DEVNULL,
    accepted: tuple[int, ...] = (0,),
) -> bytes:
    """Run a command with a stream as its input; returns its output if `stdout` is a pipe."""
    source = subprocess.PIPE if stdin else subprocess.DEVNULL
    with subprocess.Popen(command, stdin=source, stdout=stdout, stderr=subprocess.PIPE, env=env) as process:
        if stdin and process.stdin:
            with suppress(BrokenPipeError), process.stdin:  # it has ended early; its errors say why
                shutil.copyfileobj(stdin, process.stdin)
            process.stdin = None
        output, errors = process.communicate()
    if process.returncode not in accepted:
        reason = errors.decode(errors="replace").strip().splitlines() or [f"exit status {process.returncode}"]
        raise StackError(f"`{' '.join(command[:6])} ...` failed: {reason[-1]}")
    return output or b""


def main(arguments: list[str] | None = None) -> int:
    """Run a verb; returns the exit status."""
    parser = argparse.ArgumentParser(prog="docker/backup.py", description=__doc__)
    parser.add_argument("verb", choices=("backup", "restore"))
    parser.add_argument("file", nargs="?", default="", help="restore: the file that a backup wrote")
    parser.add_argument("--yes", action="store_true", help="restore without asking")
    options = parser.parse_args(arguments)
    try:
        require_env()
        if options.verb == "backup":
            stack = Stack()
            path = backup(stack)
            print(f"{path} holds {', '.join(verify(path))}")
            print("docker/.env is not in it and its secrets belong to the databases: keep a copy of that too")
            if where := bucket(stack):
                print(f"artifacts are in {where} and not in it: the bucket needs a backup of its own")
            return 0
        if not options.file:
            raise StackError("name the backup to restore: make restore FILE=backups/....tar")
        verify(Path(options.file))
        if options.yes or confirmed(
            f"This replaces every run, model and flow run of the stack by those of {options.file}."
        ):
            restore(Stack(), Path(options.file))
            print(f"{options.file} is restored; if this was interrupted, the same command may be given again")
    except StackError as error:
        print(error, *getattr(error, "__notes__", ()), sep="\n", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"the backup could not be written: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
