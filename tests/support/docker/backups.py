"""A stack with a script in place of its containers, which writes down what it is asked."""

import json
import os
from pathlib import Path

import backup as module
import pytest
from stack import Stack, write_env

# Stands in for the Docker client: writes down what is asked, and fails where FAIL is part of it.
DOCKER = """#!/bin/sh
given=
case "$*" in *--interactive*|*" run "*) given=$(cat) ;; esac
printf '%s\\t%s\\n' "$(echo "$*" | tr '\\n' ' ')" "$given" >>"$ASKED"
if [ "$FAIL" ]; then case "$*" in *"$FAIL"*) echo "it is broken" >&2; exit 1 ;; esac; fi
case "$*" in
*" run "*" sh -c "*)
    while [ "$1" != -c ]; do shift; done
    if [ -f "$ARCHIVE" ]; then sh -c "$2" sh "$VOLUME" <"$ARCHIVE" || exit 1; fi ;;
*RENAME*) # from the first to the second, in the list of databases
    from=${*#*ALTER DATABASE }; to=${from#* RENAME TO }; from=${from%% *}
    sed -i "s/^$(echo "$from" | tr -d '"')$/$(echo "$to" | tr -d '"')/" "$DATABASES" ;;
*"DROP DATABASE"*) gone=${*#*EXISTS }; gone=${gone%% *}; sed -i "/^$(echo "$gone" | tr -d '"')$/d" "$DATABASES" ;;
*pg_restore*) echo "${given#dump of }" >>"$DATABASES" ;;
esac
case "$*" in
ps*) echo 1 2 ;;
inspect*) echo "$CONTAINERS" ;;
*"SELECT datname"*) cat "$DATABASES" ;;
*pg_dump*) for last; do :; done; printf 'dump of %s' "$last" ;;
exec*" tar "*) printf artifacts; exit 1 ;; # as GNU tar where a file changed meanwhile
esac
"""


def containers(*, running: bool) -> str:
    state = {"Running": running, "Status": "running", "Health": {"Status": "healthy"}}
    return json.dumps(
        [
            {
                "Name": f"/dqn-{service}",
                "State": state,
                "RestartCount": 0,
                "Config": {"Labels": {"com.docker.compose.service": service}},
            }
            for service in ("postgres", "mlflow")
        ]
    )


@pytest.fixture
def stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stack:
    (tmp_path / "bin").mkdir()
    docker = tmp_path / "bin" / "docker"
    docker.write_text(DOCKER)
    docker.chmod(0o700)
    monkeypatch.setenv("PATH", f"{docker.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("ASKED", str(tmp_path / "asked"))
    monkeypatch.setenv("CONTAINERS", containers(running=True))
    (tmp_path / "databases").write_text("mlflow\nprefect\n")
    monkeypatch.setenv("DATABASES", str(tmp_path / "databases"))
    monkeypatch.setenv("VOLUME", str(tmp_path / "volume"))
    monkeypatch.setenv("ARCHIVE", str(tmp_path / "archive.tar"))
    monkeypatch.setattr("stack.Stack.check_ports", lambda self: None)
    monkeypatch.setattr("stack.ENV_FILE", Path(module.__file__).with_name(".env"))
    write_env(tmp_path / "env")
    return Stack("dqn", tmp_path / "env")


def asked(tmp_path: Path) -> list[tuple[str, str]]:
    lines = (tmp_path / "asked").read_text().splitlines()
    return [(what.strip(), given) for what, _, given in (line.partition("\t") for line in lines)]
