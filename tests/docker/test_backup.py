import hashlib
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import backup as module
import pytest
from archive import ARTIFACTS, MANIFEST, verify, versions
from backup import backup, main, restore
from engine import StackError
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


def changing(text: str, tmp_path: Path) -> list[tuple[str, str]]:
    """What was asked that changes something, and what was given with it."""
    verbs = ("stop", "up ", "DROP", "RENAME", "pg_restore", "run ")
    return [(what, given) for what, given in asked(tmp_path) if any(verb in what for verb in verbs)]


def test_a_backup_holds_the_databases_and_then_the_artifacts(stack: Stack, tmp_path: Path) -> None:
    path = backup(stack, tmp_path / "backups")
    assert verify(path) == [ARTIFACTS, "mlflow.dump", "prefect.dump"]
    assert list(path.parent.iterdir()) == [path]
    assert path.stat().st_mode & 0o777 == 0o600
    with tarfile.open(path) as archive:
        contents = {name: file.read() for name in archive.getnames() if (file := archive.extractfile(name))}
    assert contents["mlflow.dump"] == b"dump of mlflow"
    assert contents["prefect.dump"] == b"dump of prefect"
    assert contents[ARTIFACTS] == b"artifacts"
    order = [what for what, _ in asked(tmp_path) if "pg_dump" in what or " tar " in what]
    assert [" tar " in what for what in order] == [False, False, True]


@pytest.mark.parametrize("broken", ["pg_dump", "SELECT datname"])
def test_a_backup_that_fails_leaves_nothing(
    broken: str, stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAIL", broken)
    with pytest.raises(StackError, match="failed: it is broken"):
        backup(stack, tmp_path / "backups")
    assert list((tmp_path / "backups").iterdir()) == []


def test_a_stack_that_does_not_run_has_no_backup(stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONTAINERS", containers(running=False))
    with pytest.raises(StackError, match="postgres of the stack does not run: `make up` starts it"):
        backup(stack, tmp_path / "backups")
    assert not (tmp_path / "backups").exists()


def test_artifacts_in_a_bucket_stay_there(stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ARTIFACTS_DESTINATION", "s3://bucket/prefix")
    path = backup(stack, tmp_path / "backups")
    assert verify(path) == ["mlflow.dump", "prefect.dump"]
    with tarfile.open(path) as archive:
        manifest = archive.extractfile(MANIFEST)
        assert manifest is not None
        assert json.load(manifest)["artifacts"] == "s3://bucket/prefix"
    restore(stack, path)
    assert not any(" run " in what for what, _ in asked(tmp_path))


def test_a_restore_replaces_all_with_the_writers_stopped(stack: Stack, tmp_path: Path) -> None:
    path = backup(stack, tmp_path / "backups")
    (tmp_path / "asked").unlink()
    restore(stack, path)
    done = changing("", tmp_path)
    assert "stop worker deploy serving mlflow prefect-server" in done[0][0]
    assert "up --detach postgres" in done[1][0]
    assert [given for _, given in done if given] == ["artifacts", "dump of mlflow", "dump of prefect"]
    assert "--create --exit-on-error" in done[4][0]
    assert done[-1][0].endswith("up --detach")
    assert (tmp_path / "databases").read_text().split() == ["mlflow", "prefect"]


@pytest.mark.parametrize("broken", ["RENAME", "pg_restore", "tar --extract", "rmdir"])
def test_a_restore_that_fails_says_so_and_starts_nothing(
    broken: str, stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = backup(stack, tmp_path / "backups")
    monkeypatch.setenv("FAIL", broken)
    with pytest.raises(StackError, match="failed: it is broken"):
        restore(stack, path)
    assert not asked(tmp_path)[-1][0].endswith("up --detach")


def tree(directory: Path) -> dict[str, str]:
    return {str(path.relative_to(directory)): path.read_text() for path in directory.rglob("*") if path.is_file()}


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """A volume of artifacts in which others have files too, and the artifacts of a backup."""
    volume, content = tmp_path / "volume", tmp_path / "content"
    old = {"1/run/a": "old", "2/run/b": "old", "lost+found/inode": "foreign", ".snapshot/s": "foreign", "note": "f"}
    for directory, files in ((volume, old), (content, {"1/run/a": "new", "3/run/c": "new"})):
        for name, text in files.items():
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            (directory / name).write_text(text)
    with tarfile.open(tmp_path / "archive.tar", "w") as archive:
        archive.add(content, ".")
    return volume


def test_a_restore_leaves_foreign_files_alone(stack: Stack, tmp_path: Path, volume: Path) -> None:
    foreign = {name: text for name, text in tree(volume).items() if not name[0].isdigit()}
    restore(stack, backup(stack, tmp_path / "backups"))
    assert tree(volume) == {"1/run/a": "new", "3/run/c": "new", **foreign}
    assert sorted(path.name for path in volume.iterdir()) == [".snapshot", "1", "3", "lost+found", "note"]


@pytest.mark.parametrize("broken", ["RENAME", "pg_restore", "tar --extract", "rmdir .restoring", ""])
def test_a_restore_that_fails_leaves_what_was_there(
    broken: str, stack: Stack, tmp_path: Path, volume: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tree(volume)
    path = backup(stack, tmp_path / "backups")
    archive = tmp_path / "archive.tar"
    whole = archive.read_bytes()
    if broken:
        monkeypatch.setenv("FAIL", broken)
    else:  # unpacking fails half-way, by itself
        archive.write_bytes(whole[:2_048] + b"x" * 2_048)
    with pytest.raises(StackError) as failed:
        restore(stack, path)
    assert failed.value.__notes__ == ["what was there before is in its place again: `make up` starts it"]
    assert tree(volume) == before
    assert sorted((tmp_path / "databases").read_text().split()) == ["mlflow", "prefect"]
    monkeypatch.setenv("FAIL", "")
    archive.write_bytes(whole)
    restore(stack, path)
    assert tree(volume)["1/run/a"] == "new"
    assert sorted((tmp_path / "databases").read_text().split()) == ["mlflow", "prefect"]


def test_what_a_killed_restore_has_set_aside_is_what_was_there(
    stack: Stack, tmp_path: Path, volume: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tree(volume)
    path = backup(stack, tmp_path / "backups")
    (tmp_path / "databases").write_text("mlflow\nmlflow_before_restore\nprefect\n")
    (volume / ".before-restore").mkdir()
    (volume / "1").rename(volume / ".before-restore" / "1")
    monkeypatch.setenv("FAIL", "pg_restore")
    with pytest.raises(StackError):
        restore(stack, path)
    assert sorted((tmp_path / "databases").read_text().split()) == ["mlflow", "prefect"]
    assert tree(volume) == before


@pytest.mark.parametrize("tool", ["mlflow", "prefect", "postgres"])
def test_a_backup_of_newer_tools_is_refused_and_one_of_older_tools_is_not(
    tool: str, stack: Stack, tmp_path: Path
) -> None:
    here = versions()
    assert all(here[name] for name in ("mlflow", "prefect", "postgres"))
    path = backup(stack, tmp_path / "backups")
    rewritten(path, manifest_with(versions={**here, tool: "999.1"}, git_commit="abc"))
    (tmp_path / "asked").unlink()
    with pytest.raises(StackError, match=rf"written by {tool} 999\.1 at commit abc, and this checkout has {tool} \d"):
        restore(stack, path)
    assert not (tmp_path / "asked").exists()
    for known in ({**here, tool: "1.0"}, {}):
        rewritten(path, manifest_with(versions=known))
        assert verify(path)


def rewritten(path: Path, change: Callable[[dict[str, bytes]], None]) -> None:
    with tarfile.open(path) as archive:
        contents = {name: file.read() for name in archive.getnames() if (file := archive.extractfile(name))}
    change(contents)
    with tarfile.open(path, "w") as archive:
        for name, content in contents.items():
            part = path.parent / "part"
            part.write_bytes(content)
            archive.add(part, name)


def manifest_with(**values: object) -> Callable[[dict[str, bytes]], None]:
    def change(contents: dict[str, bytes]) -> None:
        contents[MANIFEST] = json.dumps({**json.loads(contents[MANIFEST]), **values}).encode()

    return change


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda contents: contents.update({"mlflow.dump": b"other"}), "mlflow.dump in .* is damaged"),
        (lambda contents: contents.pop("mlflow.dump"), "its manifest lists artifacts.tar, mlflow.dump"),
        (lambda contents: contents.update({"../../evil.dump": b"x"}), "evil.dump and its manifest lists"),
        (manifest_with(format=2), "has format 2 and this version reads 1"),
        (manifest_with(sha256={"../x": "0"}), "its manifest lists ../x"),
        (manifest_with(sha256=7), "is no whole backup"),
        (manifest_with(versions=7), "is no whole backup"),
        (manifest_with(versions={"mlflow": 7}), "is no whole backup"),
        (lambda contents: contents.update({MANIFEST: b"{"}), "is no whole backup"),
        (lambda contents: contents.pop(MANIFEST), "is no backup: its first entry is not manifest.json"),
    ],
)
def test_what_is_no_whole_backup_is_refused_before_anything_is_touched(
    change: Callable[[dict[str, bytes]], None], sentence: str, stack: Stack, tmp_path: Path
) -> None:
    path = backup(stack, tmp_path / "backups")
    rewritten(path, change)
    (tmp_path / "asked").unlink()
    with pytest.raises(StackError, match=sentence):
        restore(stack, path)
    assert not (tmp_path / "asked").exists()


def test_a_name_that_leaves_the_directory_is_refused_though_it_is_listed(stack: Stack, tmp_path: Path) -> None:
    path = backup(stack, tmp_path / "backups")

    def change(contents: dict[str, bytes]) -> None:
        contents["../evil.dump"] = b"x"
        digests = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items() if name != MANIFEST}
        manifest_with(sha256=digests)(contents)

    rewritten(path, change)
    with pytest.raises(StackError, match="evil"):
        verify(path)


def test_a_torn_or_missing_file_is_refused(stack: Stack, tmp_path: Path) -> None:
    path = backup(stack, tmp_path / "backups")
    whole = path.read_bytes()
    for length in (0, 100, 700, 1600, 3000):
        path.write_bytes(whole[:length])
        with pytest.raises(StackError):
            verify(path)
    with pytest.raises(StackError, match=r"cannot be read \(No such file"):
        verify(tmp_path / "none.tar")
    with pytest.raises(StackError, match="cannot be read"):
        verify(tmp_path)


def test_nothing_is_replaced_unasked(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = backup(stack, tmp_path / "backups")
    monkeypatch.setattr("stack.ENV_FILE", stack.env_file)
    (tmp_path / "asked").unlink()
    assert main(["restore", str(path)]) == 1
    assert "Add --yes to mean it" in capsys.readouterr().err
    assert main(["restore"]) == 1
    assert "make restore FILE=" in capsys.readouterr().err
    assert not (tmp_path / "asked").exists()
